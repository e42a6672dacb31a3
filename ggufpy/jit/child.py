"""A trial in a process of its own, because a wrong kernel may take the process with it."""

from __future__ import annotations

import importlib
import json
import pickle
import signal
import subprocess
import sys
from typing import Any

from ggufpy.errors import GGUFError

SECONDS = 300  # until a child that hangs is ended
CRASHES = 0xC0000000  # exit statuses of Windows from here on are exceptions: access violations and the like


def fault_in_child(module: str, trial: Any) -> str:
    """What `fault_here(trial)` of a module finds wrong, or how its process ended; an empty string if all is right.

    Raises GGUFError if the trial could not be made.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        return _fault(module, trial)  # a program with Python inside has no child to run it in
    code = f"import sys; sys.path[:] = {sys.path!r}; from ggufpy.jit.child import main; main({module!r})"
    try:
        child = subprocess.run(
            [sys.executable, "-c", code], input=pickle.dumps(trial), capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"a trial did not end within {SECONDS} s"
    if child.returncode < 0:
        return f"a trial ended with {signal.Signals(-child.returncode).name}"
    if child.returncode >= CRASHES:
        return f"a trial ended with {child.returncode:#x}"
    try:
        return str(json.loads(child.stdout.splitlines()[-1])["fault"])
    except (ValueError, IndexError, KeyError, TypeError):
        last = child.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no answer"]
        raise GGUFError(f"the kernels could not be tried: {last[0]} (exit status {child.returncode})") from None


def _fault(module: str, trial: Any) -> str:
    return str(importlib.import_module(module).fault_here(trial))


def main(module: str) -> None:
    """The child: a pickled trial on stdin, what is wrong as JSON on stdout."""
    print(json.dumps({"fault": _fault(module, pickle.load(sys.stdin.buffer))}))
