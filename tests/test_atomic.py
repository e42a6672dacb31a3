"""Files that are never half-written: kills at every step and at random moments, full disks, interruptions.

A helper process that has everything imported forks a child for each case, so that a kill costs milliseconds.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufpy.cli import main
from ggufpy.errors import GGUFError
from ggufpy.format import AtomicFile, Typed, write
from ggufpy.format import open as open_gguf
from ggufpy.format.atomic import check_space, check_target

unix = pytest.mark.skipif(sys.platform == "win32", reason="forks")

# What a child does: one step of work named on the command line, between states a (0) and b (1) of its files.
WORK = """
import os, signal, sys
from pathlib import Path
import numpy as np
from ggufpy.format import write, open as open_gguf
from ggufpy.format.edit import Editor
from ggufpy.format.split import Limits, merge, plan, split
from ggufpy.format.values import Typed

def do_write(folder, state):
    tensors = {f"t{i}": np.full(20_000, 10 * i + state, np.float32) for i in range(3)}
    write(folder / "m.gguf", {"state": state, "name": "n" * 600, "text": "s" * (10 + 900 * state)}, tensors)

def do_patch(folder, state):
    change(folder, "state", Typed("uint32", state))

def do_edit(folder, state):
    change(folder, "text", Typed("string", "s" * (10 + 900 * state)))

def change(folder, key, value):
    editor = Editor(folder / "m.gguf")
    draft = editor.draft()
    draft.set(key, value)
    editor.save(draft, None)

def do_split(folder, state):
    with open_gguf(folder / "in" / f"{state}.gguf") as file:
        split(file, plan(file, folder / "m", Limits(tensors=1)), force=True)

def do_merge(folder, state):
    with open_gguf(folder / "in" / f"{state}-00001-of-00003.gguf") as file:
        merge(file, folder / "m.gguf", force=True)
"""
SERVE = """
EVENTS = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.scandir", "os.truncate",
          "mmap.__new__", "fcntl.flock", "shutil.rmtree", "os.chmod", "os.listdir"}

def at_step(step):
    left = [step]
    def hook(event, args):
        if event in EVENTS:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

work = globals()["do_" + sys.argv[1]]
folder = Path(sys.argv[2])
for line in sys.stdin:
    step = int(line)  # 0: go on for ever
    pid = os.fork()
    if not pid:
        if step:
            at_step(step)
            work(folder, 1)
        while not step:
            work(folder, 1)
            work(folder, 0)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""
TASKS = ("write", "patch", "edit", "split", "merge")


class Forge:
    """Children that work and are killed."""

    def __init__(self, task: str, folder: Path) -> None:
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORK + SERVE, task, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def start(self, step: int) -> int:
        """Fork a child; its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{step}\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> int:
        """Wait for the child; its status, 0 where it was not killed."""
        return self._read()

    def _read(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the helper."""
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    """The name of a kind of work."""
    return str(request.param)


@pytest.fixture
def work(task: str) -> Callable[[Path, int], None]:
    """That work, to be done in this process."""
    names: dict[str, Any] = {}
    exec(WORK, names)
    done: Callable[[Path, int], None] = names[f"do_{task}"]
    return done


@pytest.fixture
def folder(tmp_path: Path, task: str) -> Path:
    """A folder with the inputs of the work."""
    folder = tmp_path / "work"
    (folder / "in").mkdir(parents=True)
    names: dict[str, Any] = {}
    exec(WORK, names)
    for state in (0, 1):
        names["do_write"](folder, state)
        os.replace(folder / "m.gguf", folder / "in" / f"{state}.gguf")
        source = folder / "in" / str(state)
        main(["split", f"{source}.gguf", str(source), "--split-max-tensors", "1"])
    if task in ("patch", "edit"):
        shutil.copy(folder / "in" / "0.gguf", folder / "m.gguf")
    return folder


def states(folder: Path, work: Callable[[Path, int], None]) -> list[dict[str, bytes]]:
    """The files in state b and then in state a, where they are left."""
    found = []
    for state in (1, 0):
        work(folder, state)
        found.append(outputs(folder))
    assert found[0].keys() == found[1].keys()
    assert found[0] != found[1]
    return found


def outputs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name.startswith("m")}


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def check_whole(folder: Path, either: list[dict[str, bytes]]) -> None:
    """Every file is there, as it was in one of the two states."""
    found = outputs(folder)
    assert found.keys() == either[0].keys()
    for name, raw in found.items():
        assert raw in (either[0][name], either[1][name]), f"{name} is torn"
    if len(hidden(folder)) > 1:
        raise AssertionError(f"more than one temporary file is left: {hidden(folder)}")


@unix
def test_a_kill_at_every_step(folder: Path, task: str, work: Callable[[Path, int], None]) -> None:
    """Before each call that opens, maps, renames or removes a file: the old files or the new ones, whole."""
    either = states(folder, work)
    forge = Forge(task, folder)
    seen = set()
    for step in range(1, 1000):
        forge.start(step)
        status = forge.end()
        check_whole(folder, either)
        seen.add(outputs(folder) == either[0])
        if status == 0:
            break
        assert status == 9
        work(folder, 1)
        work(folder, 0)
        assert hidden(folder) == []  # what the kill left is gone
        assert outputs(folder) == either[1]
    forge.close()
    assert step > 3
    assert seen == {False, True}
    assert outputs(folder) == either[0]


@unix
def test_fifty_kills_at_random_moments(folder: Path, task: str, work: Callable[[Path, int], None]) -> None:
    either = states(folder, work)
    forge = Forge(task, folder)
    moments = random.Random(7)
    for _ in range(50):
        child = forge.start(0)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(child, 9)
        assert forge.end() == 9
        check_whole(folder, either)
    forge.close()
    work(folder, 1)
    work(folder, 0)
    assert (outputs(folder), hidden(folder)) == (either[1], [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte. Skips where the test may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    ) if shutil.which("mount") and sys.platform == "linux" and os.geteuid() == 0 else None  # fmt: skip
    if mounted is None or mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    gc.collect()  # maps of files there keep it busy
    subprocess.run(["umount", "-l", str(folder)], check=True)


def large(path: Path) -> Path:
    write(path, {"a": 1, "name": "n" * 600}, {f"t{i}": np.ones(100_000, np.float32) for i in range(3)})
    return path


@pytest.mark.parametrize("said", [True, False], ids=["free space is known", "free space is not known"])
@pytest.mark.parametrize("command", ["write", "split", "merge", "edit", "edit -o", "edit alignment"])
def test_a_full_disk(
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    said: bool,
) -> None:
    source, target = large(tmp_path / "in.gguf"), small_disk / "m.gguf"
    small = {"t": np.ones(150_000, np.float32)}
    write(target, {"name": "old", "text": "t" * 600}, small)  # 600 kB: a second one does not fit
    main(["split", str(source), str(tmp_path / "s"), "--split-max-tensors", "2"])
    for i in (1, 2):
        (small_disk / f"s-0000{i}-of-00002.gguf").write_bytes(b"old")
    before = {p.name: p.read_bytes() for p in small_disk.iterdir()}
    if not said:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    capsys.readouterr()
    if command == "write":
        with open_gguf(source) as file, pytest.raises(GGUFError, match=f"cannot write {target}"):
            write(target, file.metadata, file.tensors)
    else:
        words = {
            "split": ["split", str(source), str(small_disk / "s"), "--split-max-tensors", "2", "--force"],
            "merge": ["merge", str(tmp_path / "s-00001-of-00002.gguf"), str(target), "--force"],
            "edit": ["edit", str(target), "--set", f"name={'x' * 4000}"],
            "edit -o": ["edit", str(source), "--set", "a=2", "-o", str(small_disk / "out.gguf")],
            "edit alignment": ["edit", str(target), "--set", "general.alignment:uint32=64", "--force"],
        }[command]
        assert main(words) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert ("too little: make room" in err) == said
        assert ("No space left on device" in err) == (not said)
    assert {p.name: p.read_bytes() for p in small_disk.iterdir()} == before


@unix
@pytest.mark.parametrize("command", ["write", "split", "merge", "edit"])
def test_files_that_the_system_refuses_to_let_grow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """The same without a disk of its own: writing fails in the middle, past 200 kB."""
    import resource

    source, target = large(tmp_path / "in.gguf"), tmp_path / "m.gguf"
    main(["split", str(source), str(tmp_path / "s"), "--split-max-tensors", "2"])
    target.write_bytes(b"old")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    words = {
        "split": ["split", str(source), str(tmp_path / "n"), "--split-max-tensors", "2"],
        "merge": ["merge", str(tmp_path / "s-00001-of-00002.gguf"), str(target), "--force"],
        "edit": ["edit", str(source), "--set", f"name={'x' * 4000}"],
    }.get(command)
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        if words is None:
            with open_gguf(source) as file, pytest.raises(GGUFError, match="File too large"):
                write(target, file.metadata, file.tensors)
        else:
            assert main(words) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if words is not None:
        assert "File too large" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = large(tmp_path / "m.gguf")
    before = path.read_bytes()

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(path, {}, {})
    assert os.listdir(tmp_path) == ["m.gguf"]
    assert path.read_bytes() == before


def test_what_a_check_refuses_does_not_get_the_name(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def refuse(written: Path) -> None:
        assert written.read_bytes() == b"new"
        raise GGUFError("it is no good")

    atomic = AtomicFile(path)
    atomic.file.write(b"new")
    with pytest.raises(GGUFError, match=r"cannot write .*f: .* it is no good"):
        atomic.commit(refuse)
    assert os.listdir(tmp_path) == ["f"]
    assert path.read_bytes() == b"old"


@unix
def test_temporary_files_of_the_dead_and_of_the_living(tmp_path: Path) -> None:
    dead = tmp_path / ".ggufpy-0123456789abcdef.tmp"
    dead.write_bytes(b"half")
    other = tmp_path / ".ggufpy-notes.tmp"
    other.write_bytes(b"somebody's")
    with AtomicFile(tmp_path / "a") as first, AtomicFile(tmp_path / "b") as second:
        first.file.write(b"1")
        second.file.write(b"2")
        assert len(os.listdir(tmp_path)) == 3
        assert not dead.exists()
    assert sorted(os.listdir(tmp_path)) == [other.name, "a", "b"]
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"1", b"2")


def test_a_symlink_leads_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with AtomicFile(tmp_path / "link") as atomic:
        atomic.file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@unix
@pytest.mark.parametrize("mode", [0o600, 0o444, 0o755])
@pytest.mark.parametrize("work", ["write", "edit", "lay out anew", "split"])
def test_a_file_keeps_the_permissions_of_the_one_it_replaces(tmp_path: Path, mode: int, work: str) -> None:
    path, other = tmp_path / "m.gguf", tmp_path / "s-00001-of-00001.gguf"
    write(path, {"a": "x"}, {"t": np.zeros(4, np.float32)})
    other.write_bytes(b"old")
    for each in (path, other):
        each.chmod(mode)
    if work == "write":
        write(path, {}, {})
    elif work == "split":
        assert main(["split", str(path), str(tmp_path / "s"), "--force"]) == 0
        assert other.read_bytes() != b"old"
    else:
        change = "a=" + "y" * 999 if work == "edit" else "general.alignment:uint32=64"
        assert main(["edit", str(path), "--set", change, "--force"]) == 0
    assert [each.stat().st_mode & 0o7777 for each in (path, other)] == [mode, mode]


@unix
def test_what_is_private_is_so_while_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "f").chmod(0o400)
    atomic = AtomicFile(tmp_path / "f")
    (temporary,) = (tmp_path / name for name in os.listdir(tmp_path) if name != "f")
    assert temporary.stat().st_mode & 0o7777 == 0o600
    atomic.abort()


@unix
def test_only_files_are_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "device"):
        with pytest.raises(GGUFError, match="it is a pipe or a device"):
            AtomicFile(tmp_path / name)
    with pytest.raises(GGUFError, match="it is a directory; give the name of a file"):
        AtomicFile(tmp_path)
    write(tmp_path / "m.gguf", {}, {"t": np.zeros(4, np.float32)})
    os.mkfifo(tmp_path / "s-00001-of-00001.gguf")
    assert main(["split", str(tmp_path / "m.gguf"), str(tmp_path / "s"), "--force"]) == 1
    assert "it is a pipe or a device" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["device", "m.gguf", "pipe", "s-00001-of-00001.gguf"]
    assert (tmp_path / "s-00001-of-00001.gguf").is_fifo()


@unix
def test_targets_that_no_system_takes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    for name, why in (("f/x", "Not a directory"), ("f\0x", "null"), ("f" * 999, "too long")):
        with pytest.raises(GGUFError, match=f"cannot write .*{why}"):
            check_target(tmp_path / name, [tmp_path / "f"])
        with pytest.raises(GGUFError, match="cannot write"):
            AtomicFile(tmp_path / name)
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("name", ["same", "folder/../same", "symlink", "hard link"])
def test_the_file_that_is_read_is_known_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("same").write_bytes(b"x")
    Path("symlink").symlink_to("same")
    os.link("same", "hard link")
    check_target("new", ["same"])
    check_target("folder", ["same"])
    with pytest.raises(GGUFError, match="is the file that is being read"):
        check_target(name, ["gone", tmp_path / "same"])


def test_room_is_asked_for_before(tmp_path: Path) -> None:
    check_space(tmp_path / "f", 1000)
    with pytest.raises(GGUFError, match=r"it takes 1000000000.* TB and its disk has .* too little"):
        check_space(tmp_path / "f", 10**21)
    with pytest.raises(GGUFError, match="too little: make room"):
        AtomicFile(tmp_path / "f", 10**21)
    assert os.listdir(tmp_path) == []


def test_typed_values_survive(tmp_path: Path) -> None:
    """A file written over itself while it is open: what was read stays readable."""
    path = tmp_path / "m.gguf"
    write(path, {"k": Typed("uint16", 1)}, {"t": np.ones(4, np.float32)})
    for _ in range(3):
        with open_gguf(path) as file:
            write(path, file.metadata, file.tensors)
    with open_gguf(path) as file:
        assert file.metadata.type("k") == "uint16"
