"""PEFT's LoRA adapters as adapters of GGUF.

In: an adapter's folder. Out: a file that `ggufpy run --lora` and llama.cpp take: tensors "<name>.lora_a" (rank, in) and
"<name>.lora_b" (out, rank). Facts: convert_lora_to_gguf.py of llama.cpp.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ggufpy.convert.folder import open_folder, spare
from ggufpy.convert.model import known, of_path
from ggufpy.convert.names import placed
from ggufpy.convert.peft import Pair, Peft, open_adapter
from ggufpy.errors import GGUFError
from ggufpy.format import TensorInfo, Typed, Writer
from ggufpy.format.rows import Bytes, Numbers, Rows, Transposed, decoded, encoded, rows_of
from ggufpy.format.values import shown
from ggufpy.models.changes import Chain, Change, Join, Reordering, Same, Split, Transpose
from ggufpy.models.checkpoint import HfConfig, Rule
from ggufpy.models.lora import ALPHA_MAX, EMBEDDING
from ggufpy.quantizer.types import FILE_TYPES
from ggufpy.support import checks
from ggufpy.support.records import dataclass

OUTTYPES = ("F32", "F16", "BF16", "Q8_0")


def convert_adapter(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    outtype: str = "F32",
) -> list[str]:
    """Write the adapter in `folder` as GGUF to `target`; returns the names of the weights that it changes.

    `base` is the folder of the model that it is for, whose config.json is read; without it, adapter_config.json's
    base_model_name_or_path, if that is a folder. `outtype` is one of OUTTYPES; of Q8_0, what is no whole blocks is F16.
    Raises GGUFError for what no adapter of GGUF can say, for tensors that no rule of the architecture takes or that
    have values which are not finite, and where `target` is a file of the adapter or of the model.
    """
    kind = checks.text("outtype", outtype).upper()
    if kind not in OUTTYPES:
        raise GGUFError(f"outtype is {shown(outtype)}; an adapter is written as {', '.join(OUTTYPES)}")
    adapter = open_adapter(Path(checks.path("folder", folder)))
    if adapter.whole:
        raise GGUFError(
            f"{adapter.folder} has {shown(next(iter(adapter.whole)))} whole (modules_to_save), which no adapter "
            "of GGUF can say: merge it into its model with --lora"
        )
    model = _base(adapter, base)
    architecture, checkpoint, config = known(open_folder(model, weights=False).config)
    pairs = dict(_by_rules(adapter, list(checkpoint.rules(config)), checkpoint.anchor, config))
    alpha = _alpha(adapter, list(pairs.values()))
    metadata = {
        "general.architecture": Typed("string", architecture),
        "general.type": Typed("string", "adapter"),
        "general.name": Typed("string", adapter.folder.resolve().name),
        "general.base_model.count": Typed("uint32", 1),
        "general.base_model.0.name": Typed("string", model.resolve().name),
        "general.file_type": Typed("uint32", FILE_TYPES[kind].number),
        "general.quantization_version": Typed("uint32", 2),
        "adapter.type": Typed("string", "lora"),
        "adapter.lora.alpha": Typed("float32", alpha),
    }
    if adapter.invocation:
        metadata["adapter.alora.invocation_tokens"] = Typed("array[uint32]", list(adapter.invocation))
    target = Path(checks.path("target", target))
    spare(target, [adapter.folder, model])
    _write(target, metadata, list(_halves(pairs, alpha, kind)))
    return sorted(pairs)


def _base(adapter: Peft, base: str | os.PathLike[str] | None) -> Path:
    """The folder of the model that the adapter is for."""
    if base is not None:
        return of_path(Path(checks.path("base", base)))
    if not os.path.isdir(adapter.base):
        raise GGUFError(
            f"{adapter.folder} is for {shown(adapter.base or 'a model it does not name')}, which is no folder here: "
            "give the folder of its base model with --base; its config.json is enough"
        )
    return Path(adapter.base)


def _by_rules(adapter: Peft, rules: Sequence[Rule], anchor: str, config: HfConfig) -> Iterator[tuple[str, Pair]]:
    """Pairs by the names of GGUF. GGUFError for those that no rule takes."""
    left = placed(adapter.pairs, {name for rule in rules for name in rule.hf}, anchor)
    for rule in rules:
        if not any(name in left for name in rule.hf):
            continue
        first = next(name for name in rule.hf if name in left)
        if rule.gguf[0] == "output.weight" and config.flag("tie_word_embeddings"):
            raise GGUFError(f"{adapter.folder} changes {shown(first)}, and the model's head is its embedding")
        try:
            made = changed(rule.change, [left.pop(name, None) for name in rule.hf])
        except GGUFError as e:
            raise GGUFError(f"{adapter.folder}: {shown(first)}: {e}") from None
        yield from zip(rule.gguf, made, strict=True)
    if left:
        raise GGUFError(f"{adapter.folder} changes {shown(next(iter(left)))}, which models of its base have not")


def changed(change: Change, pairs: Sequence[Pair | None]) -> list[Pair]:
    """What a change of weights does to pairs. What is no order of rows is refused."""
    if isinstance(change, Chain):
        made: Sequence[Pair | None] = pairs
        for part in change.changes:
            made = changed(part, made)
        return [pair for pair in made if pair is not None]
    if isinstance(change, Join):
        return [_joined(change.sizes, pairs)]
    (pair,) = pairs if len(pairs) == 1 else (None,)
    if pair is None or not isinstance(change, Same | Reordering | Split | Transpose):
        raise GGUFError("its weights are changed as no pair can follow: merge it into its model with --lora")
    if isinstance(change, Same | Transpose):
        return [pair]  # layers that a checkpoint has as (in, out) are (out, in) to PEFT, as in a file
    return [replace(pair, b=b) for b in change.forward([pair.b])]


def _joined(sizes: Sequence[int], pairs: Sequence[Pair | None]) -> Pair:
    """One pair for matrices one under the other: A's one under the other, B's from corner to corner, scales in B."""
    there = [pair for pair in pairs if pair is not None]
    b = np.zeros((sum(sizes), sum(pair.rank for pair in there)), np.float32)
    row = column = 0
    for size, pair in zip(sizes, pairs, strict=True):
        if pair is not None:
            if pair.shape != (size, there[0].shape[1]):
                raise GGUFError(f"its pair is for a weight of shape {list(pair.shape)}, of {size} rows")
            b[row : row + size, column : column + pair.rank] = pair.b.to_numpy() * np.float32(pair.scale)
            column += pair.rank
        row += size
    return Pair(Numbers(np.concatenate([pair.a.to_numpy() for pair in there])), Numbers(b), 1.0)


def _alpha(adapter: Peft, pairs: Sequence[Pair]) -> float:
    """What the file says, of which readers take alpha / rank: lora_alpha, times √rank with use_rslora.

    0, which readers take as no scale, where they would not take it; scales are in B then.
    """
    ranks = [pair.rank for pair in pairs]
    most = max(set(ranks), key=ranks.count)
    alpha = adapter.alpha * (math.sqrt(most) if adapter.rslora else 1.0)
    return alpha if 0 < alpha <= ALPHA_MAX else 0.0


@dataclass(frozen=True)
class _Half:
    """A half of a pair as it will be in the file, of type `kind`: `rows` times `factor`."""

    name: str
    rows: Rows
    kind: str
    factor: float = 1.0

    @property
    def info(self) -> TensorInfo:
        return TensorInfo(self.name, self.rows.shape, self.kind)

    def data(self) -> Bytes:
        """Its bytes. GGUFError for values that are not finite, or that `kind` cannot hold."""
        x = self.rows.to_numpy()
        if not math.isclose(self.factor, 1.0, rel_tol=1e-9):
            with np.errstate(over="ignore", invalid="ignore"):
                x = x * np.float32(self.factor)
        if not np.isfinite(x).all():
            raise GGUFError(f"tensor {shown(self.name)} has a value that is not finite: the adapter is damaged")
        raw = encoded(x, self.kind).reshape(rows_of(x.shape), -1)
        if not np.isfinite(decoded(raw, self.kind)).all():
            raise GGUFError(f"tensor {shown(self.name)} has a value too large for {self.kind}: choose BF16 or F32")
        return raw


def _halves(pairs: Mapping[str, Pair], alpha: float, kind: str) -> Iterator[_Half]:
    """Both halves of each. B has what its scale is beyond alpha / rank, so that readers' scale is right for it.

    The A of an embedding is a table, and has a row for each token.
    """
    for name, pair in pairs.items():
        factor = pair.scale / (alpha / pair.rank if alpha else 1.0)
        halves: tuple[tuple[Rows, float], ...] = ((pair.a, 1.0), (pair.b, factor))
        if name == EMBEDDING:
            halves = ((pair.b, factor), (Transposed(pair.a), 1.0))
        for end, (rows, times) in zip(("lora_a", "lora_b"), halves, strict=True):
            fits = kind != "Q8_0" or rows.columns % 32 == 0
            yield _Half(f"{name}.{end}", rows, kind if fits else "F16", times)


def _write(target: Path, metadata: Mapping[str, Typed], halves: Sequence[_Half]) -> None:
    """One half after the other, of which no more than one is in memory."""
    with Writer(target, metadata, [half.info for half in halves]) as writer:
        for half in halves:
            writer.append(half.name, half.data())
            half.rows.release()
