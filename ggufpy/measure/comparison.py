"""What each quantised type of one model costs: its size, its KL divergence from the source, its speed of decoding.

In: a model file, file types, chunks of a text. Out: a `Comparison`. Every type is written by `ggufpy.quantizer`, then
measured against the source's own logits; speeds alternate between the models, so that the machine's mood hits all.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.generate.loading import LoadOptions
from ggufpy.measure.klbase import Header, KlBase, KlBaseWriter
from ggufpy.measure.perplexity import Ints, Result, measure
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.llm import Llama
    from ggufpy.quantizer import QuantizeOptions

WARM_TOKENS = 4  # tokens decoded before the clock starts
Note = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Compared:
    """One model: the bytes of its file, bits a weight, what it predicts, and tokens a second of each decoding run."""

    type: str
    path: str
    bytes: int
    bits_per_weight: float
    result: Result
    quantize_seconds: float | None = None
    speeds: list[float] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """As `--json` has it; the source's divergence from itself is 0."""
        d = self.result.divergence
        return {
            "type": self.type,
            "path": self.path,
            "bytes": self.bytes,
            "bits_per_weight": self.bits_per_weight,
            "ppl": self.result.ppl,
            "ppl_error": self.result.ppl_error,
            "ppl_ratio": d.ppl_ratio if d else 1.0,
            "kld_mean": d.kld_mean if d else 0.0,
            "kld_median": d.kld_median if d else 0.0,
            "kld_p99": d.kld_p99 if d else 0.0,
            "kld_max": d.kld_max if d else 0.0,
            "same_top": d.same_top if d else 1.0,
            "tg_tps_median": median(self.speeds) if self.speeds else None,
            "tg_tps_min": min(self.speeds, default=None),
            "tg_tps_max": max(self.speeds, default=None),
            "quantize_seconds": self.quantize_seconds,
        }


@dataclass(frozen=True)
class Comparison:
    """The source first, then the types in the order asked for."""

    source: Compared
    types: tuple[Compared, ...]
    threads: int
    isa: str


@dataclass(frozen=True)
class Task:
    """What to compare: file types by their proper names, written into `folder`; `rounds` of `decode` tokens each.

    `windows(model)` gives the chunks of the text for the model's vocabulary. `note(stage, done, total)` hears of it.
    """

    source: Path
    types: Sequence[str]
    folder: Path
    windows: Callable[[Llama], Ints]
    load: LoadOptions
    quantize: QuantizeOptions
    rounds: int
    decode: int
    note: Note


def check(task: Task) -> None:
    """Raises GGUFError, before any long work, for a type that cannot be written from the source."""
    from ggufpy.quantizer import quantize_file

    for name in task.types:
        quantize_file(task.source, _target(task, name), name, replace(task.quantize, dry_run=True))


def compare(task: Task) -> Comparison:
    """Quantises and measures. Raises GGUFError for whatever one of the steps cannot do."""
    check(task)
    types = []
    with tempfile.TemporaryDirectory(prefix="ggufpy-") as scratch:
        base = Path(scratch) / "source.klbase"
        source, threads, isa = _source(task, base)
        for i, name in enumerate(task.types):
            task.note("quantising and measuring", i, len(task.types))
            types.append(_type(task, name, base))
    task.note("quantising and measuring", len(task.types), len(task.types))
    models = (source, *types)
    for i in range(task.rounds):
        for k, model in enumerate(models[:: -1 if i % 2 else 1]):  # a machine that slows down slows all alike
            task.note("decoding", i * len(models) + k, task.rounds * len(models))
            model.speeds.append(_speed(task, Path(model.path)))
    task.note("decoding", task.rounds * len(models), task.rounds * len(models))
    return Comparison(source, tuple(types), threads, isa)


def _open(task: Task, path: Path, n_ctx: int) -> Llama:
    from ggufpy.llm import Llama

    return Llama.from_options(path, replace(task.load, n_ctx=n_ctx))


def _source(task: Task, base: Path) -> tuple[Compared, int, str]:
    """The source, measured into the base; threads and SIMD level that everything runs with."""
    with _open(task, task.source, task.load.n_ctx) as llm:
        context = llm.engine.model.plan.context
        if task.decode + WARM_TOKENS > context:  # said now, and not when hours of quantising are over
            raise GGUFError(
                f"{task.decode} tokens are to be decoded, and the model has room for {context - WARM_TOKENS} (-n)"
            )
        chunks = task.windows(llm)
        with KlBaseWriter(base, Header(task.source.name, llm.n_vocab(), chunks.shape[1], len(chunks))) as save:
            result = measure(
                llm.engine, chunks, save=save, report=lambda done, total, _: task.note("source", done, total)
            )
        facts = (llm.engine.type_name, llm.engine.n_threads, llm.engine.isa)
    nbytes, bits = _size(task.source)
    return Compared(facts[0], str(task.source), nbytes, bits, result), facts[1], facts[2]


def _size(path: Path) -> tuple[int, float]:
    """Bytes of a file, all files of a split set, and bits a weight."""
    from ggufpy import format as gguf

    with gguf.open(path) as file:
        nbytes = sum(os.path.getsize(name) for name in file.files)
        tensors = [(t.nbytes, math.prod(t.shape)) for t in file.tensors.values()]
    return nbytes, 8 * sum(n for n, _ in tensors) / max(sum(count for _, count in tensors), 1)


def _target(task: Task, name: str) -> Path:
    return task.folder / f"{task.source.stem}-{name}.gguf"


def _type(task: Task, name: str, base_path: Path) -> Compared:
    """Writes one type and measures it against the base."""
    from ggufpy.quantizer import quantize_file

    target = _target(task, name)
    report = quantize_file(task.source, target, name, task.quantize)
    with KlBase(base_path) as base, _open(task, target, base.header.n_ctx) as llm:
        chunks = base.tokens()
        base.check(chunks, llm.n_vocab())
        result = measure(llm.engine, chunks, base)
    return Compared(name, str(target), _size(target)[0], report.bits_per_weight, result, report.seconds)


def _speed(task: Task, path: Path) -> float:
    """Tokens a second that a model decodes, one at a time from an empty context."""
    with _open(task, path, WARM_TOKENS + task.decode) as llm:
        engine, text = llm.engine, llm.engine.sequence()
        ids = [(7919 * i + 1) % engine.n_vocab for i in range(WARM_TOKENS + task.decode)]
        for token in ids[:WARM_TOKENS]:
            engine.read(text, [token])
        start = time.perf_counter()
        for token in ids[WARM_TOKENS:]:
            engine.read(text, [token])
        return task.decode / (time.perf_counter() - start)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """What `--json` prints of a comparison, but for where and on what text it was made."""
    settings = {name: value for name, value in asdict(comparison.source.result).items() if name in ("tokens", "chunks")}
    return {
        "model": comparison.source.path,
        "threads": comparison.threads,
        "isa": comparison.isa,
        **settings,
        "source": comparison.source.fields(),
        "types": [one.fields() for one in comparison.types],
    }
