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

from ggufpy import models, quants
from ggufpy.convert.folder import open_folder
from ggufpy.convert.model import architectures, of_path, text_config
from ggufpy.convert.peft import Pair, Peft, open_adapter
from ggufpy.errors import GGUFError
from ggufpy.format import Blocks, Typed
from ggufpy.format.rows import Floats, Numbers, encoded, rows_of
from ggufpy.format.values import shown
from ggufpy.format.writer import write
from ggufpy.models.changes import Chain, Change, Join, Reordering, Same, Split, Transpose
from ggufpy.models.checkpoint import HfConfig, Rule
from ggufpy.quantizer.types import FILE_TYPES
from ggufpy.support import checks

OUTTYPES = ("F32", "F16", "BF16", "Q8_0")
EMBEDDING = "token_embd.weight"


def convert_adapter(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    outtype: str = "F32",
) -> list[str]:
    """Write the adapter in `folder` as GGUF to `target`; returns the names of the weights that it changes.

    `base` is the folder of the model that it is for, whose config.json is read; without it, adapter_config.json's
    base_model_name_or_path, if that is a folder. `outtype` is one of OUTTYPES; of Q8_0, what is no whole blocks is F16.
    Raises GGUFError for what no adapter of GGUF can say, and for tensors that no rule of the architecture takes.
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
    config, path = _base(adapter, base)
    architecture, checkpoint = models.checkpoint_of(architectures(config), text_config(config))
    full = checkpoint.completed(text_config(config))
    pairs = dict(_by_rules(adapter, checkpoint.rules(full), full))
    alpha = _alpha(adapter, list(pairs.values()))
    metadata = {
        "general.architecture": Typed("string", architecture),
        "general.type": Typed("string", "adapter"),
        "general.name": Typed("string", adapter.folder.resolve().name),
        "general.base_model.count": Typed("uint32", 1),
        "general.base_model.0.name": Typed("string", path.resolve().name),
        "general.file_type": Typed("uint32", FILE_TYPES[kind].number),
        "general.quantization_version": Typed("uint32", 2),
        "adapter.type": Typed("string", "lora"),
        "adapter.lora.alpha": Typed("float32", alpha),
    }
    if adapter.invocation:
        metadata["adapter.alora.invocation_tokens"] = Typed("array[uint32]", list(adapter.invocation))
    write(checks.path("target", target), metadata, dict(_tensors(pairs, alpha, kind)))
    return sorted(pairs)


def _base(adapter: Peft, base: str | os.PathLike[str] | None) -> tuple[Mapping[str, object], Path]:
    """config.json of the model that the adapter is for, and its folder."""
    if base is None and not Path(adapter.base or "?").is_dir():
        raise GGUFError(
            f"{adapter.folder} is for {shown(adapter.base or 'a model it does not name')}, which is no folder here: "
            "give the folder of its base model with --base; its config.json is enough"
        )
    path = of_path(Path(adapter.base if base is None else checks.path("base", base)))
    return open_folder(path, weights=False).config, path


def _by_rules(adapter: Peft, rules: Iterator[Rule], config: HfConfig) -> Iterator[tuple[str, Pair]]:
    """Pairs by the names of GGUF. GGUFError for those that no rule takes."""
    left = dict(adapter.pairs)
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
    """What the file says, of which readers take alpha / rank: lora_alpha, times √rank with use_rslora."""
    ranks = [pair.rank for pair in pairs]
    most = max(set(ranks), key=ranks.count)
    return adapter.alpha * (math.sqrt(most) if adapter.rslora else 1.0)


def _tensors(pairs: Mapping[str, Pair], alpha: float, kind: str) -> Iterator[tuple[str, Blocks]]:
    """Both halves of each. B has what its scale is beyond alpha / rank, so that readers' scale is right for it.

    The A of an embedding is a table, and has a row for each token.
    """
    for name, pair in pairs.items():
        reader = alpha / pair.rank if alpha else 1.0  # readers take no alpha as no scale
        factor = pair.scale / reader
        a, b = pair.a.to_numpy(), pair.b.to_numpy()
        if not math.isclose(factor, 1.0, rel_tol=1e-9):
            b = b * np.float32(factor)
        halves = (b, np.ascontiguousarray(a.T)) if name == EMBEDDING else (a, b)
        for end, half in zip(("lora_a", "lora_b"), halves, strict=True):
            fits = kind != "Q8_0" or half.shape[1] % 32 == 0
            yield f"{name}.{end}", _written(half, kind if fits else "F16")


def _written(x: Floats, kind: str) -> Blocks:
    raw = encoded(x, kind).reshape(rows_of(x.shape), -1)
    return Blocks(raw, quants.get(kind).name)
