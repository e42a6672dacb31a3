"""A small model in a file, and what quantising it must give by `quants.quantize`, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ggufpy import format as gguf
from ggufpy import quants
from ggufpy.format import Typed
from ggufpy.quantizer import QuantizeOptions, Report
from ggufpy.quantizer.rules import order_of

COLUMNS, LAYERS = 256, 8
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Weights:
    """An importance matrix in memory."""

    entries: Mapping[str, Any] = field(default_factory=dict)
    datasets: Sequence[str] = ("calibration.txt",)
    chunks: int = 7

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.entries)

    def weights(self, name: str) -> Any:
        return self.entries.get(name)


def model(layers: int = LAYERS, columns: int = COLUMNS, seed: int = 0) -> dict[str, Any]:
    """Tensors of a llama model with two experts in its last layer, F32, in another order than they are written in."""
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> Any:
        return (rng.standard_normal(shape) / 16).astype(np.float32)

    made = {"token_embd.weight": matrix(48, columns), "output.weight": matrix(48, columns)}
    for i in reversed(range(layers)):
        made[f"blk.{i}.attn_norm.weight"] = np.ones(columns, np.float32)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            made[f"blk.{i}.{name}.weight"] = matrix(32, columns)
        made[f"blk.{i}.ffn_down.weight"] = matrix(48, columns)
    made[f"blk.{layers - 1}.ffn_up_exps.weight"] = matrix(2, 24, columns)
    return made


def metadata(layers: int = LAYERS) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.file_type": Typed("uint32", 1),
        "llama.block_count": layers,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": 4,
        "general.name": "small",
    }


def written(path: Path, tensors: Mapping[str, Any], keys: Mapping[str, Any] = NOTHING, **how: Any) -> Path:
    gguf.write(path, {**metadata(), **keys}, tensors, **how)
    return path


def tensors_of(path: Path) -> dict[str, tuple[str, bytes]]:
    with gguf.open(path) as file:
        return {name: (t.type, t.little().tobytes()) for name, t in file.tensors.items()}


def options(**chosen: Any) -> QuantizeOptions:
    return QuantizeOptions(threads=2, **chosen)


def expect(tensors: Mapping[str, Any], types: Mapping[str, str], importance: Weights | None = None) -> dict[str, Any]:
    """The bytes of each tensor by `quants.quantize`."""
    made = {}
    for name in sorted(tensors, key=order_of):
        x, to = tensors[name], types[name]
        weights = None if importance is None or to in ("F32", "F16", "BF16") else importance.weights(name)
        if weights is not None and x.ndim == 3:
            data = np.stack([quants.quantize(x[i], to, weights[i]) for i in range(len(x))])
        else:
            data = quants.quantize(x, to, None if weights is None else weights[0])
        made[name] = (to, data.tobytes())
    return made


def types_of(report: Report) -> dict[str, str]:
    return {tensor.name: tensor.target for tensor in report.tensors}


def split(folder: Path, files: int = 3) -> list[Path]:
    tensors = model()
    names = list(tensors)
    paths = []
    for i in range(files):
        keys = {"split.no": Typed("uint16", i), "split.count": Typed("uint16", files)}
        keys["split.tensors.count"] = Typed("int32", len(names))
        path = folder / f"in-{i + 1:05d}-of-{files:05d}.gguf"
        own = {name: tensors[name] for name in names[i::files]}
        gguf.write(path, {**metadata(), **keys} if i == 0 else keys, own)
        paths.append(path)
    return paths
