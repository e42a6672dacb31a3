"""What model cards and other files say of a model as a whole: read, or left out with a line; nothing stops the work."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufpy.convert import card
from ggufpy.convert.card import Parts, parts_of, read_card
from ggufpy.convert.general import SOURCES_MAX, general, overriding
from ggufpy.errors import GGUFError
from ggufpy.format.encode import encode
from ggufpy.format.rows import Numbers

ROWS = [Numbers(np.ones((4, 4), np.float32))]


def said(folder: Path, text: str | bytes, config: Any = ()) -> tuple[dict[str, Any], list[str]]:
    """The keys that come of a README.md, all of which can be written, and the lines."""
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    keys, notes = general(folder, dict(config), None, ROWS)
    for key, value in keys.items():
        encode(value, "<", key)
    return {key: value.value for key, value in keys.items()}, notes


def test_a_head_of_text(tmp_path: Path) -> None:
    head = "---\nlicense: mit\nlanguage: [en, no]\ntags:\n- a\nversion: 1.0\ndatasets: o/D-v2\n---\n# Title\n"
    keys, notes = said(tmp_path / "m", head)
    assert (keys["general.license"], keys["general.version"], keys["general.languages"]) == ("mit", "1.0", ["en", "no"])
    assert keys["general.dataset.0.repo_url"] == "https://huggingface.co/o/D-v2"
    assert notes == []
    assert said(tmp_path / "m", b"\xef\xbb\xbf" + head.encode()) == (keys, [])  # as editors of Windows write it
    assert said(tmp_path / "m", head.replace("\n", "\r\n"))[0] == keys
    assert said(tmp_path / "m", "# Title\n---\nlicense: mit\n---\n")[0].get("general.license") is None
    assert said(tmp_path / "m", "---\n# Title\n") == said(tmp_path / "m", "")


@pytest.mark.parametrize(
    "head",
    [
        "a: &x [1]\nb: *x",
        "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c]",
        "[" * 50_000,
        "{a: " * 5_000,
        "[" * 65 + "]" * 65,
        "a: " + "[" * 100_000 + "]" * 100_000,
        'name: "\\UFFFFFFFF"',
        'name: "\\U00110000"',
        'name: "\\ud800"',
        '"\\udfff": x',
        "name: [",
        "? [a]\n: b",
        "!!python/object/apply:os.system [true]: x",
        "\0",
        "license: mit\nlicense: : :",
    ],
)
def test_heads_that_are_none_are_left_out(tmp_path: Path, head: str) -> None:
    keys, notes = said(tmp_path / "m", f"---\n{head}\n---\n")
    assert [note for note in notes if "was left out" in note] == notes
    assert len(notes) == 1
    assert keys == said(tmp_path / "m", "")[0]


def test_a_head_that_is_larger_than_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "CARD_MAX", 30)
    keys, notes = said(tmp_path / "m", "---\nlicense: mit\n" + "a" * 40 + "\n---\n")
    assert "general.license" not in keys
    assert notes == ["the head of README.md has more than 30 bytes and was left out"]


def test_a_card_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")

    def refuse(*args: Any, **named: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert read_card(tmp_path) == ({}, ["README.md cannot be read and was left out: Permission denied"])


def test_models_and_data_have_the_keys_that_gguf_has(tmp_path: Path) -> None:
    entries = [{"name": "A", "repo_url": "u", "evil" * 200: "x", "": "y", "license": "mit"}, {"other": "x"}, 5]
    keys, _ = said(tmp_path / "m", f"---\nbase_model: {json.dumps(entries)}\n---\n")
    assert {key: value for key, value in keys.items() if "base_model" in key} == {
        "general.base_model.count": 2, "general.base_model.0.name": "A", "general.base_model.0.repo_url": "u",
        "general.base_model.1.name": "5", "general.base_model.1.version": "5",
    }  # fmt: skip
    keys, notes = said(tmp_path / "m", f"---\ndatasets: {json.dumps(['a/b'] * (SOURCES_MAX + 5))}\n---\n")
    assert keys["general.dataset.count"] == SOURCES_MAX
    assert notes == [f"README.md names {SOURCES_MAX + 5} of datasets; the file has the first {SOURCES_MAX}"]


@pytest.mark.parametrize("word", ["null", "~", "", "Null"])
def test_null_says_that_there_is_nothing(tmp_path: Path, word: str) -> None:
    """Nothing is guessed of a folder's name where a card has a word for nothing; a model has a name always."""
    names = ("model_name", "version", "finetune", "size_label", "license", "language", "base_model")
    head = "".join(f"{name}: {word}\n" for name in names) + f"tags:\n- a\n- {word}\n- b\n"
    keys, notes = said(tmp_path / "Tiny-16K-chat-v2", f"---\n{head}---\n")
    assert keys == {
        "general.type": "model", "general.name": "Tiny 16K Chat v2", "general.basename": "Tiny",
        "general.tags": ["a", "b"],
    }  # fmt: skip
    assert notes == []
    keys, _ = said(tmp_path / "Tiny-16K-chat-v2", f"---\nversion: '{word}'\nlicense: no\n---\n")
    assert (keys["general.version"], keys["general.license"]) == (word or "v2", "no")


def test_several_licenses_and_an_id(tmp_path: Path) -> None:
    keys, _ = said(tmp_path / "m", "---\nlicense:\n- mit\n- gemma\nmodel_uuid: u\n---\n")
    assert (keys["general.license"], keys["general.source.uuid"]) == ("mit,gemma", "u")


NAMES = [
    ("gemma-3-270m", 268_000_000, Parts("gemma-3-270m", None, "gemma-3", None, None, "270M")),
    ("gemma-3-270m-hf", 0, Parts("gemma-3-270m-hf", None, "gemma-3", "hf", None, "270M")),
    ("gemma-3", 0, Parts("gemma-3", None, "gemma", None, "3")),
    ("o/Yarn-7b-128k", 7_000_000_000, Parts("Yarn-7b-128k", "o", "Yarn", "128k", None, "7B")),
    ("8x7b-x", 0, Parts("8x7b-x", None, None, "8x7b-x")),
    ("Mix-8x7b-A3B-bf16", 0, Parts("Mix-8x7b-A3B-bf16", None, "Mix", None, None, "8x7B-A3B")),
    ("bloom-7b1", 0, Parts("bloom-7b1", None, "bloom", None, None, "7.1B")),
    ("x-small-1_5b", 0, Parts("x-small-1_5b", None, "x-small", None, None, "1.5B")),
    ("x-small", 0, Parts("x-small", None, "x", None, None, "small")),
    ("./x-v2", 0, Parts("x-v2", None, "x", None, "v2")),
    ("a b-7b", 0, Parts("a b-7b")), ("plain", 0, Parts("plain")), ("--", 0, Parts("--")), ("", 0, Parts("")),
    ("x-" + "9" * 400 + "b", 5, Parts("x-" + "9" * 400 + "b", None, "x", "9" * 400 + "b")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "weights", "parts"), NAMES)
def test_names_are_taken_apart(name: str, weights: int, parts: Parts) -> None:
    assert parts_of(name, weights) == parts


def test_names_are_taken_apart_as_llama_cpp_does() -> None:
    """With gguf's own reader of names, on names that its words make."""
    components = pytest.importorskip("gguf.metadata").Metadata.get_model_id_components
    words = ["gemma", "3", "270m", "7B", "8x7b", "A3B", "it", "Instruct", "v0.2", "128k", "7b1", "small", "XL", "bf16",
             "Q4_K", "lora", "1_5B", "iter2", "Foo.1", "_", ""]  # fmt: skip
    pick = random.Random(5)
    for _ in range(3_000):
        name = pick.choice(["", "", "own/", "./"]) + "-".join(pick.choices(words, k=pick.randint(1, 6))).strip("-")
        weights = pick.choice([0, 268_000_000, 7_000_000_000])
        if name and name[-1] != "/":
            parts = parts_of(name, weights)
            made = (parts.name, parts.organization, parts.basename, parts.finetune, parts.version, parts.size)
            assert made == components(name, weights), name


def test_numbers_that_no_file_can_say_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    values = {"temperature": 10**400, "top_k": 10**12, "top_p": 1e39, "min_p": float("nan"), "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps(values))
    keys, _ = said(folder, "")
    assert {key: value for key, value in keys.items() if "sampling" in key} == {"general.sampling.penalty_repeat": 1.1}
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0, "top_k": 20.0, "top_p": True}))
    keys, _ = said(folder, "")
    sampled = {key: value for key, value in keys.items() if "sampling" in key}
    assert sampled == {"general.sampling.temp": 0.0, "general.sampling.top_k": 20}


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "/home/me/model", "./model", "a/b/c", "", 5])
def test_names_that_are_none_give_way_to_the_folders(tmp_path: Path, name: Any) -> None:
    keys, _ = said(tmp_path / "Tiny-1B", "", {"_name_or_path": name})
    assert keys["general.name"] == "Tiny 1B"


def test_a_folder_of_any_name(tmp_path: Path) -> None:
    keys, _ = said(Path(str(tmp_path) + "/m\udcff"), "")  # a byte that is no UTF-8
    assert ascii(keys["general.name"]) == r"'M\udcff'"


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": {"b": 1}}, "'a' is no text, number"), ({"a": [1]}, "no text"), ({"a": 10**400}, "no text"),
        ({"a": 1e300}, "no text, number"), ({"general.architecture": "x"}, "follows from config.json"),
        ({"general.base_models": 5}, "general.base_models is no list of objects"),
        ({"general.datasets": ["x"]}, "is no list of objects"), ({"general.datasets": [{"nmae": "x"}]}, "by these"),
        ({"general.datasets": [{"name": 5}]}, "of texts"), ([1], "must hold a JSON object"),
    ],
)  # fmt: skip
def test_what_the_user_cannot_say(tmp_path: Path, value: Any, match: str) -> None:
    (tmp_path / "said.json").write_text(json.dumps(value))
    with pytest.raises(GGUFError, match=match):
        overriding(tmp_path / "said.json")


def test_what_the_user_can_say(tmp_path: Path) -> None:
    value = {"a": 5, "b": -5, "c": 2**40, "d": 0.5, "e": True, "f": "x", "g": ["x", "y"], "h": [],
             "general.base_models": [{"name": "N", "uuid": "u"}]}  # fmt: skip
    (tmp_path / "said.json").write_text("\ufeff" + json.dumps(value), "utf-8")
    keys = overriding(tmp_path / "said.json")
    types = {key: made.type for key, made in keys.items()}
    assert types == {
        "a": "uint32", "b": "int32", "c": "uint64", "d": "float32", "e": "bool", "f": "string", "g": "array[string]",
        "h": "array[string]", "general.base_model.count": "uint32", "general.base_model.0.name": "string",
        "general.base_model.0.uuid": "string",
    }  # fmt: skip
