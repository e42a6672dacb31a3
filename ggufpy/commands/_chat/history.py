"""What the user said in earlier chats: a file that only they can read.

In: texts. Out: a file in prompt_toolkit's form, of bounded size, in the cache folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory

from ggufpy.errors import GGUFError
from ggufpy.support.folders import cache_dir

MOST_BYTES = 1 << 20  # above it the older half goes
MODE = 0o600
_ENTRY = b"\n# "  # what an entry begins with


def path() -> Path:
    """Where it is kept."""
    return cache_dir() / "chat_history"


class PrivateHistory(FileHistory):
    """prompt_toolkit's history in a file of mode 0600. What cannot be read or written is told once to `report`."""

    def __init__(self, file: Path, report: Callable[[str], None]) -> None:
        super().__init__(str(file))
        self._file = file
        self._report: Callable[[str], None] | None = report
        try:
            self._prepare()
        except (OSError, GGUFError) as error:
            self._failed(error)

    def load_history_strings(self) -> Iterable[str]:
        """See prompt_toolkit: the newest first."""
        if self._report is None:
            return []
        try:
            return list(super().load_history_strings())
        except OSError as error:
            self._failed(error)
            return []

    def store_string(self, string: str) -> None:
        """See prompt_toolkit: every line behind a "+", after one that is a comment."""
        if self._report is None:
            return
        lines = "".join(f"+{line}\n" for line in string.split("\n"))
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, MODE)
            with open(descriptor, "ab") as file:
                file.write(f"\n# ggufpy chat\n{lines}".encode("utf-8", "replace"))
        except OSError as error:
            self._failed(error)

    def _prepare(self) -> None:
        """Makes the folder, closes the file to others, and drops its older half if it is large."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return
        if os.name == "posix" and stat.S_IMODE(found.st_mode) != MODE:
            self._file.chmod(MODE)
        if found.st_size > MOST_BYTES:
            from ggufpy.format.atomic import AtomicFile

            _, mark, newer = self._file.read_bytes()[-MOST_BYTES // 2 :].partition(_ENTRY)
            with AtomicFile(self._file) as file:
                file.file.write(mark + newer)

    def _failed(self, error: OSError | GGUFError) -> None:
        report, self._report = self._report, None
        if report is not None:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            report(f"what you say is not kept for later chats: {self._file}: {reason}")
