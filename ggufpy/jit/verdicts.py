"""What is known of the kernels of this machine: which gave right answers when tried, and which levels did not.

Kept beside compiled kernels, under a hash of what shapes them, so that another CPU, other versions or other sources
begin anew. What a trial is, `runtime/trial.py` says for models and `quants/trial.py` for encoders and decoders.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from ggufpy.errors import GGUFError
from ggufpy.simd import isa
from ggufpy.simd.isa import Level, target
from ggufpy.support import console

from .cache import cache_path, folder, sources_digest
from .spec import Kernel


def _level_path(level: Level) -> Path:
    key = "\0".join([sources_digest(), level.name, *target(level)])
    return folder() / f"wrong-{level.name}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"


def _trial_path(kernels: Iterable[Kernel], level: Level) -> Path:
    return _passed_path(level.name, "\0".join(sorted(cache_path(kernel, level).name for kernel in set(kernels))))


def _passed_path(what: str, key: str) -> Path:
    return folder() / f"right-{what}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"


def fault(level: Level) -> str:
    """What was wrong when the level was tried; empty if nothing is known against it."""
    try:
        known = json.loads(_level_path(level).read_text(encoding="utf8"))
        return str(known["fault"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # nothing was kept, or nothing that can be read: it is tried again


def record_fault(level: Level, reason: str) -> None:
    """From now on the level is left out. A folder that cannot be written keeps nothing: it is tried at each start."""
    _write(_level_path(level), {"level": level.name, "fault": reason})


def has_passed(what: str, key: str) -> bool:
    """Whether something that is not these kernels, a card with its own, has given right answers. `key` is all that its
    answers depend on."""
    return _passed_path(what, key).exists()


def record_passed(what: str, key: str) -> None:
    """It needs no trial any more."""
    _write(_passed_path(what, key), {"what": what, "verdict": "right"})


def was_right(kernels: Iterable[Kernel], level: Level) -> bool:
    """Whether these kernels, as they are in the cache, have given right answers here."""
    return _trial_path(kernels, level).exists()


def record_right(kernels: Iterable[Kernel], level: Level) -> None:
    """These kernels need no trial any more."""
    _write(_trial_path(kernels, level), {"level": level.name, "verdict": "right"})


def usable() -> tuple[Level, ...]:
    """Levels to run at, best first: the one that GGUFPY_ISA names, or all that this process has but faulty ones.

    Raises GGUFError if GGUFPY_ISA names one that is not there, or is known to be faulty.
    """
    if not os.environ.get("GGUFPY_ISA", "").strip():
        return tuple(level for level in isa.available() if not fault(level)) or isa.available()[-1:]
    level = isa.current()
    if reason := fault(level):
        others = ", ".join(other.name for other in isa.available() if other != level and not fault(other))
        why = reason_of(level, reason)
        raise GGUFError(f"SIMD level {level.name} (--isa, GGUFPY_ISA): {why}; choose one of {others}")
    return (level,)


def current() -> Level:
    """The best of `usable`."""
    return usable()[0]


def first_right(trial: Callable[[Level], str]) -> Level:
    """The best of `usable` with which a trial finds nothing wrong; whoever can report the others is asked to.

    Raises GGUFError if the last of them is wrong too.
    """
    levels = usable()
    for level in levels:
        reason = trial(level)
        if not reason:
            return level
        record_fault(level, reason)
        if level is not levels[-1]:
            what = f"{reason_of(level, reason)}; the next level is used instead"
            console.note(f"ggufpy: {what}. Please report it with what `ggufpy doctor` prints")
    raise GGUFError(f"{reason_of(levels[-1], reason)}; please report it with what `ggufpy doctor` prints")


def reason_of(level: Level, reason: str) -> str:
    """A clause for people."""
    return f"the {level.name} kernels are wrong on this machine ({reason})"


def _write(path: Path, value: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # as for compiled kernels: what cannot be kept is found out again
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
        with os.fdopen(handle, "w", encoding="utf8") as file:
            json.dump(value, file)
        os.replace(temporary, path)
