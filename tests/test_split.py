"""`split` and `merge`: names and keys as llama.cpp has them, nothing lost, all files or none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ggufpy.cli import main
from ggufpy.errors import GGUFError
from ggufpy.format import Blocks, Typed, write
from ggufpy.format import open as open_gguf
from ggufpy.format.split import Limits, plan

METADATA = {
    "general.architecture": "llama",
    "general.name": b"not \xff UTF-8",
    "n": Typed("uint16", 7),
    "tokens": [f"t{i}" for i in range(50)],
    "nested": Typed("array[array]", [Typed("array[int8]", [1, -1]), Typed("array[string]", ["a"])]),
}


def model(path: Path, count: int = 10, **options: Any) -> Path:
    rng = np.random.default_rng(3)
    tensors: dict[str, Any] = {f"t{i}": rng.normal(size=(3, 5 + i)).astype(np.float32) for i in range(count - 1)}
    tensors["q"] = Blocks(rng.integers(0, 255, (4, 34), dtype=np.uint8), "Q8_0")
    write(path, METADATA, tensors, **options)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--split-max-tensors", "3"), 4),
        (("--split-max-tensors", "3", "--no-tensor-first-split"), 5),
        (("--split-max-tensors", "128"), 1),
        ((), 1),
        (("--split-max-size", "1K"), 2),
    ],
)
@pytest.mark.parametrize(
    "options", [{}, {"version": 2, "byteorder": "big"}, {"alignment": 64}], ids=["plain", "big-endian 2", "aligned"]
)
def test_merging_what_was_split_gives_the_same_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], count: int, options: dict[str, Any]
) -> None:
    path = model(tmp_path / "m.gguf", **options)
    status, out, err = run(capsys, "split", path, tmp_path / "s", *words)
    assert (status, err) == (0, "")
    parts = [f"s-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
    assert names(tmp_path) == sorted(["m.gguf", *parts])
    assert out.endswith("1 file was written\n" if count == 1 else f"{count} files were written\n")
    with open_gguf(tmp_path / parts[-1]) as whole, open_gguf(path) as source:
        assert list(whole.tensors) == list(source.tensors)
        assert (whole.version, whole.byteorder, whole.alignment) == (
            source.version,
            source.byteorder,
            source.alignment,
        )
    assert run(capsys, "merge", tmp_path / parts[0], tmp_path / "again.gguf")[0] == 0
    assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


def test_keys_of_the_files_are_those_of_llama_cpp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "split", model(tmp_path / "m.gguf"), tmp_path / "s", "--split-max-tensors", "4")[0] == 0
    for i, tensors in enumerate((4, 4, 2)):
        reader = gguf.GGUFReader(tmp_path / f"s-{i + 1:05d}-of-00003.gguf")
        assert len(reader.tensors) == tensors
        found = {key: (field.types, field.contents()) for key, field in reader.fields.items() if key[:5] == "split"}
        assert found == {
            "split.no": ([gguf.GGUFValueType.UINT16], i),
            "split.count": ([gguf.GGUFValueType.UINT16], 3),
            "split.tensors.count": ([gguf.GGUFValueType.INT32], 10),
        }
        assert ("general.architecture" in reader.fields) == (i == 0)


def test_where_files_are_cut(tmp_path: Path) -> None:
    """By size: where the padded bytes of tensors would pass the limit, as gguf-split counts them."""
    sizes = (10, 20, 30, 8, 8, 40)
    write(tmp_path / "m.gguf", {}, {f"t{i}": np.zeros(n, np.float32) for i, n in enumerate(sizes)})
    with open_gguf(tmp_path / "m.gguf") as file:

        def cut(**limits: Any) -> list[int]:
            return [len(part.tensors) for part in plan(file, tmp_path / "s", Limits(**limits))]

        # padded: 64, 96, 128, 32, 32, 160
        assert cut(bytes=160) == [2, 2, 1, 1]
        assert cut(bytes=288) == [3, 3]
        assert cut(bytes=10**9) == [6]
        assert cut(bytes=160, first=False) == [0, 2, 2, 1, 1]
        assert cut(tensors=4) == [4, 2]
        assert cut(tensors=6, first=False) == [0, 6]
        assert cut(tensors=1) == [1] * 6
        with pytest.raises(GGUFError, match=r"tensor 't5' alone has 160 bytes, and a file may have 128"):
            cut(bytes=128)


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(tmp_path / "m.gguf")
    status, out, _ = run(capsys, "split", path, tmp_path / "s", "--split-max-tensors", "6", "--dry-run", "--json")
    found = json.loads(out)
    assert (status, found["dry_run"], found["bytes"]) == (0, True, 0)
    assert [f["tensors"] for f in found["files"]] == [6, 4]
    assert names(tmp_path) == ["m.gguf"]


def test_a_set_is_split_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(tmp_path / "m.gguf")
    run(capsys, "split", path, tmp_path / "s", "--split-max-tensors", "3")
    assert run(capsys, "split", tmp_path / "s-00002-of-00004.gguf", tmp_path / "s", "--split-max-tensors", "5")[0] == 0
    assert run(capsys, "merge", tmp_path / "s-00001-of-00002.gguf", tmp_path / "again.gguf", "--json")[0] == 0
    assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


def test_what_is_there_is_kept_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(tmp_path / "m.gguf")
    old = tmp_path / "s-00002-of-00002.gguf"
    old.write_bytes(b"old")
    before = contents(tmp_path)
    words = ("split", path, tmp_path / "s", "--split-max-tensors", "5")
    status, _, err = run(capsys, *words)
    assert (status, contents(tmp_path)) == (1, before)
    assert err == f"ggufpy split: {old} is there already; remove it, give another name, or replace it with --force\n"
    assert run(capsys, *words, "--force")[0] == 0
    first = tmp_path / "s-00001-of-00002.gguf"
    status, _, err = run(capsys, "merge", first, path)
    assert (status, path.read_bytes()) == (1, before["m.gguf"])
    assert "is there already" in err
    assert run(capsys, "merge", first, path, "--force")[0] == 0
    assert path.read_bytes() == before["m.gguf"]


@pytest.mark.parametrize("link", ["path", "symlink", "hard link"])
def test_the_input_is_never_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str], link: str) -> None:
    path = model(tmp_path / "m.gguf")
    run(capsys, "split", path, tmp_path / "s", "--split-max-tensors", "5")
    part = tmp_path / "s-00002-of-00002.gguf"
    target = part if link == "path" else tmp_path / "link.gguf"
    if link == "symlink":
        target.symlink_to(part)
    elif link == "hard link":
        os.link(part, target)
    before = contents(tmp_path)
    status, _, err = run(capsys, "merge", tmp_path / "s-00001-of-00002.gguf", target, "--force")
    assert (status, contents(tmp_path)) == (1, before)
    assert "is the file that is being read" in err
    status, _, err = run(capsys, "split", part, tmp_path / "s", "--split-max-tensors", "5", "--force")
    assert (status, contents(tmp_path)) == (1, before)
    assert "is the file that is being read" in err


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_an_error_between_two_names_puts_all_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, failing: int, existing: bool
) -> None:
    path = model(tmp_path / "m.gguf")
    words = ("split", path, tmp_path / "s", "--split-max-tensors", "4", "--force")
    if existing:
        for i in (1, 3):
            (tmp_path / f"s-0000{i}-of-00003.gguf").write_bytes(b"old %d" % i)
    before = contents(tmp_path)
    replace, taken = os.replace, []

    def fail(source: Any, target: Any) -> None:
        if Path(target).parent == tmp_path and "old" not in str(source):
            taken.append(target)
            if len(taken) == failing:
                raise OSError(5, "Input/output error", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    status, _, err = run(capsys, *words)
    assert status == 1
    assert "Input/output error; nothing was changed" in err
    assert contents(tmp_path) == before
    monkeypatch.undo()
    assert run(capsys, *words)[0] == 0


def test_an_interruption_between_two_names_puts_all_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model(tmp_path / "m.gguf")
    (tmp_path / "s-00003-of-00003.gguf").write_bytes(b"old")
    before = contents(tmp_path)
    replace, taken = os.replace, []

    def interrupt(source: Any, target: Any) -> None:
        if Path(target).parent == tmp_path and "old" not in str(source):
            taken.append(target)
            if len(taken) == 2:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    assert main(["split", str(path), str(tmp_path / "s"), "--split-max-tensors", "4", "--force"]) == 130
    assert len(taken) == 2
    assert contents(tmp_path) == before


def test_file_systems_without_locks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    other = tmp_path / ".ggufpy-split-0123456789abcdef"  # nobody can tell whether it is in use
    other.mkdir()

    def refuse(*args: Any) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert run(capsys, "split", model(tmp_path / "m.gguf"), tmp_path / "s")[0] == 0
    assert names(tmp_path) == [other.name, "m.gguf", "s-00001-of-00001.gguf"]


@pytest.mark.parametrize("prefix", ["", ".", "/"])
def test_prefixes_without_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    path = model(tmp_path / "m.gguf")
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "split", path, prefix)
    assert status == 1
    assert "is a folder and no prefix; give also what the names begin with" in err
    assert names(tmp_path) == ["m.gguf"]


def test_folders_are_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s-00001-of-00001.gguf").mkdir()
    for force in ((), ("--force",)):
        status, _, err = run(capsys, "split", model(tmp_path / "m.gguf"), tmp_path / "s", *force)
        assert status == 1
        assert "s-00001-of-00001.gguf is a folder; give another name" in err
    assert names(tmp_path) == ["m.gguf", "s-00001-of-00001.gguf"]


def test_what_a_killed_split_left_is_removed_by_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = tmp_path / ".ggufpy-split-0123456789abcdef"
    left.mkdir()
    (left / "m-00001-of-00002.gguf").write_bytes(b"half")
    assert run(capsys, "split", model(tmp_path / "m.gguf"), tmp_path / "s")[0] == 0
    assert names(tmp_path) == ["m.gguf", "s-00001-of-00001.gguf"]


def test_a_split_that_is_at_work_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fcntl = pytest.importorskip("fcntl")
    busy = tmp_path / ".ggufpy-split-0123456789abcdef"
    busy.mkdir()
    lock = os.open(busy, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert run(capsys, "split", model(tmp_path / "m.gguf"), tmp_path / "s")[0] == 0
    assert busy.exists()
    os.close(lock)
    assert run(capsys, "split", tmp_path / "m.gguf", tmp_path / "s", "--force")[0] == 0
    assert not busy.exists()


def test_sets_that_cannot_be_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(tmp_path / "m.gguf")
    out = tmp_path / "out.gguf"
    assert "is not one of a split set" in run(capsys, "merge", path, out)[2]
    run(capsys, "split", path, tmp_path / "s", "--split-max-tensors", "5")
    run(capsys, "split", model(tmp_path / "other.gguf", 12), tmp_path / "o", "--split-max-tensors", "6")
    first, second = (tmp_path / f"s-0000{i}-of-00002.gguf" for i in (1, 2))
    second.rename(tmp_path / "kept")
    assert f"{second} is missing" in run(capsys, "merge", first, out)[2]
    (tmp_path / "o-00002-of-00002.gguf").rename(second)
    status, _, err = run(capsys, "merge", first, out)
    assert status == 1
    assert err.count("\n") == 1
    assert "split.tensors.count" in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split-max-size", "4X"), "'4X' is not a size such as 4G or 500M"),
        (("--split-max-size", "0M"), "'0M' is not a size"),
        (("--split-max-tensors", "0"), "0 is too small, the least is 1"),
        (("--split-max-size", "1G", "--split-max-tensors", "2"), "not allowed with argument"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    status, _, err = run(capsys, "split", tmp_path / "m.gguf", tmp_path / "s", *words)
    assert status == 2
    assert message in err


def test_folders_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model(tmp_path / "m.gguf")
    assert "there is no folder" in run(capsys, "split", path, tmp_path / "no" / "s")[2]
    run(capsys, "split", path, tmp_path / "s")
    status, _, err = run(capsys, "merge", tmp_path / "s-00001-of-00001.gguf", tmp_path / "no" / "out.gguf")
    assert status == 1
    assert "there is no folder" in err
