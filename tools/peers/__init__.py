"""What `tools/compare.py` measures: engines that open a model and say how long a task took. One small class each.

In: where the program is, and `Settings`. Out: `Runner`s. A peer with other tasks (making a file, say) is another class
with `open`, whose runner knows the task's name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

TOOLS = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).resolve().parent / "worker.py"
XLLAMACPP = "xllamacpp==2026.10.11549"  # llama.cpp as PyPI has it prebuilt


class PeerError(Exception):
    """An engine that cannot be set up, cannot open a model, or failed on the way; one line."""


@dataclass(frozen=True)
class Settings:
    """What is measured: tokens of the prompt, tokens decoded behind `depth` others, turns, threads."""

    prompt: int = 512
    gen: int = 64
    depth: int = 0
    turns: int = 5
    threads: int = 1

    @property
    def n_ctx(self) -> int:
        return max(self.prompt, self.depth + self.gen)

    @property
    def tasks(self) -> dict[str, int]:
        """Tokens of each task that is measured."""
        return {name: count for name, count in (("prompt", self.prompt), ("decode", self.gen)) if count}


class Runner(Protocol):
    """An engine with a model in it. `about` says what it is and what its figures include."""

    about: dict[str, Any]

    def seconds(self, task: str, tokens: int) -> float:
        """How long `tokens` tokens of "prompt" or "decode" take."""

    def close(self) -> None: ...


class Peer(Protocol):
    """An engine before a model is opened."""

    name: str

    def prepare(self) -> None:
        """Installs or finds what `open` needs. Raises PeerError."""

    def open(self, model: Path, settings: Settings) -> Runner:
        """Loads a model. Raises PeerError."""


class Worker:
    """A runner in a process of its own (worker.py) that stays alive, so that a model is loaded once."""

    def __init__(
        self, python: Sequence[str], engine: str, model: Path, settings: Settings, env: Mapping[str, str]
    ) -> None:
        self._depth = settings.depth
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        setup = {"model": str(model), "n_ctx": settings.n_ctx, "threads": settings.threads}
        self._process = subprocess.Popen(
            [*python, str(WORKER), engine, json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict(env),
        )
        try:
            self.about = self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise PeerError(f"it ended with status {self._process.returncode}: {last_line(self._log.read())}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def seconds(self, task: str, tokens: int) -> float:
        assert self._process.stdin is not None
        request = {"task": task, "tokens": tokens, "depth": self._depth}
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said last is the reason
        return float(self._read()["seconds"])

    def close(self) -> None:
        """Ends the process, kindly first."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # it has ended, and will not read what was left to send
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Ggufpy:
    """This repository's engine at one SIMD level."""

    def __init__(self, isa: str) -> None:
        self.name, self._isa = f"ggufpy {isa}", isa

    def prepare(self) -> None:
        """Nothing to do: it is here."""

    def open(self, model: Path, settings: Settings) -> Runner:
        path = os.pathsep.join(filter(None, (str(TOOLS.parent), os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONPATH": path, "GGUFPY_ISA": self._isa}
        return Worker([sys.executable], "ggufpy", model, settings, env)


class Xllamacpp:
    """llama.cpp out of the PyPI package `xllamacpp`, in a virtual environment of its own below `folder`."""

    name = "llama.cpp"

    def __init__(self, folder: Path, requirement: str = XLLAMACPP) -> None:
        self._requirement = requirement
        self._home = folder / requirement.replace("==", "-")
        self._python = self._home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def prepare(self) -> None:
        done = self._home / "installed"  # written last: an environment without it is half made
        if done.is_file():
            return
        shutil.rmtree(self._home, ignore_errors=True)
        print(f"compare: installing {self._requirement} into {self._home}", file=sys.stderr)
        try:
            venv.create(self._home, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PeerError(f"no virtual environment can be made in {self._home}: {error}") from error
        pip = [str(self._python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", self._requirement]
        made = subprocess.run(pip, capture_output=True, check=False)
        if made.returncode:
            raise PeerError(f"pip cannot install {self._requirement}: {last_line(made.stderr)}")
        done.touch()

    def open(self, model: Path, settings: Settings) -> Runner:
        return Worker([str(self._python), "-I"], "llama", model, settings, os.environ)


class LlamaBench:
    """A `llama-bench` program. It loads the model again for every measurement, which its figures do not include."""

    name = "llama-bench"

    def __init__(self, program: Path) -> None:
        self._program = program

    def prepare(self) -> None:
        if shutil.which(self._program) is None:
            raise PeerError(f"{self._program} is no program that can be run")

    def open(self, model: Path, settings: Settings) -> Runner:
        return _LlamaBenchRunner(self._program, model, settings)


class _LlamaBenchRunner:
    def __init__(self, program: Path, model: Path, settings: Settings) -> None:
        options = {"-m": model, "-t": settings.threads, "-ngl": 0, "-r": 1, "-o": "json"}
        self._command = [str(program), *(str(word) for pair in options.items() for word in pair)]
        self._depth = settings.depth
        self.about: dict[str, Any] = {"version": str(program), "decode": "without sampling"}

    def seconds(self, task: str, tokens: int) -> float:
        """llama-bench warms up by itself, then times one run (tools/llama-bench/README.md of llama.cpp)."""
        counts = ["-p", str(tokens), "-n", "0"] if task == "prompt" else ["-p", "0", "-n", str(tokens)]
        depth = ["-d", str(self._depth)] if task == "decode" and self._depth else []
        ran = subprocess.run([*self._command, *counts, *depth], capture_output=True, check=False)
        if ran.returncode:
            raise PeerError(f"it ended with status {ran.returncode}: {last_line(ran.stderr)}")
        try:
            (row,) = json.loads(ran.stdout)
            rate = float(row["avg_ts"])
        except (ValueError, KeyError, TypeError) as error:
            raise PeerError(f"its JSON is not as expected: {error}") from error
        for key in ("build_commit", "build_number", "cpu_info", "backends"):
            if key in row:
                self.about[key] = row[key]
        if rate <= 0:
            raise PeerError(f"it reports {rate} tokens a second")
        return tokens / rate

    def close(self) -> None:
        """Nothing stays open."""


def last_line(output: bytes) -> str:
    """The last line of a program's output that says anything."""
    lines = output.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
