"""`edit`: metadata of every type changed, in the file where a sector takes it, else by a copy; tensors untouched."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ggufpy.cli import main
from ggufpy.errors import GGUFError
from ggufpy.format import Typed, write
from ggufpy.format import open as open_gguf
from ggufpy.format.edit import Editor

SCALARS = {
    "uint8": ("255", 255), "int8": ("-128", -128), "uint16": ("0xffff", 65535), "int16": ("-5", -5),
    "uint32": ("4000000000", 4_000_000_000), "int32": ("-7", -7), "uint64": ("18446744073709551615", 2**64 - 1),
    "int64": ("-9", -9), "float32": ("0.5", 0.5), "float64": ("1e300", 1e300), "bool": ("true", True),
    "string": ("some = text: é", "some = text: é"),
}  # fmt: skip
METADATA = {
    "general.architecture": "llama",
    "general.name": "a name",
    "odd": b"\xff\xfe",
    **{f"k.{kind}": Typed(kind, 1) for kind in SCALARS if kind not in ("string", "bool")},
    "k.bool": False,
    "k.string": "x",
    "k.list": Typed("array[uint8]", [1, 2, 3]),
    "k.nested": Typed("array[array]", [Typed("array[int16]", [1]), Typed("array[int16]", [2, 3])]),
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.ggml.scores": Typed("array[float32]", [0.0, -1.0, -2.0]),
    "tokenizer.ggml.token_type": Typed("array[int32]", [1, 1, 1]),
    "split.no": Typed("uint16", 0),
}
TENSORS = {"t": np.arange(64, dtype=np.float32), "u": np.ones((4, 8), np.float16)}


def model(path: Path, metadata: dict[str, Any] | None = None, **options: Any) -> Path:
    write(path, METADATA if metadata is None else metadata, TENSORS, **options)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a value of every type."""
    return model(tmp_path / "m.gguf")


def edit(capsys: pytest.CaptureFixture[str], path: Path, *words: str | Path) -> dict[str, Any]:
    assert main(["edit", str(path), *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], path: Path, *words: str | Path, status: int = 1) -> str:
    before = path.read_bytes()
    assert main(["edit", str(path), *map(str, words)]) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    return err


def values(path: Path) -> dict[str, Any]:
    with open_gguf(path) as file:
        for name, expected in TENSORS.items():
            np.testing.assert_array_equal(file.tensors[name].to_numpy(), expected)
        return {key: (file.metadata.type(key), file.metadata[key]) for key in file.metadata}


@pytest.mark.parametrize(
    "options", [{}, {"byteorder": "big"}, {"version": 2}, {"alignment": 256}], ids=["little", "big", "2", "aligned"]
)
@pytest.mark.parametrize("kind", SCALARS)
def test_a_value_of_each_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, options: dict[str, Any]
) -> None:
    path = model(tmp_path / "m.gguf", **options)
    before = values(path)
    with open_gguf(path) as file:
        how = file.version, file.byteorder, file.alignment
    text, value = SCALARS[kind]
    found = edit(capsys, path, "--set", f"k.{kind}={text}", "--set", f"new.{kind}:{kind}={text}")
    assert values(path) == {**before, f"k.{kind}": (kind, value), f"new.{kind}": (kind, value)}
    assert [(c["action"], c["key"], c["new"]) for c in found["changes"]] == [
        ("set", f"k.{kind}", {"type": kind, "value": value}),
        ("add", f"new.{kind}", {"type": kind, "value": value}),
    ]
    with open_gguf(path) as file:
        assert (file.version, file.byteorder, file.alignment) == how


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("k.list=[4]", "array[uint8]", [4]),
        ("k.list=[]", "array[uint8]", []),
        ("k.list:array[string]=[\"é\", \"\"]", "array[string]", ["é", ""]),
        ("k.list:array[float64]=[1, 2.5]", "array[float64]", [1.0, 2.5]),
        ("k.list:array[bool]=[true,false]", "array[bool]", [True, False]),
        ("k.list:array[array[int8]]=[[1],[],[-2,3]]", "array[array]", [[1], [], [-2, 3]]),
        ("k.nested=[[7],[]]", "array[array]", [[7], []]),
        ("k.list:string=no list", "string", "no list"),
    ],
)  # fmt: skip
def test_arrays(path: Path, capsys: pytest.CaptureFixture[str], text: str, kind: str, value: Any) -> None:
    key = text.partition("=")[0].partition(":")[0]
    before = values(path)
    # An explicit type needs the key to be new, or the change of its type to be asked for.
    edit(capsys, path, "--set", text)
    assert values(path) == {**before, key: (kind, value)}


def test_small_changes_are_made_in_the_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, inode = path.read_bytes(), path.stat().st_ino
    at = before.index(b"a name")
    found = edit(capsys, path, "--set", "general.name=a game")
    assert (found["mode"], found["bytes"]) == ("in-place", 1)
    assert path.stat().st_ino == inode
    assert path.read_bytes() == before[: at + 2] + b"g" + before[at + 3 :]
    again = edit(capsys, path, "--set", "general.name=a game")
    assert (again["mode"], again["bytes"], again["changes"]) == ("none", 0, [])


def test_changes_beyond_a_sector_go_into_a_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = {"a": "x" * 20, "fill": "f" * 1000, "b": "y" * 20}
    path = model(tmp_path / "m.gguf", metadata)
    path.chmod(0o640)
    start = path.read_bytes().index(TENSORS["t"].tobytes())
    inode = path.stat().st_ino
    found = edit(capsys, path, "--set", f"a={'z' * 20}", "--set", f"b={'z' * 20}")  # room is there, in two sectors
    assert found["mode"] == "copy"
    assert path.stat().st_ino != inode
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_bytes().index(TENSORS["t"].tobytes()) == start
    found = edit(capsys, path, "--set", f"a={'z' * 200}")  # the tensors move
    assert (found["mode"], found["bytes"]) == ("copy", path.stat().st_size)
    assert values(path)["a"] == ("string", "z" * 200)
    assert path.read_bytes().index(TENSORS["t"].tobytes()) > start
    assert os.listdir(tmp_path) == ["m.gguf"]


@pytest.mark.parametrize("links", ["symlink", "hard link"])
def test_other_names_of_the_file(path: Path, capsys: pytest.CaptureFixture[str], links: str) -> None:
    other = path.with_name("other.gguf")
    if links == "symlink":
        other.symlink_to(path)
    else:
        os.link(path, other)
    before = path.read_bytes()
    found = edit(capsys, other, "--set", "general.name=a game")
    assert values(other)["general.name"][1] == "a game"
    assert other.is_symlink() == (links == "symlink")
    if links == "symlink":  # the file behind it
        assert (found["mode"], values(path)["general.name"][1]) == ("in-place", "a game")
    else:  # the other name keeps the old contents
        assert (found["mode"], path.read_bytes()) == ("copy", before)
    if links == "hard link":
        other.unlink()
        os.link(path, other)
    assert main(["edit", str(path), "--set", "general.name=b", "-o", str(other), "--force"]) == 1
    assert "is the input itself; leave -o out" in capsys.readouterr().err


def test_output_goes_elsewhere(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = path.read_bytes()
    out = path.with_name("out.gguf")
    found = edit(capsys, path, "--set", "general.name=a game", "-o", out)
    assert (found["mode"], found["output"], path.read_bytes()) == ("copy", str(out), before)
    assert values(out) == {**values(path), "general.name": ("string", "a game")}
    assert main(["edit", str(path), "--set", "general.name=b", "-o", str(out)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert edit(capsys, path, "--set", "general.name=a name", "-o", out, "--force")["mode"] == "copy"
    assert out.read_bytes() == before


def test_rename_and_remove_keep_the_rest_byte_for_byte(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = values(path)
    found = edit(capsys, path, "--rename", "general.name=general.title", "--remove", "k.list", "--remove", "k.int8")
    assert [c["action"] for c in found["changes"]] == ["remove", "remove", "rename"]
    after = values(path)
    keys = [k for k in before if k not in ("k.list", "k.int8")]
    assert list(after) == ["general.title" if k == "general.name" else k for k in keys]
    assert after["odd"] == ("string", "\udcff\udcfe")
    assert after["general.title"] == ("string", "a name")


def test_dry_run_and_text(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = path.read_bytes()
    words = ["--set", "general.name=b", "--set", "k.list=[1,2,3,4,5]", "--remove", "odd", "--rename", "k.bool=k.flag"]
    words += ["--set", "new\x1b:float32=nan", "--set", "k.int8:string=s"]
    assert main(["edit", str(path), *words, "--dry-run"]) == 0
    assert path.read_bytes() == before
    out = capsys.readouterr().out
    assert out.splitlines() == [
        'remove odd ("\\udcff\\udcfe")',
        "rename k.bool -> k.flag",
        'set general.name (string): "a name" -> "b"',
        "set k.list (array[uint8]): 3: [1, 2, 3] -> 5: [1, 2, 3, 4, ...]",
        "add new\\x1b (float32): nan",
        'set k.int8 (int8 -> string): 1 -> "s"',
        f"{path}: nothing was written (--dry-run)",
    ]
    assert main(["edit", str(path), *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{path}: a copy of ")
    assert np.isnan(values(path)["new\x1b"][1])


REFUSED = {
    "architecture": (["--set", "general.architecture=qwen2"], "general.architecture says how the model is run"),
    "architecture removed": (["--remove", "general.architecture"], "general.architecture says"),
    "alignment": (["--set", "general.alignment:uint32=64"], "general.alignment says where every tensor lies"),
    "split": (["--set", "split.no=1"], "split.no must agree"),
    "renamed to split": (["--rename", "k.uint16=split.count"], "split.count must agree"),
    "tokens": (["--set", 'tokenizer.ggml.tokens=["a"]'], "would have 1 elements in place of 3 elements"),
    "tokens removed": (["--remove", "tokenizer.ggml.tokens"], "would have none in place of 3 elements"),
    "tokens renamed": (["--rename", "tokenizer.ggml.tokens=x"], "would have none"),
    "scores": (["--set", "tokenizer.ggml.scores=[1.0]"], "scores would have 1 elements, and tokenizer.ggml.tok"),
    "types removed": (["--remove", "tokenizer.ggml.token_type"], "token_type would be gone"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_break_the_file_needs_force(path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    words, message = REFUSED[case]
    err = refused(capsys, path, *words)
    assert message in err
    assert err.endswith("; --force does it all the same\n")
    edit(capsys, path, *words, "--force")
    values(path)


def test_tokens_may_change_while_they_stay_as_many(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(capsys, path, "--set", 'tokenizer.ggml.tokens=["a", "b", "longer"]')
    assert values(path)["tokenizer.ggml.tokens"][1] == ["a", "b", "longer"]


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_another_alignment_lays_the_file_out_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], byteorder: str
) -> None:
    path = model(tmp_path / "m.gguf", byteorder=byteorder)
    before = values(path)
    found = edit(capsys, path, "--set", "general.alignment:uint32=4096", "--force")
    assert (found["mode"], found["bytes"]) == ("rewrite", path.stat().st_size)
    assert values(path) == {**before, "general.alignment": ("uint32", 4096)}
    with open_gguf(path) as file:
        assert (file.byteorder, file.tensors["u"].offset % 4096) == (byteorder, 0)
    edit(capsys, path, "--remove", "general.alignment", "--force")
    assert values(path) == before
    assert "must be a uint32" in refused(capsys, path, "--set", "general.alignment:uint8=64", "--force")
    assert "power of two" in refused(capsys, path, "--set", "general.alignment:uint32=63", "--force")


WRONG = {
    "no such key": (["--set", "general.nam=x"], "there is no metadata key 'general.nam' (did you mean general.name?)"),
    "remove": (["--remove", "k.lists"], "there is no metadata key 'k.lists'; did you mean 'k.list'?"),
    "rename": (["--rename", "zzz=y"], "there is no metadata key 'zzz'; `ggufpy inspect` lists them"),
    "taken": (["--rename", "odd=k.list"], "there is a key 'k.list' already; remove it first"),
    "range": (["--set", "k.uint8=256"], "metadata 'k.uint8': 256 does not fit uint8"),
    "number": (["--set", "k.int8=1.5"], "k.int8: '1.5' is not a int8"),
    "float": (["--set", "k.float32=x"], "k.float32: 'x' is not a float32"),
    "bool": (["--set", "k.bool=yes"], "'yes' is not a bool; give true or false"),
    "json": (["--set", "k.list=[1"], "takes a JSON list such as [1, 2], and this is none"),
    "deep": (["--set", "k.list=" + "[" * 100_000], "takes a JSON list such as [1, 2], and this is none"),
    "list": (["--set", "k.list=1"], "takes a JSON list such as [1, 2], not '1'"),
    "element": (["--set", "k.list=[1, 300]"], "1 to 300 does not fit uint8"),
    "element type": (["--set", 'k.list=["a"]'], "a (str) is not a uint8"),
    "type": (["--set", "new:uint9=1"], "'uint9' is not a GGUF value type"),
    "inner type": (["--set", "new:array[flot]=[1]"], "'array[flot]' is not a GGUF value type"),
    "bare array": (["--set", "new:array=[1]"], "'array' is not a GGUF value type"),
    "empty name": (["--rename", "odd=\udcff"], "is not valid Unicode"),
}


@pytest.mark.parametrize("case", WRONG)
def test_changes_that_cannot_be_made(path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    words, message = WRONG[case]
    assert message in refused(capsys, path, *words)


def test_wrong_usage(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to change" in refused(capsys, path, status=2)
    assert "KEY=VALUE" in refused(capsys, path, "--set", "novalue", status=2)
    assert "OLD=NEW" in refused(capsys, path, "--rename", "odd", status=2)


def test_chat_template(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    good, bad = templates / "good.jinja", templates / "bad.jinja"
    good.write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}", "utf-8")
    bad.write_text("{% for %}", "utf-8")
    edit(capsys, path, "--chat-template", good)
    assert values(path)["tokenizer.chat_template"] == ("string", good.read_text("utf-8"))
    assert main(["edit", str(path), "--chat-template", str(bad)]) == 1
    assert f"{bad} is not a valid jinja2 template" in capsys.readouterr().err
    edit(capsys, path, "--chat-template", bad, "--force")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"{{ 1 }}")))
    edit(capsys, path, "--chat-template", "-")
    assert values(path)["tokenizer.chat_template"] == ("string", "{{ 1 }}")
    bad.write_bytes(b"\xff")
    for name, message in ((bad, "is not UTF-8 text (byte 0)"), (tmp_path / "none", "cannot read")):
        assert main(["edit", str(path), "--chat-template", str(name)]) == 1
        assert message in capsys.readouterr().err


def test_set_json(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = folder / "changes.json"
    before = values(path)
    source.write_text('{"k.uint8": 9, "k.list": [8], "new": ["a"], "typed": {"type": "int64", "value": 5}}')
    edit(capsys, path, "--set-json", source)
    assert values(path) == {
        **before,
        "k.uint8": ("uint8", 9),
        "k.list": ("array[uint8]", [8]),
        "new": ("array[string]", ["a"]),
        "typed": ("int64", 5),
    }
    for text, message in (
        ("[1]", "must hold a JSON object"),
        ("{", "is not JSON"),
        ('{"a": {"b": 1}}', 'an object must be {"type": ..., "value": ...}'),
        ('{"a": null}', "a NoneType cannot be written"),
        ("[" * 100_000, "lists within lists, too deep"),
        ('{"a": {"type": "uint9", "value": 1}}', "'uint9' is not a GGUF value type"),
    ):
        source.write_text(text)
        assert main(["edit", str(path), "--set-json", str(source)]) == 1
        assert message in capsys.readouterr().err


def test_systems_that_do_not_copy_by_themselves(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = values(path)

    def decline(*args: Any) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", decline, raising=False)
    edit(capsys, path, "--set", f"general.name={'n' * 100}")
    assert values(path) == {**before, "general.name": ("string", "n" * 100)}
    edit(capsys, path, "--set", f"general.name={'m' * 100}", "--set", "k.list=[3,2,1]", "-o", path.with_name("o.gguf"))
    assert values(path.with_name("o.gguf"))["k.list"][1] == [3, 2, 1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="copy_file_range is Linux's")
def test_a_disk_error_while_copying(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", fail)
    err = refused(capsys, path, "--set", f"general.name={'n' * 100}")
    assert f"cannot write {path}: No space left on device" in err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.name", Typed("string", "a game")),
        ("general.name", Typed("string", "n" * 100)),
        ("general.alignment", Typed("uint32", 128)),
    ],
    ids=["in place", "copy", "laid out anew"],
)
def test_a_file_that_another_program_changes_meanwhile(path: Path, key: str, value: Typed) -> None:
    editor = Editor(path)
    draft = editor.draft()
    draft.set(key, value)
    with path.open("r+b") as file:
        file.seek(0, 2)
        file.write(b"more")
    with pytest.raises(GGUFError, match="was changed by another program meanwhile"):
        editor.save(draft, None)
    assert os.listdir(path.parent) == [path.name]


def test_one_file_of_a_set_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s-00001-of-00002.gguf"
    write(path, {"split.count": Typed("uint16", 2), "general.name": "a"}, TENSORS)
    assert edit(capsys, path, "--set", "general.name=b")["mode"] == "in-place"
    assert b"general.name\x08\0\0\0\1\0\0\0\0\0\0\0b" in path.read_bytes()


@pytest.mark.parametrize("metadata", [{"a": [True, False]}, {"a": ["x", b"\xff"]}, {"a": [[1], ["b"]]}, {"a": 1}])
def test_files_without_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str], metadata: dict[str, Any]) -> None:
    path = tmp_path / "m.gguf"
    write(path, metadata, {})
    with open_gguf(path) as file:
        before = dict(file.metadata)
    edit(capsys, path, "--set", "b:uint8=3")
    edit(capsys, path, "--set", "c:string=" + "c" * 100, "--remove", "b")
    with open_gguf(path) as file:
        assert dict(file.metadata) == {**before, "c": "c" * 100}


def test_no_padding_is_made_up_where_no_data_follow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    write(path, {"general.alignment": Typed("uint32", 1 << 12), "a": 1}, {})
    path.write_bytes(path.read_bytes().rstrip(b"\0") + bytes(3))  # as other writers leave it
    with path.open("r+b") as file:  # of an alignment of 2 GiB
        file.seek(path.read_bytes().index(b"alignment") + 9 + 4)
        file.write((1 << 31).to_bytes(4, "little"))
    edit(capsys, path, "--set", "a=2")
    assert path.stat().st_size < 200
    with open_gguf(path) as file:
        assert dict(file.metadata) == {"general.alignment": 1 << 31, "a": 2}


def test_files_that_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_bytes(b"no such thing")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("gone", "no such file"),
        ("empty", "is empty, not a GGUF file"),
        ("other", "is not a GGUF file"),
        ("pipe", "is not a regular file"),
        (".", "is a folder: give a .gguf file"),
    ):
        assert main(["edit", str(tmp_path / name), "--set", "a=b"]) == 1
        assert message in capsys.readouterr().err
