"""`hash`: digests as hashlib and xxhash give them, manifests in llama-gguf-hash's form, and their check."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from ggufpy.cli import main
from ggufpy.format import Blocks, digest, write
from ggufpy.format import open as open_gguf

NEW = {"xxh64": xxhash.xxh64, "xxh3": xxhash.xxh3_64, "sha1": hashlib.sha1, "sha256": hashlib.sha256}


def model(path: Path, **options: Any) -> Path:
    rng = np.random.default_rng(5)
    tensors = {
        "a.weight": rng.normal(size=(30, 41)).astype(np.float32),
        "q:odd name": Blocks(rng.integers(0, 255, (4, 34), dtype=np.uint8), "Q8_0"),
        "none": np.zeros((0, 4), np.float32),
        "z": rng.normal(size=7).astype(np.float16),
    }
    write(path, {"general.architecture": "llama"}, tensors, **options)
    return path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with tensors that take several pieces."""
    monkeypatch.setattr(digest, "HASHED_BYTES", 1000)
    return model(tmp_path / "m.gguf")


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    status = main(["hash", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def expected(path: Path, algorithm: str) -> dict[str, str]:
    with open_gguf(path) as file:
        data = {t.name: t.data.tobytes() for t in file.tensors.values()}
    return {name: NEW[algorithm](raw).hexdigest() for name, raw in {**data, "": b"".join(data.values())}.items()}


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_digests(tmp_path: Path, capsys: pytest.CaptureFixture[str], byteorder: str) -> None:
    path = model(tmp_path / "m.gguf", byteorder=byteorder)
    status, out, err = run(capsys, path, "--all", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    for algorithm in NEW:
        by_name = {each["name"]: each[algorithm] for each in found["tensors"]}
        assert {**by_name, "": found[algorithm]} == expected(path, algorithm)
    assert found["bytes"] == 30 * 41 * 4 + 4 * 34 + 14


def test_lines_are_those_of_llama_gguf_hash(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, path)
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["xxh64", "sha256"] * 5
    for line in lines:
        match = re.fullmatch(r"(xxh64   |sha256  )  ([0-9a-f]+)  (.*)", line)
        assert match is not None
        name = match[3].removeprefix(str(path)).removeprefix(":")
        assert match[2] == expected(path, match[1].strip())[name]
    _, out, _ = run(capsys, path, "--sha256", "--no-layers")
    assert out == f"sha256    {expected(path, 'sha256')['']}  {path}\n"


def test_a_split_set_hashes_as_one_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = json.loads(run(capsys, path, "--json")[1])
    main(["split", str(path), str(path.with_name("s")), "--split-max-tensors", "2"])
    capsys.readouterr()
    found = json.loads(run(capsys, path.with_name("s-00002-of-00002.gguf"), "--json")[1])
    assert {**found, "file": whole["file"]} == whole


def test_a_manifest_that_holds(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    manifest.write_text(run(capsys, path)[1])
    status, out, _ = run(capsys, path, "--check", manifest)
    assert status == 0
    assert out.splitlines()[-1] == f"{manifest}: Success"
    assert out.count("  -  Ok\n") == 10
    found = json.loads(run(capsys, path, "--check", manifest, "--json")[1])["check"]
    nothing: dict[str, Any] = {"mismatched": [], "missing": [], "unlisted": []}
    assert found == {"manifest": str(manifest), "ok": True, "matched": 10, **nothing}
    assert run(capsys, path, "-c", manifest, "--sha256")[1].count("Ok") == 5
    assert run(capsys, path, "-c", manifest, "--no-layers")[0] == 0
    moved = path.rename(tmp_path / "renamed:model.gguf")  # the only file that it can be about
    assert run(capsys, moved, "-c", manifest)[0] == 0
    main(["edit", str(moved), "--set", "general.name:string=" + "n" * 300])
    capsys.readouterr()
    assert run(capsys, moved, "-c", manifest)[0] == 0


def test_a_manifest_of_several_files(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    other = tmp_path / "other.gguf"
    write(other, {}, {"z": np.ones(7, np.float16)})
    lines = run(capsys, path)[1].upper().replace(str(path).upper(), "dir/m.gguf")  # written elsewhere, in capitals
    text = run(capsys, other)[1] + "\n# a note\n" + lines
    for name in ("a.weight", "q:odd name", "none", "z"):
        text = text.replace(":" + name.upper(), ":" + name)
    manifest.write_text(text.replace("XXH64", "xxh64").replace("SHA256", "sha256"))
    assert run(capsys, path, "-c", manifest)[0] == 0
    assert run(capsys, other, "-c", manifest)[0] == 0
    third = tmp_path / "third.gguf"
    write(third, {}, {"z": np.ones(7, np.float16)})
    status, _, err = run(capsys, third, "-c", manifest)
    assert status == 1
    assert "says nothing of third.gguf; it is about m.gguf, other.gguf" in err


def test_a_changed_weight_is_found(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    manifest.write_text(run(capsys, path)[1])
    with open_gguf(path) as file:
        at = file.tensors["a.weight"].offset + 4000
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    status, out, _ = run(capsys, path, "-c", manifest)
    assert status == 1
    assert out.count("  -  Mismatch\n") == 4
    assert out.splitlines()[-1] == f"{manifest}: Failure: 2 mismatched, the first: a.weight"
    found = json.loads(run(capsys, path, "-c", manifest, "--json")[1])["check"]
    assert (found["ok"], found["mismatched"]) == (False, ["a.weight", ""])


def test_tensors_that_only_one_side_has(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    lines = run(capsys, path, "--sha256")[1].splitlines()
    manifest.write_text("\n".join(lines[1:-1]))  # without a.weight and the whole
    status, out, _ = run(capsys, path, "-c", manifest)
    assert status == 1
    assert out.splitlines()[-1] == f"{manifest}: Failure: 1 not in the manifest, the first: a.weight"
    manifest.write_text("\n".join(lines[1:]))  # the whole covers a.weight
    assert run(capsys, path, "-c", manifest)[0] == 0
    manifest.write_text("\n".join([*lines, f"sha256  00  {path}:gone.weight"]))
    status, out, _ = run(capsys, path, "-c", manifest)
    assert status == 1
    assert out.splitlines()[-1] == f"{manifest}: Failure: 1 not in the file, the first: gone.weight"
    manifest.write_text("\n".join(lines[:-1]))
    status, out, _ = run(capsys, path, "-c", manifest, "--no-layers")
    assert status == 1
    assert "nothing to compare" in out


ODD = ("new\nline", "end ", " begin", "uni\u2028", "esc\x1b[31m", "a:b.gguf:c", "tab\t", "carriage\r")


def test_names_with_odd_characters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, manifest = tmp_path / "m\u00a0odd.gguf", tmp_path / "manifest"
    write(path, {}, {name: np.full(3, i, np.float32) for i, name in enumerate(ODD)})
    lines = run(capsys, path)[1]
    assert "\x1b" not in lines
    assert len(lines.splitlines()) == 2 * len(ODD) + 2
    for ends in ("\n", "\r\n"):
        manifest.write_text(lines, newline=ends)
        status, out, _ = run(capsys, path, "-c", manifest, "--json")
        assert (status, json.loads(out)["check"]["matched"]) == (0, 2 * len(ODD) + 2)
    manifest.write_text("".join(line + "  \n" for line in lines.splitlines() if "end " not in line))
    assert run(capsys, path, "-c", manifest)[0] == 0


def test_manifests_that_are_none(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    assert "cannot read" in run(capsys, path, "-c", manifest)[2]
    manifest.write_bytes(b"uuid 1234 m.gguf\n\xff\n")
    assert "has no line of xxh64, xxh3, sha1, sha256" in run(capsys, path, "-c", manifest)[2]
    manifest.write_text(run(capsys, path, "--sha1")[1])
    assert run(capsys, path, "-c", manifest)[0] == 0
    status, _, err = run(capsys, path, "-c", manifest, "--sha256")
    assert status == 2
    assert f"{manifest} has no sha256 hashes; it has sha1" in err
