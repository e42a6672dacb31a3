"""What a file says of a model comes back of the folder that it was exported to, whatever its values are."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from checkpoints import weights, write
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, card_export, convert
from ggufpy.convert.card_export import HEAD_MAX, card_of
from ggufpy.convert.export import Exported, export
from ggufpy.convert.general import SOURCES_MAX, general
from ggufpy.format import Typed
from ggufpy.format.encode import infer
from ggufpy.format.rows import Numbers

ROWS = [Numbers(np.ones((4, 4), np.float32))]
# What describes the file and not the model. A size that a file says comes back; one that it does not is not counted.
OF_THE_FILE = {"general.architecture", "general.file_type", "general.quantization_version"}
TEXTS: dict[str, Any] = {
    "general.name": "Tiny 3 Chat", "general.author": "A", "general.version": "1.0", "general.organization": "O",
    "general.finetune": "no", "general.basename": "tiny-3", "general.description": "two\nlines: 'x' # y",
    "general.size_label": "8x7B", "general.license": "other", "general.license.name": "l", "general.license.link": "u",
    "general.source.url": "https://a.b/c?d=e#f", "general.source.doi": "10.1/2", "general.source.uuid": "{1}",
    "general.source.repo_url": "r",
}  # fmt: skip
ALL: dict[str, Any] = {
    **TEXTS, "general.type": "model", "general.tags": ["null", "~", "text-generation", "é", "chat", "text-generation"],
    "general.languages": ["en", "no"],
    "general.base_model.count": 2, "general.base_model.0.name": "B 1B", "general.base_model.0.organization": "Meta",
    "general.base_model.0.repo_url": "https://huggingface.co/meta/b-1B", "general.base_model.1.name": "C",
    "general.base_model.1.author": "me", "general.base_model.1.uuid": "5",
    "general.dataset.count": 1, "general.dataset.0.name": "D", "general.dataset.0.organization": "O",
    "general.dataset.0.repo_url": "https://huggingface.co/o/d",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("card") / "hf", weights())
    convert(folder, folder.parent / "m.gguf", ConvertOptions("F32", no_vocab=True))
    return folder.parent / "m.gguf"


def saying(model: Path, path: Path, said: Mapping[str, Any]) -> Path:
    """The file with nothing else said of the model."""
    with gguf.open(model) as file:
        own = {k: v for k, v in file.metadata.typed_items().items() if not k.startswith("general.") or k in OF_THE_FILE}
        gguf.write(path, {**own, **said}, file.tensors)
    return path


def exported(path: Path, folder: Path) -> Exported:
    with gguf.open(path) as file:
        return export(file, folder)


def of_the_model(path: Path) -> dict[str, Any]:
    with gguf.open(path) as file:
        return {k: v for k, v in file.metadata.items() if k.startswith("general.") and k not in OF_THE_FILE}


def back(said: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What is said in a folder, by the card alone, of what the metadata say, and lines for the user."""
    path = folder / "m.gguf"
    gguf.write(path, {"general.architecture": "llama", **said}, {})
    with gguf.open(path) as file:
        text, notes = card_of(file.metadata)
    (folder / "README.md").write_bytes(text.encode())
    keys, more = general(folder, {}, None, ROWS)
    assert more == []
    return {key: value.value for key, value in keys.items() if key != "general.type"}, notes


def head_of(folder: Path) -> Any:
    """As the Hub reads it."""
    return yaml.safe_load((folder / "README.md").read_text("utf-8").split("\n---\n")[0])


# -- there and back ----------------------------------------------------------------------------------------------------


def test_all_that_a_file_says_comes_back(model: Path, tmp_path: Path) -> None:
    sampling = {f"general.sampling.{key}": Typed("float32", 0.25) for key in ("temp", "xtc_threshold", "mirostat_eta")}
    sampling |= {f"general.sampling.{key}": Typed("int32", -1) for key in ("penalty_last_n", "mirostat")}
    path = saying(model, tmp_path / "m.gguf", {**ALL, **sampling})
    before = path.read_bytes()
    done = exported(path, tmp_path / "Other-7B-it-v3")
    assert done.notes == ("the file has no vocabulary, and the folder has no tokenizer",)
    assert "README.md" in done.files
    convert(tmp_path / "Other-7B-it-v3", tmp_path / "again.gguf", ConvertOptions("F32", no_vocab=True))
    assert of_the_model(tmp_path / "again.gguf") == of_the_model(path)
    assert path.read_bytes() == before
    options = ConvertOptions("F32", no_vocab=True, name="Mine")
    convert(tmp_path / "Other-7B-it-v3", tmp_path / "again.gguf", options)
    assert of_the_model(tmp_path / "again.gguf") == {**of_the_model(path), "general.name": "Mine"}


@pytest.mark.parametrize("key", [*TEXTS, "general.tags", "general.languages"])
def test_a_key_alone_comes_back_alone(tmp_path: Path, key: str) -> None:
    """Nothing is guessed of the folder beside it but a name, which every model has."""
    (tmp_path / "Other-7B-it-v3").mkdir()
    keys, notes = back({key: ALL[key]}, tmp_path / "Other-7B-it-v3")
    assert keys == {"general.name": "Other 7B It v3", key: ALL[key]}
    assert notes == []


def test_the_card_has_the_hubs_words(tmp_path: Path) -> None:
    back(ALL, tmp_path)
    head = head_of(tmp_path)
    assert head["model_name"] == "Tiny 3 Chat"
    assert (head["license"], head["license_name"], head["license_link"]) == ("other", "l", "u")
    assert (head["language"], head["pipeline_tag"]) == (["en", "no"], "text-generation")
    assert head["tags"] == ["null", "~", "text-generation", "é", "chat"]
    assert head["datasets"] == ["o/d"]
    assert "base_model" not in head  # one of them is more than a name, and the Hub takes names alone
    assert head["base_model_sources"] == ["meta/b-1B", {"name": "C", "author": "me", "uuid": "5"}]
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text.partition("\n---\n")[2] == "\nExported from a GGUF file by ggufpy: Tiny 3 Chat\n"


def test_llama_cpp_reads_the_same(tmp_path: Path) -> None:
    said = {**ALL, "general.description": "x\n---\ny", "general.base_model.1.name": "---"}
    back(said, tmp_path)
    made = pytest.importorskip("gguf.metadata").Metadata.load(model_path=tmp_path)
    for key, value in said.items():
        name = key.removeprefix("general.").replace(".", "_")
        if key != "general.type" and "model." not in key and "set." not in key:
            assert getattr(made, name) == value, key
    entry = {key: said[f"general.base_model.0.{key}"] for key in ("name", "organization", "repo_url")}
    assert made.base_models == [entry, {"name": "---", "author": "me", "uuid": "5"}]
    assert made.datasets == [{"name": "D", "organization": "O", "repo_url": "https://huggingface.co/o/d"}]


def test_a_file_that_says_nothing_has_no_card(model: Path, tmp_path: Path) -> None:
    said = {"general.type": "model", "general.author": " ", "general.tags": Typed("array[string]", [])}
    done = exported(saying(model, tmp_path / "m.gguf", said), tmp_path / "Tiny-v2")
    assert "README.md" not in done.files
    assert len(done.notes) == 1
    convert(tmp_path / "Tiny-v2", tmp_path / "again.gguf", ConvertOptions("F32", no_vocab=True))
    assert of_the_model(tmp_path / "again.gguf")["general.name"] == "Tiny v2"  # as llama.cpp does


# -- what a card cannot say --------------------------------------------------------------------------------------------


def test_what_has_no_words_is_named(model: Path, tmp_path: Path) -> None:
    lost = {"general.url": "u", "general.quantized_by": "me", "general.sampling.sequence": "ab", "general.type": "x"}
    done = exported(saying(model, tmp_path / "m.gguf", {**ALL, **lost}), tmp_path / "hf")
    names = "'general.type', 'general.url', 'general.quantized_by', 'general.sampling.sequence'"
    assert done.notes[1] == f"a model card cannot say {names}; what is to come back is for convert --metadata"
    (tmp_path / "said.json").write_text(json.dumps(lost))
    options = ConvertOptions("F32", no_vocab=True, metadata=tmp_path / "said.json")
    convert(tmp_path / "hf", tmp_path / "again.gguf", options)
    assert of_the_model(tmp_path / "again.gguf") == of_the_model(tmp_path / "m.gguf")


LOST: dict[str, dict[str, Any]] = {
    "no UTF-8": {"general.author": "a\udcff"},
    "words that are no UTF-8": {"general.tags": ["a", "\udcff"]},
    "a number": {"general.version": 1.0},
    "an object's number": {"general.base_model.0.name": 5},
    "numbers": {"general.languages": [1, 2]},
    "lists of lists": {"general.tags": Typed("array[array[string]]", [["a"]])},
    "one text": {"general.tags": "a"},
    "an empty word": {"general.tags": ["a", "", "b"]},
    "a text of a megabyte": {"general.author": "x" * (HEAD_MAX + 1)},
    "a text of a megabyte as it is escaped": {"general.author": "\x01" * (HEAD_MAX // 3)},
    "a million words": {"general.tags": ["a"] * 300_000},
    "a key of more than a line": {"general.\n" + "x" * 90: "y"},
    "a count alone": {"general.dataset.count": 3},
    "the second of them": {"general.base_model.1.name": "x"},
    "a count of another type": {"general.dataset.0.name": "x", "general.dataset.count": "1"},
    "another field": {"general.dataset.0.license": "x"},
}


@pytest.mark.parametrize("said", LOST.values(), ids=LOST)
def test_values_that_a_card_cannot_say(tmp_path: Path, said: dict[str, Any]) -> None:
    """The rest comes back, they are named, and the line is one."""
    rest = {"general.name": "N", "general.license": "mit"}
    keys, notes = back({**rest, **said}, tmp_path)
    assert {**keys, **rest} == keys
    assert len(notes) == 1
    assert "\n" not in notes[0]
    assert len(notes[0]) < 250
    assert [key for key in said if repr(key)[:70] in notes[0]] != []


def test_many_keys_make_no_long_line(tmp_path: Path) -> None:
    _, notes = back({f"general.x{i}": i for i in range(1_000)}, tmp_path)
    assert notes[0].startswith("a model card cannot say 'general.x0', ")
    assert "'general.x7' and 992 more;" in notes[0]
    assert not (tmp_path / "README.md").read_text()


def test_what_a_head_has_no_room_for(tmp_path: Path) -> None:
    """What comes first has it; a thousand megabytes of sources are not looked at."""
    entries = {f"general.base_model.{i}.{what}": "x" * 60_000 for i in range(60) for what in ("name", "url", "doi")}
    start = time.perf_counter()
    keys, notes = back({"general.author": "a" * 900_000, "general.description": "é" * 100_000,
                        "general.license": "mit", **entries}, tmp_path)  # fmt: skip
    assert time.perf_counter() - start < 20
    assert (len(keys["general.author"]), keys["general.license"]) == (900_000, "mit")
    assert "general.description" not in keys
    assert "general.base_model.0.name" not in keys
    assert "'general.description'" in notes[0]


def test_more_sources_than_are_read(tmp_path: Path) -> None:
    said = {f"general.dataset.{i}.repo_url": "https://x.y" for i in range(SOURCES_MAX + 2)}
    keys, notes = back({**said, "general.dataset.count": SOURCES_MAX + 2}, tmp_path)
    assert keys["general.dataset.count"] == SOURCES_MAX
    assert f"'general.dataset.{SOURCES_MAX}.repo_url', 'general.dataset.{SOURCES_MAX + 1}.repo_url'" in notes[0]


ODD = [
    "---", "a\n---\nb", "\n---\n", "\n", "...", "null", "no", "1e3", "\t", "a\tb", "\0", "\x85", "\u2028", "\ufeff",
    "\x7f", "\x0c", "😀", "\ufffe", "*a", "&a", "!!x", "%a", "@", "`", "a: b", "- a", "? ", "#", "{", "[", "'", '"',
    "\\", "<<", "=", " a ", "a\r\nb", "x" * 5_000 + " " + "y" * 5_000, "2001-01-01", "${{x}}", "<b>", "\u202e",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_texts_of_any_kind(tmp_path: Path, text: str) -> None:
    said = dict.fromkeys(TEXTS, text) | {"general.tags": [text, text], "general.dataset.0.name": text}
    keys, notes = back({**said, "general.dataset.count": Typed("uint32", 1)}, tmp_path)
    if text.strip():
        assert keys == {**said, "general.dataset.count": 1}
        assert notes == []
        assert head_of(tmp_path)["model_name"] == text
    else:  # white space says nothing, but in lists
        assert keys["general.tags"] == [text, text]
    lines = (tmp_path / "README.md").read_bytes().decode().split("\n")
    assert [i for i, line in enumerate(lines) if line == "---"] == [0, len(lines) - 4]
    assert lines[-2].startswith("Exported from a GGUF file by ggufpy")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("<script>x</script>", ": \\<script\\>x\\</script\\>"), ("a\n# b\n---", ": a \\# b ---"),
        ("[x](y) ![z](w) `c` *d* _e_", ": \\[x\\](y) \\!\\[z\\](w) \\`c\\` \\*d\\* \\_e\\_"),
        ("\u202eabc\x1b[31m", ": abc \\[31m"), ("\x00", ""), ("n" * 500, ": " + "n" * 199 + "…"),
    ],
)  # fmt: skip
def test_the_text_for_people(tmp_path: Path, name: str, line: str) -> None:
    back({"general.name": name}, tmp_path)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text.splitlines()[-1] == f"Exported from a GGUF file by ggufpy{line}"


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(ALL)), st.text() | st.lists(st.text(), min_size=1) | st.integers(0, 9)))
def test_what_does_not_come_back_is_named(tmp_path_factory: pytest.TempPathFactory, said: dict[str, Any]) -> None:
    said = {key: infer(value, key) for key, value in said.items()}
    keys, notes = back(said, tmp_path_factory.mktemp("any"))
    named = notes[0] if notes else ""
    for key, value in said.items():
        empty = isinstance(value.value, str) and not value.value.strip()
        came = key in keys and type(keys[key]) is type(value.value) and keys[key] == value.value
        model = key == "general.type" and value.value == "model"
        assert came or model or empty or repr(key) in named or "more" in named, key
    guessed = {"general.name", "general.base_model.count", "general.dataset.count"}
    assert set(keys) <= set(said) | guessed or set(keys) == {"general.name", "general.size_label"}  # without a card


def test_without_libyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML's own Python reads and writes the same."""
    with_it = back(ALL, tmp_path), (tmp_path / "README.md").read_text("utf-8")
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    for cached in (card_export._dumper, card_export.card_in.__globals__["_loader"]):
        cached.cache_clear()
    try:
        assert back(ALL, tmp_path) == with_it[0]
        assert (tmp_path / "README.md").read_text("utf-8") == with_it[1]
    finally:
        for cached in (card_export._dumper, card_export.card_in.__globals__["_loader"]):
            cached.cache_clear()
