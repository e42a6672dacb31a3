"""The files of `examples/deploy/` and the page about them: they parse, and what they name is there."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from byte_vocabulary import write_vocabulary
from engine import SIZES, weights

import ggufpy
from ggufpy import quants
from ggufpy.commands import serve
from ggufpy.generate.loading import LoadOptions

pytest.importorskip("uvicorn")

TOP = Path(__file__).resolve().parent.parent
FOLDER = TOP / "examples" / "deploy"
PAGE = (TOP / "spec" / "deploy.md").read_text("utf-8")
INSTRUCTIONS = {
    "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT",
    "CMD",
}  # fmt: skip
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]+|-(?:np|ctk|ctv|[bct]))(?![\w-])")


def read(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(exit_on_error=False)
    serve.add_arguments(made)
    return made


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, with lines that go on joined."""
    lines = "\n".join(line for line in read("Containerfile").splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]


def unit() -> configparser.ConfigParser:
    made = configparser.ConfigParser(strict=False, interpolation=None)
    made.optionxform = str  # type: ignore[assignment, method-assign]
    made.read_string(read("ggufpy.service"))
    return made


def compose() -> Any:
    return yaml.safe_load(read("compose.yaml"))


# -- flags --


def test_the_containers_command_lines_are_taken() -> None:
    lines = dict(instructions())
    entry, usual = json.loads(lines["ENTRYPOINT"]), json.loads(lines["CMD"])
    assert entry[:2] == ["ggufpy", "serve"]
    for more in (usual, compose()["services"]["ggufpy"]["command"]):
        args = parser().parse_args([*entry[2:], *more])
        assert (args.host, args.port) == ("0.0.0.0", 8080)
        assert args.api_key_file == ["/run/secrets/ggufpy_keys"]


def test_the_services_command_line_is_taken() -> None:
    service = unit()["Service"]
    args = parser().parse_args(service["ExecStart"].split()[2:])
    assert args.host == "127.0.0.1"
    assert args.api_key_file == ["${CREDENTIALS_DIRECTORY}/keys"]
    assert service["LoadCredential"].startswith("keys:")


def test_every_flag_that_is_named_is_one() -> None:
    known = {name for action in parser()._actions for name in action.option_strings}
    spoken = [code for code in re.findall(r"```(.*?)```|`([^`]+)`", PAGE, re.DOTALL) for code in code if code]
    lines = [code for code in spoken if "podman" not in code and "pip install" not in code.split("ggufpy serve")[0]]
    lines += [
        line for line in read("Caddyfile").splitlines() + read("nginx.conf").splitlines() if "ggufpy serve" in line
    ]
    lines += [code.split("ggufpy serve")[1] for code in spoken if "ggufpy serve" in code]
    named = {flag for line in lines for flag in FLAG.findall(line)}
    assert {"--api-key-file", "--allowed-host", "--max-body", "--timeout", "-np", "-c"} <= named
    assert named <= known, named - known


def test_the_page_has_the_defaults() -> None:
    args = {action.option_strings[-1]: action.default for action in parser()._actions if action.option_strings}
    rows = dict(re.findall(r"^\| `(--[a-z-]+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    for flag, said in rows.items():
        action = next(action for action in parser()._actions if flag in action.option_strings)
        number = re.search(r"default: ([\d.]+)", action.help or "")
        if number and "%" not in said:
            shown = float(said.split()[0].replace(",", "")) * (1 << 20 if "MiB" in said else 1)
            assert shown == float(number[1]), flag
    assert len(rows) == 7
    assert args


# -- times --


def test_whoever_ends_the_server_waits_for_its_answers() -> None:
    from ggufpy.server.pool import ENDING
    from ggufpy.server.run import DRAIN, KEEP_ALIVE
    from ggufpy.server.settings import ServerOptions

    wait = DRAIN + ENDING
    assert int(unit()["Service"]["TimeoutStopSec"]) > wait
    assert int(compose()["services"]["ggufpy"]["stop_grace_period"].rstrip("s")) > wait
    assert f"answers at work have {DRAIN} seconds, fetches {ENDING:g}" in PAGE
    for name, told in (("nginx.conf", r"keepalive_timeout (\d+)s"), ("Caddyfile", r"keepalive (\d+)s")):
        (seconds,) = re.findall(told, read(name))
        assert int(seconds) < KEEP_ALIVE
    assert all(
        int(s) >= ServerOptions().timeout for s in re.findall(r"proxy_(?:read|send)_timeout (\d+)s", read("nginx.conf"))
    )
    (minutes,) = re.findall(r"response_header_timeout (\d+)m", read("Caddyfile"))
    assert int(minutes) * 60 >= ServerOptions().timeout


def test_proxies_take_bodies_as_large_as_the_server() -> None:
    from ggufpy.server.settings import ServerOptions

    assert ServerOptions().body_limit == 32 << 20
    assert "client_max_body_size 32m;" in read("nginx.conf")
    assert "max_size 32MiB" in read("Caddyfile")


# -- files --


def test_the_image_is_made_of_what_is_there() -> None:
    known = instructions()
    assert {name for name, _ in known} <= INSTRUCTIONS
    assert known[0][0] == "FROM"
    copied = [rest.split() for name, rest in known if name == "COPY" and not rest.startswith("--from")]
    assert copied
    assert all((TOP / source).exists() for words in copied for source in words[:-1])
    users = [rest for name, rest in known if name == "USER"]
    assert users == ["10001:10001"]
    assert dict(known)["STOPSIGNAL"] == "SIGTERM"


def test_the_health_check_asks_for_what_is_there() -> None:
    from ggufpy.server.routes import all_routes

    check = dict(instructions())["HEALTHCHECK"]
    words = json.loads(check[check.index("[") :])
    compile(words[2], "HEALTHCHECK", "exec")
    path = re.findall(r"http://127\.0\.0\.1:8080(/\w+)", words[2])
    routes = {route.path: route for route in all_routes()}
    assert routes[path[0]].open


def test_services_know_their_secrets_and_volumes() -> None:
    given = compose()
    for service in given["services"].values():
        assert set(service.get("secrets", [])) <= set(given["secrets"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith("./") or source in given["volumes"]
    assert (FOLDER / given["services"]["ggufpy"]["build"]["context"] / "pyproject.toml").is_file()
    scraped = yaml.safe_load(read("prometheus.yml"))["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == ["ggufpy:8080"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    path = tmp_path / "ggufpy.service"
    path.write_text(read("ggufpy.service").replace("/opt/ggufpy/bin/ggufpy", sys.executable), "utf-8")
    found = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60)
    about = [line for line in found.stderr.splitlines() if "ggufpy.service" in line]
    assert not about


def test_the_table_has_every_file() -> None:
    rows = re.findall(r"^\| `.*?\|", PAGE.split("## In short")[0], re.MULTILINE)
    listed = set(re.findall(r"`([\w.-]+)`", "".join(rows)))
    assert {path.name for path in FOLDER.iterdir() if not path.name.startswith("_")} == listed


def test_the_metrics_that_are_named_are_there() -> None:
    from ggufpy.server import metrics

    made = Path(str(metrics.__file__)).read_text("utf-8")
    named = {name.removesuffix("_total") for name in re.findall(r"`(ggufpy_\w+)`", PAGE)}
    assert len(named) == 5
    assert all(f'"{name}"' in made for name in named)


# -- sizes --


def test_the_bits_of_types_are_those_of_their_panels() -> None:
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in re.findall(r"^  \| .*$", PAGE, re.MULTILINE)]
    assert len(rows[0]) == 12
    for name, stored, packed in zip(*rows, strict=True):
        kind: Any = quants.get(name)
        assert float(packed) == kind.panel.bits + 16 * (1 + kind.panel.has_min) / kind.panel.group
        assert abs(float(stored) - 8 * kind.nbytes / kind.weights) <= 0.051


def test_the_formula_of_the_caches_is_the_engines(tmp_path: Path) -> None:
    from ggufpy.server.memory import needed

    write_vocabulary(tmp_path / "v.gguf")
    with ggufpy.open(tmp_path / "v.gguf") as file:
        vocabulary = {key: file.metadata[key] for key in file.metadata if key.startswith("tokenizer.")}
    sizes = {**SIZES, "context_length": 2048, "embedding_length": 64, "attention.head_count": 4}
    keys = {"general.architecture": "llama", **{f"llama.{key}": value for key, value in sizes.items()}}
    count = len(vocabulary["tokenizer.ggml.tokens"])
    ggufpy.write(tmp_path / "m.gguf", {**keys, **vocabulary}, weights(sizes, count, "F32"))
    length = sizes["embedding_length"] // sizes["attention.head_count"]
    assert length % 16 == 0  # shorter ones are filled up to a vector
    for context, texts in ((2048, 1), (1000, 3)):
        whole = -(-context // 128) * 128
        told = 2 * sizes["block_count"] * sizes["attention.head_count_kv"] * length * 2 * whole * texts
        options = LoadOptions(n_ctx=context, n_parallel=texts)
        assert needed(tmp_path / "m.gguf", options).cache == told
        with ggufpy.Llama(str(tmp_path / "m.gguf"), n_ctx=context, n_parallel=texts) as llm:
            assert llm.engine.kv_bytes == told
