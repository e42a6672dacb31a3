"""The answers of a batch, a line each, in the order in which they are ready.

Lines are written whole, and brought to the disk now and then; what a run that was killed left of a last line is cut
off. While a run writes, another one that would is refused.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.atomic import take_lock
from ggufpy.server.batch.lines import Survey, digest, parsed
from ggufpy.server.families import encode

Record = dict[str, Any]

SYNC_SECONDS = 1.0  # that answers may be on their way to the disk


class Answers:
    """The file of answers to a survey's requests, made if it is not there. `done` are digests of the ids that have one.

    Raises GGUFError for a file that holds anything else, and while another run has it.
    """

    def __init__(self, path: Path, wanted: Survey) -> None:
        self._path = path
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise GGUFError(f"cannot write {path}: {error.strerror or error}") from None
        try:
            take_lock(self._file.fileno())
            self.done = self._read(wanted)
        except BlockingIOError:
            self._file.close()
            raise GGUFError(f"{path} is being written by another run: wait for it, or name another file") from None
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, custom_id: str, record: Record) -> None:
        """Writes an answer. Raises GGUFError where that cannot be; what there is of the line is cut off then."""
        line = encode(record) + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self._sync()
        except OSError as error:
            self._file.truncate(end)
            raise GGUFError(f"cannot write {self._path}: {error.strerror or error}; run again to go on") from None
        self.done.add(digest(custom_id))

    def close(self) -> None:
        """What was answered is on the disk."""
        self._sync()
        self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _read(self, wanted: Survey) -> set[bytes]:
        """The ids of the answers that are there; a line without an end goes."""
        done: set[bytes] = set()
        self._file.seek(0)
        whole = number = 0
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for raw in file:
                number += 1
                if not raw.endswith(b"\n"):
                    break
                whole += len(raw)
                done.add(self._answered(raw, number, wanted, done))
        self._file.truncate(whole)
        return done

    def _answered(self, raw: bytes, number: int, wanted: Survey, done: set[bytes]) -> bytes:
        """The id of an answer. Raises GGUFError for a line that is none, or one to something else."""
        where = f"{self._path}: line {number}"
        try:
            record = parsed(raw)
        except GGUFError as error:
            raise GGUFError(f"{where}: {error}: name a new file, or one that this command has written") from None
        custom_id = record.get("custom_id")
        if not isinstance(custom_id, str) or "response" not in record:
            raise GGUFError(f"{where} is no answer of a batch: name a new file, or one that this command has written")
        mine = digest(custom_id)
        if mine not in wanted.ids:
            raise GGUFError(f"{where} answers {custom_id[:80]!r}, which is not asked for: name another file")
        if mine in done:
            raise GGUFError(f"{where} answers {custom_id[:80]!r} once more: two runs have written the file")
        return mine
