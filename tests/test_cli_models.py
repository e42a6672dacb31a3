"""MODEL means the same in every command: a path, a known name, or hf:owner/repo[:file-or-quant]."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from byte_vocabulary import write_vocabulary

from ggufpy import cli, hub
from ggufpy.commands import pull as pull_command
from ggufpy.commands._options import MODEL_HELP
from ggufpy.errors import GGUFError

NAMES = ("smollm2", "hf:owner/repo", "hf:owner/repo:Q4_0")

# What each command is given besides the model, which stands where MODEL is.
WORDS = {
    "bench": ["MODEL", "-n", "1"],
    "chat": ["MODEL"],
    "compare-quants": ["MODEL", "-f", "text.txt", "--types", "Q4_0"],
    "edit": ["MODEL", "--set", "general.name=x", "-o", "out.gguf"],
    "hash": ["MODEL"],
    "imatrix": ["MODEL", "-f", "text.txt", "-o", "out.gguf"],
    "embed": ["MODEL", "-p", "x"],
    "export": ["MODEL", "out"],
    "inspect": ["MODEL"],
    "merge": ["MODEL", "out.gguf"],
    "perplexity": ["MODEL", "-f", "text.txt"],
    "pull": ["MODEL"],
    "quantize": ["MODEL", "out.gguf", "Q4_0"],
    "run": ["MODEL", "-p", "x"],
    "split": ["MODEL", "out"],
    "tokenize": ["MODEL", "-p", "x"],
    "verify": ["MODEL"],
}
# Commands that read none, or several under names of their own (`tests/test_server_pool_command.py`, `test_batch.py`).
NO_MODEL = {"convert", "convert-lora-to-gguf", "doctor", "serve", "batch"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a text in it."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("word " * 3000)
    return tmp_path


@pytest.fixture
def fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model that "smollm2" and "hf:..." are here, in the cache."""
    monkeypatch.setenv("GGUFPY_CACHE", str(folder / "cache"))
    paths = {name: folder / "cache" / name / "bytes.gguf" for name in ("models/smollm2", "huggingface/x")}
    for path in paths.values():
        path.parent.mkdir(parents=True)
        write_vocabulary(path)
    monkeypatch.setattr(hub, "pull", lambda name, progress=None, force=False: paths[
        "huggingface/x" if name.startswith("hf:") else "models/smollm2"
    ])  # fmt: skip
    return paths["models/smollm2"]


def test_every_command_is_walked() -> None:
    assert set(WORDS) | NO_MODEL == set(cli.command_names())


@pytest.mark.parametrize("command", WORDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_command_fetches_what_has_a_name(
    command: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pull(name: str, progress: object = None, force: bool = False) -> Path:
        raise GGUFError(f"fetching {name}")

    monkeypatch.setattr(hub, "pull", pull)
    monkeypatch.setattr(pull_command, "pull", pull)
    words = [name if word == "MODEL" else word for word in WORDS[command]]
    assert cli.main([command, *words]) == 1
    assert capsys.readouterr() == ("", f"ggufpy {command}: fetching {name}\n")
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize("command", sorted(set(WORDS) - {"pull"}))
def test_every_command_says_what_model_is_in_the_same_words(command: str) -> None:
    text = " ".join(cli.command_parser(command, cli.load_command(command)).format_help().split())
    assert MODEL_HELP in text


@pytest.mark.parametrize("command", sorted(set(WORDS) - {"pull"}))
def test_what_is_neither_a_file_nor_a_name(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["nothing.gguf" if word == "MODEL" else word for word in WORDS[command]]
    assert cli.main([command, *words]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"ggufpy {command}: no such file: nothing.gguf; give the path of a .gguf file, a known model")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", ["inspect", "hash", "verify", "tokenize", "split", "edit"])
def test_commands_read_a_fetched_model(
    command: str, name: str, fetched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [name if word == "MODEL" else word for word in WORDS[command]]
    assert cli.main([command, *words, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    if command in ("hash", "verify"):
        assert Path(found["file"]).name == "bytes.gguf"
    assert err == ""


def test_a_draft_model_may_have_a_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(cli.command_parser("run", cli.load_command("run")).format_help().split())
    assert text.count(MODEL_HELP) == 2


@pytest.mark.parametrize("how", ["smollm2", "hf:owner/repo:Q4_0", "the path"])
def test_a_fetched_model_is_not_edited_in_place(how: str, fetched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fetched.read_bytes()
    words = ["edit", str(fetched) if how == "the path" else how, "--set", "general.name=other"]
    for more in ([], ["--force"]):
        assert cli.main([*words, *more]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith("is a fetched model, which is not changed in the cache: write a copy with -o OUT\n")
    assert cli.main([*words, "--dry-run"]) == 0
    assert cli.main([*words, "-o", "copy.gguf"]) == 0
    assert fetched.read_bytes() == before
    assert cli.main(["edit", "copy.gguf", "--set", "general.name=other"]) == 0


def test_a_link_into_the_cache_is_the_model_there(fetched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = Path("link.gguf")
    try:
        link.symlink_to(fetched)
    except OSError:
        pytest.skip("no links here")
    assert cli.main(["edit", str(link), "--set", "general.name=other"]) == 1
    assert "is a fetched model" in capsys.readouterr().err
