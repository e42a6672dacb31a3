"""Sums for an importance matrix: a model's engine and chunks of a text in, an `ImportanceMatrix` out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.format.values import shown
from ggufpy.quantizer.importance import ImportanceMatrix
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.runtime.engine import Engine

Save = Callable[[ImportanceMatrix, int], None]


@dataclass(frozen=True)
class CollectOptions:
    """`text` names the text in the file. `output`: the output matrix counts too. `begun`: what sums are added to.

    `save(matrix, chunks)` is called after chunks that are `due`; `report(done, total)` after each.
    """

    text: str = ""
    output: bool = False
    begun: ImportanceMatrix | None = None
    save: Save | None = None
    due: Callable[[int], bool] = bool
    report: Callable[[int, int], None] | None = None


def collect(engine: Engine, chunks: NDArray[np.int64], options: CollectOptions) -> ImportanceMatrix:
    """Reads chunks (chunks, n_ctx) of tokens, each in a fresh context, and sums what matrices are multiplied by.

    Raises GGUFError for activations that are no finite numbers, which would spoil the sums.
    """
    from ggufpy.runtime.engine import Chunk

    sequence = engine.sequence()

    def summed(done: int) -> ImportanceMatrix:
        squares = collector.squares()
        for name, (total, _) in squares.items():
            if not np.isfinite(total).all():
                raise GGUFError(
                    f"what {shown(name)} is multiplied by is not finite (chunk {done}): the file may be damaged "
                    "(ggufpy verify)"
                )
        sums = {name: total.astype(np.float32) for name, (total, _) in squares.items()}
        counts = {name: rows.astype(np.float32) for name, (_, rows) in squares.items()}
        texts = (options.text,) if options.text else ()
        one = ImportanceMatrix(sums, counts, texts, done, chunks.shape[1])
        return one if options.begun is None else replace(options.begun, chunk_size=one.chunk_size).merged([one])

    try:
        with engine.collect(options.output) as collector:
            for done, tokens in enumerate(chunks, 1):
                sequence.truncate(0)
                for first in range(0, len(tokens), engine.rows):
                    part = tokens[first : first + engine.rows].tolist()
                    rows: Literal["all", "none"] = "all" if options.output else "none"
                    chunk = Chunk(sequence, part, rows, engine.reads_in_bulk(len(tokens)))
                    engine.visit(chunk, lambda at, rows: None)
                if options.report is not None:
                    options.report(done, len(chunks))
                if options.save is not None and options.due(done):
                    options.save(summed(done), done)
            return summed(len(chunks))
    finally:
        sequence.close()
