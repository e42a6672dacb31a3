"""Names of models: what a request may call them, what a folder has, what is refused, and that no name is a path."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import write_model
from hypothesis import given, settings
from hypothesis import strategies as st

import ggufpy
from ggufpy import format as gguf_format
from ggufpy.errors import GGUFError
from ggufpy.format import split
from ggufpy.server import catalogue as catalogues
from ggufpy.server.catalogue import Catalogue, Entry, Given, given_models
from ggufpy.server.folder import Folder
from ggufpy.server.problems import Problem

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names of files")


def names(catalogue: Catalogue) -> list[str]:
    """What is listed."""
    return [entry.name for entry in catalogue.entries()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small model's file."""
    return write_model(tmp_path_factory.mktemp("model") / "model.gguf").read_bytes()


def put(path: Path, data: bytes) -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def put_kind(path: Path, metadata: Mapping[str, Any]) -> None:
    """A file that is no model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ggufpy.write(path, dict(metadata), {"a": np.ones(2, np.float32)})


# -- what requests say --

SERVED = [
    Given(("Qwen3-8B-Q4_K_M", "gpt-4o"), ""),
    Given(("team/small", "quick"), ""),
    Given(("other/small",), ""),
    Given(("hf:Owner/Model-GGUF:Q8_0",), "hf:Owner/Model-GGUF:Q8_0"),
    Given(("Ünïcode",), ""),
]
SEVERAL = Catalogue(SERVED)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (None, "Qwen3-8B-Q4_K_M"),
        ("", "Qwen3-8B-Q4_K_M"),
        ("Qwen3-8B-Q4_K_M", "Qwen3-8B-Q4_K_M"),
        ("qwen3-8b-q4_k_m", "Qwen3-8B-Q4_K_M"),
        ("qwen3-8b-q4_k_m:latest", "Qwen3-8B-Q4_K_M"),
        ("qwen3-8b:q4_k_m", "Qwen3-8B-Q4_K_M"),
        ("Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q4_K_M"),
        ("Qwen3-8B-Q4_K_M.GGUF:LATEST", "Qwen3-8B-Q4_K_M"),
        ("gpt-4o", "Qwen3-8B-Q4_K_M"),
        ("GPT-4o:latest", "Qwen3-8B-Q4_K_M"),
        ("team/small", "team/small"),
        ("quick", "team/small"),
        ("hf:Owner/Model-GGUF:Q8_0", "hf:Owner/Model-GGUF:Q8_0"),
        ("owner/model-gguf:q8_0", "hf:Owner/Model-GGUF:Q8_0"),
        ("hf:Owner/Model-GGUF", "hf:Owner/Model-GGUF:Q8_0"),
        ("Owner/Model-GGUF:latest", "hf:Owner/Model-GGUF:Q8_0"),
        ("Model-GGUF", "hf:Owner/Model-GGUF:Q8_0"),
        ("U\u0308nï\u0063ode", "Ünïcode"),  # another way to write the same letters
    ],
)
def test_a_model_is_found_by_what_clients_call_it(asked: str | None, wanted: str) -> None:
    assert Catalogue(SERVED).find(asked).name == wanted


@pytest.mark.parametrize(
    "asked",
    [
        "../../etc/passwd", "/etc/passwd", "..", ".", "/", "C:\\model.gguf", "team/../team/small", "./team/small",
        "a\0b", "team/small\0", "\ud800", "x" * 1_000_000, "%2e%2e/small", ":", ":latest", "team/small:", ".gguf", "file:///etc",
        "\n", "~", "$HOME", "hf:", "hf:../..:x", "hf:Owner/Other",
    ],
)  # fmt: skip
def test_what_is_no_name_is_one_line_with_those_that_are(asked: str) -> None:
    with pytest.raises(Problem) as caught:
        Catalogue(SERVED).find(asked)
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500
    assert "team/small" in caught.value.message
    json.dumps(caught.value.message).encode()


@pytest.mark.parametrize("asked", [5, True, ["a"], {"a": 1}, 1.5])
def test_a_name_is_a_text(asked: object) -> None:
    with pytest.raises(Problem) as caught:
        Catalogue(SERVED).find(asked)
    assert caught.value.status == 400


def test_a_name_that_means_several_says_which() -> None:
    with pytest.raises(Problem, match="'small' may be team/small, other/small") as caught:
        Catalogue(SERVED).find("small")
    assert (caught.value.status, caught.value.code) == (400, "model_ambiguous")
    many = Catalogue([Given((f"{i}/m",), "") for i in range(500)])
    with pytest.raises(Problem, match="and 490 more") as caught:
        many.find("m")
    assert many.find("7/m").name == "7/m"


@settings(max_examples=200)
@given(st.text(max_size=40) | st.sampled_from(["small", "QUICK:", "x.gguf"]))
def test_any_name_is_an_entry_or_one_line(asked: str) -> None:
    try:
        found: Entry | Problem = SEVERAL.find(asked)
    except Problem as problem:
        found = problem
    assert isinstance(found, Entry) or (found.status in (400, 404) and found.message.isprintable())


def test_names_of_requests_never_reach_the_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served = Catalogue([Given(("a",), "")], Folder(tmp_path))
    walked: list[str] = []

    def no_file(path: object, *_: object, **__: object) -> bool:
        walked.append(str(path))
        return False

    for method in ("is_file", "exists", "stat", "open", "is_dir", "resolve"):
        monkeypatch.setattr(Path, method, no_file)
    for asked in ("../secret", "/etc/passwd", "secret.gguf", "hf:a/secret"):
        with pytest.raises(Problem):
            served.find(asked)
    assert not [path for path in walked if "secret" in path or "passwd" in path]


# -- what is fetched --


def test_only_servers_that_are_told_to_fetch_what_a_request_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogues.hub, "kept", lambda name: None)
    closed, free = Catalogue(SERVED), Catalogue(SERVED, allow_pull=True)
    for asked in ("hf:Owner/New:Q4_0", "gemma3-270m"):
        with pytest.raises(Problem, match="--allow-pull") as caught:
            closed.find(asked)
        assert caught.value.status == 404
        entry = free.find(asked)
        assert (entry.name, entry.source, entry.path) == (asked, asked, None)
        with pytest.raises(GGUFError, match="fetched"):
            entry.facts()
    for asked in ("hf:no-slash", "hf:a/b/c", "hf:../x", "/tmp/x", "https://example.com/x.gguf"):
        with pytest.raises(Problem) as caught:
            free.find(asked)
        assert caught.value.status == 404


def test_what_was_fetched_is_listed(tmp_path: Path, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "new-Q4_0.gguf", model)
    here: dict[str, Path] = {}
    monkeypatch.setattr(catalogues.hub, "kept", here.get)
    free = Catalogue(SERVED[:1], allow_pull=True)
    entry = free.find("hf:o/new")
    here["hf:o/new"] = path
    assert free.fetched(entry, path).size == len(model)
    assert names(free) == ["Qwen3-8B-Q4_K_M", "hf:o/new"]
    assert free.find("new-Q4_0.gguf").path == path


# -- the command line --


def test_models_of_the_command_line_have_their_files_names(tmp_path: Path, model: bytes) -> None:
    one = str(put(tmp_path / "one-Q8_0.gguf", model))
    two = str(put(tmp_path / "two.GGUF", model))
    given = given_models([one, "smollm2", "hf:o/r:Q4_0"], [("gpt-4o", one), ("mini", two)])
    assert [each.names for each in given] == [("one-Q8_0", "gpt-4o"), ("smollm2",), ("hf:o/r:Q4_0",), ("mini",)]
    served = Catalogue(given)
    entry = served.find("GPT-4O")
    assert (entry.name, entry.path, entry.size) == ("one-Q8_0", Path(one), len(model))
    assert abs(entry.modified - time.time()) < 60
    assert served.find("two").name == "mini"
    assert entry.facts().architecture == "llama"


def test_what_cannot_be_served_is_told_at_the_start(tmp_path: Path, model: bytes) -> None:
    one, same = (str(put(tmp_path / folder / "m.gguf", model)) for folder in "ab")
    for models, aliases, said in (
        ([str(tmp_path / "none.gguf")], [], "no such file"),
        ([str(tmp_path)], [], "is a folder"),
        ([""], [], "no such file"),
        ([one, same], [], "two models are called m"),
        ([one], [("M", same)], "two models are called M"),
        ([], [("a\nb", one)], "printable"),
        ([], [("x", str(tmp_path / "none.gguf"))], "no such file"),
    ):
        with pytest.raises(GGUFError, match=said):
            given_models(models, aliases)
    assert [each.names for each in given_models([one], [("n", same)])] == [("m",), ("n",)]
    with pytest.raises(GGUFError, match="is no folder"):
        Folder(tmp_path / "none")


def test_a_file_of_both_is_one_model(tmp_path: Path, model: bytes) -> None:
    one = put(tmp_path / "sub" / "one.gguf", model)
    put(tmp_path / "two.gguf", model + b"\0")
    served = Catalogue(given_models([str(one)], [("named", str(one))]), Folder(tmp_path))
    assert names(served) == ["one", "two"]
    assert {served.find(name).name for name in ("one", "named", "sub/one")} == {"one"}


# -- a folder --


def test_a_folder_is_its_models_by_their_paths(
    tmp_path: Path, model: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b", "a/x-Q4_0", ".hidden/z", ".z", "sp ace é"):
        put(tmp_path / f"{name}.gguf", model)
    put(tmp_path / "a/deep/er/y.GGUF", model)
    put(tmp_path / "notes.txt", b"no model")
    put_kind(tmp_path / "mmproj-b.gguf", {"general.architecture": "llama"})
    put_kind(tmp_path / "clip.gguf", {"general.architecture": "clip", "general.type": "mmproj"})
    put_kind(tmp_path / "lora.gguf", {"general.architecture": "llama", "general.type": "adapter"})
    put_kind(tmp_path / "imatrix.gguf", {"general.type": "imatrix", "general.architecture": "llama"})
    served = Catalogue([], Folder(tmp_path))
    assert names(served) == ["a/deep/er/y", "a/x-Q4_0", "b", "sp ace é"]
    assert served.find("a/x:q4_0").path == tmp_path / "a/x-Q4_0.gguf"
    assert served.find("Y.gguf").name == "a/deep/er/y"
    assert served.find(None).name == "a/deep/er/y"
    assert capsys.readouterr().err == ""


def test_a_folder_may_change_while_the_server_runs(tmp_path: Path, model: bytes) -> None:
    served = Catalogue([], Folder(tmp_path))
    assert names(served) == []
    with pytest.raises(Problem, match="no model is served") as caught:
        served.find(None)
    assert caught.value.status == 404
    put(tmp_path / "new.gguf", model)
    assert served.find("new").name == "new"  # without a listing
    before = served.find("new").stamp()
    write_model(tmp_path / "new.gguf", {"context_length": 128})
    assert served.find("new").facts().context == 128
    assert served.find("new").stamp() != before
    (tmp_path / "new.gguf").unlink()
    assert names(served) == []
    with pytest.raises(Problem):
        served.find("new")


@LINUX
def test_what_cannot_be_read_is_left_out_and_said_once(
    tmp_path: Path, model: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "good.gguf", model)
    put(tmp_path / "cut.gguf", model[:-100])
    put(tmp_path / "text.gguf", b"hello")
    put(tmp_path / "empty.gguf", b"")
    put_kind(tmp_path / "unknown.gguf", {"general.architecture": "nobody"})
    put_kind(tmp_path / "nameless.gguf", {})
    (tmp_path / "folder.gguf").mkdir()
    put(tmp_path / "new\nline\x1b[31m.gguf", model)
    os.mkfifo(tmp_path / "pipe.gguf")
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.gguf")), model)
    served = Catalogue([], Folder(tmp_path))
    for _ in range(3):
        assert names(served) == ["good"]
    said = capsys.readouterr().err.splitlines()
    for name in ("cut", "text", "empty", "unknown", "nameless", "new\\nline\\x1b[31m", "pipe", "\\udcff"):
        assert len([line for line in said if f"{name}.gguf is left out" in line]) == 1, name
    assert len(said) == 8
    put(tmp_path / "cut.gguf", model)  # once it is copied whole
    assert names(served) == ["cut", "good"]


def test_links_are_followed_within_the_folder(tmp_path: Path, model: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    top, outside = tmp_path / "top", put(tmp_path / "outside" / "secret.gguf", model)
    real = put(top / "blobs" / "0a1b", model)  # as in the cache of huggingface_hub
    for name, target in (
        ("in.gguf", Path("blobs/0a1b")), ("out.gguf", outside), ("up.gguf", Path("../outside/secret.gguf")),
        ("loop.gguf", Path("loop.gguf")), ("gone.gguf", Path("nothing")), ("dir", outside.parent), ("self", top),
    ):  # fmt: skip
        (top / name).symlink_to(target)
    served = Catalogue([], Folder(top))
    assert names(served) == ["in"]
    assert served.find("in").size == real.stat().st_size
    said = capsys.readouterr().err
    assert said.count("leads out of the folder") == 2
    for name in ("loop", "gone"):
        assert f"{name}.gguf is left out" in said
    (tmp_path / "link").symlink_to(top)  # the folder itself may be one
    assert names(Catalogue([], Folder(tmp_path / "link"))) == ["in"]


def test_a_split_set_is_one_model(tmp_path: Path, model: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    whole = put(tmp_path / "whole.bin", model)
    top = tmp_path / "models"
    (top / "sub").mkdir(parents=True)
    with gguf_format.open(whole) as file:
        split.split(file, split.plan(file, top / "sub" / "set", split.Limits(tensors=8)))
    parts = sorted((top / "sub").iterdir())
    assert len(parts) > 2
    served = Catalogue([], Folder(top))
    entry = served.find("set")
    assert (entry.name, entry.path, list(entry.files)) == ("sub/set", parts[0], parts)
    assert entry.size == sum(part.stat().st_size for part in parts)
    assert entry.facts().parameters == Catalogue(given_models([str(whole)])).find(None).facts().parameters
    assert served.find(parts[0].name).name == "sub/set"
    parts[1].rename(tmp_path / "away")
    assert names(served) == []
    assert parts[1].name in capsys.readouterr().err
    (tmp_path / "away").rename(parts[1])
    assert names(served) == ["sub/set"]
    parts[0].unlink()
    assert names(served) == []
    assert capsys.readouterr().err.count("is left out") >= 1
    put(top / "sub" / "set.gguf", model)
    assert names(served) == ["sub/set"]


@LINUX
def test_names_that_would_be_the_same_are_told_apart(tmp_path: Path, model: bytes) -> None:
    for name in ("m.gguf", "m.GGUF", "M.gguf"):
        put(tmp_path / name, model)
    served = Catalogue([], Folder(tmp_path))
    assert sorted(names(served)) == ["M", "m", "m.gguf"]
    assert {served.find(name).name for name in names(served)} == {"M", "m", "m.gguf"}


def test_files_are_read_once(tmp_path: Path, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        put(tmp_path / f"{i}.gguf", model)
    served = Catalogue([], Folder(tmp_path))

    def never(*_: object) -> None:
        raise AssertionError("it has been read before")

    monkeypatch.setattr(gguf_format, "open", never)
    for _ in range(3):
        assert [entry.facts().layers for entry in served.entries()] == [2] * 5


def test_a_digest_is_of_what_a_file_holds(tmp_path: Path, model: bytes) -> None:
    big = bytearray(model + bytes(3 << 20))
    paths = [put(tmp_path / f"{name}.gguf", bytes(big)) for name in "ab"]
    big[-1000:] = b"\1" * 1000
    big[len(model) : len(model) + (2 << 20)] = b"\1" * (2 << 20)
    paths.append(put(tmp_path / "c.gguf", bytes(big)))
    served = Catalogue(given_models(list(map(str, paths))))
    a, b, c = (entry.digest() for entry in served.entries())
    assert a == b != c
    assert len(a) == 64


def test_facts_are_what_the_file_says(tmp_path: Path) -> None:
    template = "{% if tools %}{{ tools }}{% endif %}<think>"
    keys: dict[str, Any] = {"context_length": 32, "attention.causal": True}
    keys |= {"embedding_length": 64, "feed_forward_length": 32}
    path = write_model(tmp_path / "m.gguf", keys, type_name="Q8_0")
    said = gguf_format.open(path)
    more = {
        **said.metadata.typed_items(),
        "general.name": gguf_format.Typed("string", "A \udcff B"),
        "tokenizer.chat_template": gguf_format.Typed("string", template),
        "general.file_type": gguf_format.Typed("uint32", 7), "tokenizer.ggml.tokens": ["a"] * 61,
        "x.nan": gguf_format.Typed("float32", float("nan")),
    }  # fmt: skip
    changed = tmp_path / "changed.gguf"
    ggufpy.write(changed, more, dict(said.tensors))
    facts = Catalogue(given_models([str(changed)])).find(None).facts()
    assert (facts.kind, facts.architecture, facts.name) == ("model", "llama", "A \ufffd B")
    assert (facts.context, facts.width, facts.layers, facts.vocabulary) == (32, 64, 2, 61)
    assert facts.quantization == "Q8_0"
    assert (facts.template, facts.tools, facts.thinks, facts.encoder) == (template, True, True, False)
    assert facts.parameters == sum(int(np.prod(tensor.shape)) for tensor in said.tensors.values())
    json.dumps(facts.metadata, allow_nan=False).encode()
    assert facts.metadata["llama.context_length"] == 32
    assert "tokenizer.ggml.tokens" not in facts.metadata
