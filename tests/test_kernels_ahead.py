"""Kernels that no cache holds: compiled by several processes, once each, or here where that cannot be."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ggufpy.jit import ahead, cache
from ggufpy.jit.cache import Library, cache_path
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.simd.isa import LEVELS

PORTABLE = LEVELS[-1]
SMALL = [kernel("crew", role="launch"), kernel("crew", role="work"), kernel("select_rows"), kernel("tape")]
COUNTED = [(done, len(SMALL)) for done in range(len(SMALL) + 1)]

# A user's script, without `if __name__ == "__main__"`: the process that asks need not have Numba.
SCRIPT = """
import sys
from ggufpy.jit import ahead
from ggufpy.jit.cache import Library
from ggufpy.jit.spec import kernel
from ggufpy.simd.isa import LEVELS

ahead.MOST_WORKERS = 2
calls = []
wanted = [kernel("crew", role="launch"), kernel("crew", role="work"), kernel("select_rows"), kernel("tape")]
library = Library(LEVELS[-1])
library.load(wanted, lambda *call: calls.append(call))
print(all(library.address(k) for k in wanted), "numba" in sys.modules, calls)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and two cores."""
    monkeypatch.setenv("GGUFPY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GGUFPY_THREADS", "2")
    monkeypatch.setattr(ahead, "MOST_WORKERS", 2)
    return tmp_path


def run(script: Path) -> str:
    """What SCRIPT says, saved as this file."""
    script.write_text(SCRIPT)
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def environment() -> dict[str, str]:
    """In which our package is found where this process has it."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


@contextlib.contextmanager
def turn_elsewhere(path: Path) -> Iterator[Callable[[], None]]:
    """Another process has the turn of a cache file until the end, or until what this gives is called."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"True"
        yield other.stdin.close
        other.stdin.close()


def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def loaded() -> tuple[Library, list[tuple[int, int]]]:
    calls: list[tuple[int, int]] = []
    library = Library(PORTABLE)
    library.load(SMALL, lambda *call: calls.append(call))
    assert all(library.address(k) for k in SMALL)
    return library, calls


def test_workers_compile_for_a_plain_script(folder: Path) -> None:
    assert run(folder / "script.py") == f"True False {COUNTED}"
    assert all(cache_path(k, PORTABLE).exists() for k in SMALL)


def test_workers_need_no_cache_that_can_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("GGUFPY_CACHE", str(folder / "file"))
    assert run(folder / "script.py") == f"True False {COUNTED}"


def test_one_core_starts_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFPY_THREADS", "1")
    no_processes(monkeypatch)
    assert loaded()[1] == COUNTED


def test_few_kernels_start_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_processes(monkeypatch)
    Library(PORTABLE).load(SMALL[:3])


@pytest.mark.parametrize("name", ["", "/usr/sbin/uwsgi", "C:/Program Files/Editor.exe"])
def test_what_is_not_python_starts_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    no_processes(monkeypatch)
    monkeypatch.setattr(sys, "executable", name)
    assert loaded()[1] == COUNTED


def test_a_frozen_program_starts_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_processes(monkeypatch)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert loaded()[1] == COUNTED


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for Python")
@pytest.mark.parametrize("does", [None, "exit 1", "echo what; cat", "exec sleep 60"])
def test_workers_that_fail_are_done_without(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str | None) -> None:
    python = folder / "python"
    if does is not None:
        python.write_text(f"#!/bin/sh\n{does}\n")
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(ahead, "PATIENCE", 0.5)
    assert loaded()[1] == COUNTED


def test_an_error_is_raised_where_the_kernel_was_asked_for(folder: Path) -> None:
    wrong = [*SMALL[:3], Kernel("there_is_no_such_source")]
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_source"):
        Library(PORTABLE).load(wrong)
    assert all(cache_path(k, PORTABLE).exists() for k in SMALL[:3])


def test_a_failing_progress_call_ends_the_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = ahead._start

    def note() -> subprocess.Popen[bytes] | None:
        process = start()
        assert process is not None
        started.append(process)
        return process

    def fail(done: int, total: int) -> None:
        if done:
            raise RuntimeError("stop")

    monkeypatch.setattr(ahead, "_start", note)
    with pytest.raises(RuntimeError, match="stop"):
        Library(PORTABLE).load(SMALL, fail)
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


HOLD = """
import sys
from pathlib import Path
from ggufpy.jit import ahead

with ahead._turn(Path(sys.argv[1]), False) as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


def test_a_kernel_is_compiled_by_one_process_at_a_time(folder: Path) -> None:
    path = cache_path(SMALL[0], PORTABLE)
    with turn_elsewhere(path) as end_turn:
        order = ahead._here(SMALL, PORTABLE)
        assert [next(order)[0] for _ in SMALL[1:]] == SMALL[1:]  # what others are at comes last
        cache._write(path, b"what the other process made of it")
        end_turn()
        assert list(order) == [(SMALL[0], b"what the other process made of it")]


def test_a_turn_that_does_not_end_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PATIENCE", 0.1)
    with turn_elsewhere(cache_path(SMALL[0], PORTABLE)):
        assert [k for k, _ in ahead._here(SMALL[:1], PORTABLE)] == SMALL[:1]
