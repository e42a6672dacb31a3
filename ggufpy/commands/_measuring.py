"""What commands that read a text through a model share: its arguments, the text, the model, the running figure."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ggufpy.commands import UsageError
from ggufpy.commands._options import load_options, whole
from ggufpy.errors import GGUFError
from ggufpy.support import console

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from ggufpy.llm import Llama
    from ggufpy.measure.perplexity import Ints

N_CTX = 512


def add_text_arguments(parser: argparse.ArgumentParser, required: bool, default: int | None = N_CTX) -> None:
    """-f, -c and --chunks."""
    parser.add_argument("-f", "--file", metavar="TEXT", required=required, help="the text, UTF-8 ('-': stdin)")
    parser.add_argument(
        "-c", "--ctx-size", type=whole(8), default=default, metavar="N", help=f"tokens of a chunk (default: {N_CTX})"
    )
    parser.add_argument(
        "--chunks", type=whole(-1), default=-1, metavar="N", help="chunks to read (default: -1, the whole text)"
    )


def check_text_arguments(args: argparse.Namespace) -> None:
    """Raise UsageError for arguments of `add_text_arguments` that leave nothing to do, and OSError for no such text.

    A model may take minutes to load, and the text is read behind it.
    """
    if args.chunks == 0:
        raise UsageError("--chunks 0 leaves nothing to read: give 1 or more, or -1 for the whole text")
    if args.file not in (None, "-"):
        os.stat(args.file)


def nats(value: float, digits: int) -> str:
    """A divergence for reading. What rounding leaves of none may be below 0, and is not to be read as "-0.000"."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def read_text(path: str) -> bytes:
    """The bytes of a text. Raises GGUFError for one without any, or that is not UTF-8."""
    data = console.read_input("give -f FILE") if path == "-" else Path(path).read_bytes()
    if not data.strip():
        raise GGUFError(f"{path}: there is no text in it")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GGUFError(f"{path} is not UTF-8 text (byte {error.start}): convert it first") from error
    return data


def check_output(target: str, sources: Iterable[str | None]) -> None:
    """Raises GGUFError, before any work, for a file that cannot be written, or that is one of those to be read."""
    from ggufpy.format.atomic import check_target

    path = Path(target)
    if path.is_dir():
        raise GGUFError(f"cannot write {target}: it is a directory")
    if not path.absolute().parent.is_dir():
        raise GGUFError(f"cannot write {target}: there is no folder {path.absolute().parent}")
    check_target(path, [source for source in sources if source is not None])


def text_windows(llm: Llama, path: str, n_ctx: int, chunks: int) -> Ints:
    """The text's chunks for a model, (chunks, n_ctx). Raises GGUFError for too short a text."""
    from ggufpy.measure.perplexity import text_tokens, windows

    tokenizer = llm.tokenizer
    tokens = text_tokens(tokenizer, read_text(path))
    return windows(tokens, n_ctx, tokenizer.bos if tokenizer.add_bos else None, chunks)


def load_model(args: argparse.Namespace, model: str, n_ctx: int) -> Llama:
    """The model with a context of `n_ctx`, its progress shown."""
    from ggufpy.llm import Llama
    from ggufpy.support.progress import Progress

    with Progress() as progress:
        return Llama.from_options(model, load_options(args, n_ctx=n_ctx, progress=progress))


def cpu_name() -> str:
    """What the system calls the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown CPU"


class Running:
    """`running(done, total, figure)` shows the figure so far: a bar on a terminal, elsewhere as `[1]15.2934,`."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._printed = False

    def __call__(self, done: int, total: int, figure: float) -> None:
        if not console.is_terminal("stderr"):
            console.note(f"[{done}]{figure:.4f},", end="")
            self._printed = True
            return
        if self._bar is None:
            from rich import progress as bars
            from rich.console import Console

            columns = (
                bars.TextColumn("{task.description}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeRemainingColumn(),
            )
            self._bar = bars.Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=total)
        assert self._task is not None
        self._bar.update(self._task, completed=done, description=f"{self._label} {figure:.4f}")

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._printed:
            console.note("")
