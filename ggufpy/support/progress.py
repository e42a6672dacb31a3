"""Progress on stderr for work that lasts: a bar on a terminal, plain lines elsewhere, nothing for quick work.

In: calls `progress(stage, done, total)`, any number, from one thread. Out: lines on stderr. `rich` is
imported only once a stage has lasted and is not nearly over, so that a fast start pays nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ggufpy.support import console

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PATIENCE = 0.5  # seconds of silence before anything is shown
NEARLY_DONE = 0.3  # seconds of remaining work not worth a bar

LABELS = {
    "compile": "compiling kernels, once for this machine",
    "load": "loading the model",
    "unpack": "unpacking",
    "check": "checking",
    "measure": "measuring types",
    "calibrate": "measuring and solving layers",
    "quantize": "quantising",
    "export": "writing the checkpoint",
}
BYTE_STAGES = ("load", "download", "unpack", "write", "hash", "check", "quantize", "export")


def human_bytes(count: float) -> str:
    """A byte count in decimal units, as `98.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class Progress:
    """A `progress(stage, done, total)` callable that is also a context manager (leaving it ends the bar).

    A stage counts bytes when its name is in `BYTE_STAGES` or starts with "download", items otherwise.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._started = 0.0
        self._last = (0, 0)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._shown = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note that `done` of `total` units of `stage` are through (total 0: not known)."""
        now = time.perf_counter()
        if stage != self._stage:
            self._end_stage()
            self._stage, self._started = stage, now
        self._last = (done, total)
        elapsed = now - self._started
        if not self._shown:
            remaining = elapsed / done * (total - done) if done and total else PATIENCE
            if elapsed < PATIENCE or remaining < NEARLY_DONE:
                return
            self._show(done, total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end_stage()
        elif self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _label(self) -> str:
        return LABELS.get(self._stage, self._stage)

    def _in_bytes(self) -> bool:
        return self._stage in BYTE_STAGES or self._stage.startswith("download")

    def _show(self, done: int, total: int) -> None:
        self._shown = True
        if not console.is_terminal("stderr"):
            size = f" ({human_bytes(total) if self._in_bytes() else total})" if total else ""
            console.note(f"ggufpy: {self._label()}{size} ...")
            return
        from rich import progress as bars
        from rich.console import Console

        amount: list[bars.ProgressColumn] = [bars.MofNCompleteColumn()]
        if self._in_bytes():
            amount = [bars.DownloadColumn(), bars.TransferSpeedColumn()]
        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            *amount,
            bars.TimeRemainingColumn(),
        )
        self._bar = bars.Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._task = self._bar.add_task(self._label(), total=total or None, completed=done)

    def _end_stage(self) -> None:
        """Close the bar; off a terminal say how long the stage took and at what rate."""
        if self._bar is not None:
            self._bar.stop()
        elif self._shown:
            seconds = max(time.perf_counter() - self._started, 1e-9)
            done = self._last[0]
            rate = f"{human_bytes(done / seconds)}/s" if self._in_bytes() else f"{done / seconds:.1f}/s"
            console.note(f"ggufpy: {self._label()}: {seconds:.1f} s ({rate})")
        self._bar = self._task = None
        self._shown = False
        self._stage = ""
