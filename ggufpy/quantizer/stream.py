"""The work: tensors in, tensors out, a piece at a time, so that memory does not grow with the file.

Threads read and encode pieces; the calling thread writes them in order while the next ones are encoded.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

from ggufpy.errors import GGUFError
from ggufpy.format import GGUFFile, Writer, blocktypes
from ggufpy.format import open as open_gguf
from ggufpy.format.atomic import check_space, check_target
from ggufpy.quantizer.convert import Made, Piece, convert, pieces
from ggufpy.quantizer.kernels import compile_kernels
from ggufpy.quantizer.options import QuantizeOptions
from ggufpy.quantizer.recipe import Job, Recipe, check_importance, checked, choose_types, new_metadata, read_importance
from ggufpy.quantizer.report import Report, TensorReport
from ggufpy.quantizer.shards import Shard, shards_of
from ggufpy.quantizer.source import QuantizeSource
from ggufpy.quantizer.target import meet_target
from ggufpy.quantizer.types import FileType, file_type
from ggufpy.support import checks

AHEAD = 2  # pieces a thread that may wait to be written


def quantize_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    type_name: str,
    options: QuantizeOptions | None = None,
) -> Report:
    """Write `source` quantised as file type `type_name` ("Q4_K_M") to `target`, which gets its name when it is whole.

    Raises GGUFError, leaving what was at `target` as it was, for whatever is wrong with either file, the type or the
    options, and for a tensor that cannot be quantised as asked.
    """
    options = QuantizeOptions() if options is None else options
    if not isinstance(options, QuantizeOptions):
        raise GGUFError(f"options is {checks.shown(options)}; QuantizeOptions are wanted")
    target = checks.path("target", target)
    wanted = file_type(type_name)
    with open_gguf(source) as file:
        return quantize_source(file, target, wanted, options)


def unchanged(recipe: Recipe) -> Recipe:
    """The recipe as the rules have it."""
    return recipe


def quantize_source(
    source: QuantizeSource,
    target: str | os.PathLike[str],
    wanted: FileType,
    options: QuantizeOptions,
    adjust: Callable[[Recipe], Recipe] = unchanged,
) -> Report:
    """Write what `source` has to `target`, which gets its name when it is whole. `adjust` has the last word on types.

    Raises GGUFError as `quantize_file` does.
    """
    started = time.perf_counter()
    if not options.dry_run:
        check_space(target, 0)  # a folder that is not there would be found out after minutes of measuring
    importance = read_importance(options.imatrix)
    recipe = choose_types(source, wanted, options, importance)
    if options.target_bpw is not None:
        recipe = meet_target(recipe, options, importance)
    recipe = checked(adjust(recipe), wanted, options, importance)
    metadata = new_metadata(source.metadata.typed_items(), wanted, options, importance)
    shards = shards_of(source, Path(target), recipe.jobs, metadata, options)
    report = _dry(shards, recipe) if options.dry_run else _write(source, shards, recipe, options, wanted)
    bytes_in = sum(os.path.getsize(name) for name in source.files)
    return replace(report, bytes_in=bytes_in, seconds=time.perf_counter() - started)


def _dry(shards: Sequence[Shard], recipe: Recipe) -> Report:
    """What writing would give, with nothing written."""
    tensors = [
        TensorReport(job.tensor.name, job.tensor.shape, job.tensor.type, job.target, job.nbytes) for job in recipe.jobs
    ]
    return _report(tensors, sum(shard.size for shard in shards), recipe)


def _report(tensors: Sequence[TensorReport], bytes_out: int, recipe: Recipe, files: Sequence[str] = ()) -> Report:
    weights = sum(tensor.weights for tensor in tensors)
    bits = 8 * sum(tensor.bytes for tensor in tensors) / weights if weights else 0.0
    return Report(0, bytes_out, bits, 0.0, tensors, files, [*recipe.notes, *recipe.replaced])


def _write(
    source: QuantizeSource, shards: Sequence[Shard], recipe: Recipe, options: QuantizeOptions, wanted: FileType
) -> Report:
    """Convert and write every tensor; all files get their names at the end, one right after the other."""
    read = [*source.files, *([options.imatrix] if isinstance(options.imatrix, (str, os.PathLike)) else [])]
    read += [options.gptq.dataset] if options.gptq is not None else []
    for shard in shards:
        check_target(shard.path, read)
    check_space(shards[0].path, sum(shard.size for shard in shards))
    tensors: list[TensorReport] = []
    with ExitStack() as undo:
        jobs = undo.enter_context(_made(source, recipe.jobs, options, wanted))
        converter = undo.enter_context(Converter(list(jobs.values()), options))
        writers = []
        for shard in shards:
            infos = [job.info for job in shard.jobs]
            writer = Writer(shard.path, shard.metadata, infos, byteorder=options.byteorder)
            undo.callback(writer.abort)  # nothing happens where it was closed
            writers.append(writer)
            for job in shard.jobs:
                tensors.append(converter.put(jobs[job.tensor.name], writer))
        for writer in writers:
            writer.prepare()
        for writer in reversed(writers):  # a set is opened by its first file: that one comes last
            writer.close()
    return _report(tensors, sum(writer.size for writer in writers), recipe, [str(shard.path) for shard in shards])


@contextmanager
def _made(
    source: QuantizeSource, jobs: Sequence[Job], options: QuantizeOptions, wanted: FileType
) -> Iterator[Mapping[str, Job]]:
    """The jobs by name, with what is made before anything is written: GPTQ's, in a temporary file."""
    if options.gptq is None:
        yield {job.tensor.name: job for job in jobs}
        return
    if not isinstance(source, GGUFFile):
        raise GGUFError("GPTQ runs the model while it is quantised and starts from a GGUF file: convert to F16 first")
    from ggufpy.quantizer.calibrated import Spool, calibrated

    with TemporaryFile(prefix="ggufpy-") as room:
        jobs = calibrated(source, jobs, options, Spool(room))
        for job in jobs:
            check_importance(job, wanted, options.imatrix is not None)
        yield {job.tensor.name: job for job in jobs}


class Converter:
    """Converts the pieces of all jobs, in order, on a few threads that stay a little ahead of the writing."""

    def __init__(self, jobs: Sequence[Job], options: QuantizeOptions) -> None:
        self._options = options
        self._total = sum(job.tensor.nbytes for job in jobs)
        self._done = 0
        threads = options.thread_count()
        self._pool = ThreadPoolExecutor(threads)
        self._ahead = AHEAD * threads
        self._coming: Iterator[Piece] = (piece for job in jobs for piece in pieces(job))
        self._waiting: deque[tuple[Piece, Future[Made]]] = deque()
        self._jobs = jobs

    def __enter__(self) -> Converter:
        wanted = {(job.target, job.importance is not None) for job in self._jobs if not job.copied}
        compile_kernels(wanted, self._options.progress)
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def put(self, job: Job, writer: Writer) -> TensorReport:
        """Write the next tensor, which is `job`'s."""
        tensor, bad, wrong, whole = job.tensor, 0, 0.0, 0.0
        last = False
        while not last:
            piece, made = self._next()
            if made.data.size:  # a writer passes over tensors that are empty
                writer.append(tensor.name, made.data)
            bad, wrong, whole = bad + made.nonfinite, wrong + made.wrong, whole + made.whole
            self._advance(piece)
            last = piece.last
        tensor.release()
        error = (wrong / whole) ** 0.5 if whole else 0.0
        return TensorReport(tensor.name, tensor.shape, tensor.type, job.target, job.nbytes, error, bad, job.gptq)

    def _next(self) -> tuple[Piece, Made]:
        """The next piece, once it is converted; as many more are handed out as may wait."""
        while len(self._waiting) <= self._ahead:
            piece = next(self._coming, None)
            if piece is None:
                break
            self._waiting.append((piece, self._pool.submit(convert, piece, self._options.allow_nonfinite)))
        piece, future = self._waiting.popleft()
        return piece, future.result()

    def _advance(self, piece: Piece) -> None:
        tensor = piece.job.tensor
        width = blocktypes.row_bytes(blocktypes.by_name(tensor.type), tensor.shape)
        self._done += (piece.stop - piece.start) * width
        self._options.progress("quantize", self._done, self._total)
