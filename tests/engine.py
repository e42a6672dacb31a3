"""What the engine's tests share: kernels called on NumPy arrays, references in NumPy, and small models."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pytest

from ggufpy import format as gguf
from ggufpy import quants, runtime
from ggufpy.backends.cpu.tape import COUNTED
from ggufpy.jit.cache import library
from ggufpy.jit.spec import Kernel, load_source
from ggufpy.runtime import Engine, EngineOptions
from ggufpy.simd import isa
from ggufpy.simd.isa import Level

LEVELS = isa.available()
BEST = LEVELS[0]
OTHERS = LEVELS[1:]
ACTIVE = {BEST}  # levels of the tests that will run (conftest.py)
GUARD = 256  # bytes before and after an array that no kernel may change
SLACK = 4096  # bytes past the end that kernels may read, as the runtime's regions have them


class Room:
    """An array in memory of its own, aligned to cache lines, with guard bytes that `check` looks at."""

    def __init__(self, values: Any) -> None:
        values = np.ascontiguousarray(values)
        whole = np.full(values.nbytes + 2 * GUARD + SLACK + 64, 0xA5, np.uint8)
        start = GUARD + -(whole.ctypes.data + GUARD) % 64
        self._whole, self._start, self._end = whole, start, start + values.nbytes
        self.array: Any = whole[start : self._end].view(values.dtype).reshape(values.shape)
        self.array[...] = values

    @property
    def address(self) -> int:
        return int(self._whole.ctypes.data) + self._start

    def check(self) -> None:
        assert (self._whole[: self._start] == 0xA5).all(), "written before the array"
        assert (self._whole[self._end :] == 0xA5).all(), "written past the array"


def step(count: int, position: int = 0) -> Room:
    """What `step_ptr` arguments point to: tokens, and the position of the first."""
    return Room(np.array([count, position], np.int64))


def run(kernel: Kernel, level: Level, nth: int = 1, **fields: Room | float) -> None:
    """Calls a kernel once for each of `nth` threads, and checks that it kept to its arrays.

    The threads come in turn, but at once where they take turns themselves (`next_ptr`).
    """
    args = np.zeros((), load_source(kernel).ARGS)
    together = COUNTED in (args.dtype.names or ())
    if together:
        fields[COUNTED] = Room(np.zeros(8, np.int64))
    assert set(args.dtype.names or ()) == set(fields)
    for name, value in fields.items():
        args[name] = value.address if isinstance(value, Room) else value
    if together:
        library(level).load([kernel])
        with ThreadPoolExecutor(nth) as pool:
            list(pool.map(lambda ith: library(level).call(kernel, args, ith, nth), range(nth)))
    else:
        for ith in range(nth):
            library(level).call(kernel, args, ith, nth)
    for value in fields.values():
        if isinstance(value, Room):
            value.check()


def some_fast(cases: Sequence[Any], fast: Sequence[Any]) -> list[Any]:
    """Parameters of a test: the short run has the `fast` ones, the long run the others, which want more kernels."""
    assert set(fast) <= set(cases)
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)),
                         marks=[] if case in fast else [pytest.mark.slow]) for case in cases]  # fmt: skip


def compile_ahead(wanted: Sequence[tuple[Kernel, Level]]) -> None:
    """Loads kernels together, so that those that the cache lacks are compiled by several processes."""
    for level in dict.fromkeys(level for _, level in wanted if level in ACTIVE):
        library(level).load(kernel for kernel, at in wanted if at == level)


def padded(x: Any, columns: int) -> Any:
    """Rows of float32 with zeros up to `columns`."""
    x = np.atleast_2d(x)
    out = np.zeros((x.shape[0], columns), np.float32)
    out[:, : x.shape[1]] = x
    return out


def up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def quantised(x: Any) -> tuple[Any, Any]:
    """Rows of float32 → (their bytes as 8-bit activations, the values that those stand for in float64).

    By 16 columns: codes to nearest even of x · 127 / largest, scale largest / 127, minus the sum of codes, scale · sum.
    """
    x = np.asarray(x, np.float32)
    rows, columns = x.shape
    parts = x.reshape(rows, columns // 16, 16)
    top = np.abs(parts).max(axis=2).astype(np.float64)
    inverse = np.where(top > 1e-30, 127.0 / np.maximum(top, 1e-300), 0.0).astype(np.float32)
    codes = np.rint(parts * inverse[..., None]).astype(np.int8)
    scale = (top / 127.0).astype(np.float32)
    sums = codes.sum(axis=2, dtype=np.int32)
    fields = [codes.reshape(rows, -1), scale, -sums, (top / 127.0 * sums).astype(np.float32)]
    packed = np.concatenate([part.view(np.uint8).reshape(rows, -1) for part in fields], axis=1)
    return packed, (codes * scale[..., None].astype(np.float64)).reshape(rows, columns)


def half(x: Any) -> Any:
    """float32 → the nearest f16, the largest finite one where it is beyond, as float64."""
    return np.clip(np.asarray(x, np.float64), -65504.0, 65504.0).astype(np.float16).astype(np.float64)


# -- models ------------------------------------------------------------------------------------------------


def synthetic() -> ModuleType:
    """tools/synthetic.py, which writes whole models of random weights."""
    path = Path(__file__).resolve().parent.parent / "tools" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("ggufpy_synthetic", path)
    assert spec is not None
    assert spec.loader is not None
    if spec.name not in sys.modules:
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return sys.modules[spec.name]


SIZES: Mapping[str, Any] = {
    "context_length": 64,
    "embedding_length": 40,
    "block_count": 2,
    "feed_forward_length": 52,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
VOCABULARY = 61
NOTHING: Mapping[str, Any] = MappingProxyType({})


def encoded(values: Any, type_name: str) -> Any:
    """A matrix as a writer takes it: an array, or blocks of the type."""
    if type_name == "F32":
        return values.astype(np.float32)
    return gguf.Blocks(quants.quantize(values.astype(np.float32), type_name), type_name)


def weights(sizes: Mapping[str, Any], vocabulary: int, type_name: str, seed: int = 0) -> dict[str, Any]:
    """Random tensors of a llama model by name, as a writer takes them; matrices in `type_name`."""
    rng = np.random.default_rng(seed)
    width, hidden = sizes["embedding_length"], sizes["feed_forward_length"]
    heads, shared = sizes["attention.head_count"], sizes["attention.head_count_kv"]
    key = sizes.get("attention.key_length", width // heads)
    value = sizes.get("attention.value_length", width // heads)

    def matrix(rows: int, columns: int) -> Any:
        return encoded(rng.standard_normal((rows, columns)) / math.sqrt(columns), type_name)

    def norm() -> Any:
        return (1.0 + 0.2 * rng.standard_normal(width)).astype(np.float32)

    found = {"token_embd.weight": matrix(vocabulary, width)}
    for i in range(sizes["block_count"]):
        shapes = {
            "attn_q": (heads * key, width), "attn_k": (shared * key, width), "attn_v": (shared * value, width),
            "attn_output": (width, heads * value), "ffn_gate": (hidden, width), "ffn_up": (hidden, width),
            "ffn_down": (width, hidden),
        }  # fmt: skip
        found |= {f"blk.{i}.attn_norm.weight": norm(), f"blk.{i}.ffn_norm.weight": norm()}
        found |= {f"blk.{i}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
    return {**found, "output_norm.weight": norm(), "output.weight": matrix(vocabulary, width)}


def metadata(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {"general.architecture": "llama", **{f"llama.{key}": value for key, value in sizes.items()}}


def write_model(
    path: Path, changes: Mapping[str, Any] = NOTHING, tensors: Mapping[str, Any] = NOTHING, type_name: str = "F32"
) -> Path:
    """A tiny llama model. `changes` to SIZES or further keys, and `tensors` added or replaced; None leaves one out."""
    sizes = {k: v for k, v in {**SIZES, **changes}.items() if v is not None}
    made = {**weights({**SIZES, **sizes}, VOCABULARY, type_name), **tensors}
    gguf.write(path, metadata(sizes), {name: t for name, t in made.items() if t is not None})
    return path


class Text:
    """An engine with one sequence, as most tests want it; logits of the newest token are kept."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.sequence = engine, engine.sequence()
        self.newest: Any = None

    @property
    def n_past(self) -> int:
        return self.sequence.n_past

    def eval(self, tokens: Any) -> None:
        found = self.engine.read(self.sequence, tokens)
        self.newest = found[-1] if len(found) else self.newest

    def eval_logits(self, tokens: Any, exact: bool = False) -> Any:
        found = self.engine.read(self.sequence, tokens, "all", exact)
        self.newest = found[-1] if len(found) else self.newest
        return found

    def last_logits(self) -> Any:
        return self.newest

    def truncate(self, n: int) -> None:
        self.sequence.truncate(n)

    def shift(self, keep: int, drop: int) -> None:
        self.sequence.shift(keep, drop)

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Text:
        return self

    def __exit__(self, *error: object) -> None:
        self.engine.close()


def load(file: Any, options: EngineOptions) -> Text:
    return Text(runtime.load(file, options))


# -- the reference forward pass ------------------------------------------------------------------------------


def frequencies(keys: Mapping[str, Any], dims: int, factors: Any = None) -> tuple[Any, float]:
    """Radians a position for each pair, and what cos and sin are multiplied by.

    Su et al. 2021 (RoPE); Chen et al. 2023 (linear); Peng et al. 2023 (YaRN, eq. 22 and section 3.4, by pair index);
    Meta's Llama 3.1 reference code (wavelength bands).
    """
    base, kind = keys.get("rope.freq_base", 10000.0), keys.get("rope.scaling.type", "linear")
    factor = keys.get("rope.scaling.factor", keys.get("rope.scale_linear", 1.0))
    magnitude = keys.get("rope.scaling.attn_factor", 1.0)
    trained = keys.get("rope.scaling.original_context_length", keys["context_length"])
    theta = np.array([base ** (-2 * i / dims) for i in range(dims // 2)])
    if factors is not None:
        theta = theta / np.asarray(factors, np.float64)
    if kind == "linear":
        return theta / factor, magnitude
    if kind == "yarn":
        edges = []
        for turns, toward in (("rope.scaling.yarn_beta_fast", math.floor), ("rope.scaling.yarn_beta_slow", math.ceil)):
            rotations = keys.get(turns, 32.0 if toward is math.floor else 1.0)
            edges.append(toward(dims * math.log(trained / (2 * math.pi * rotations)) / (2 * math.log(base))))
        first, last = max(edges[0], 0), min(edges[1], dims - 1)
        out = []
        for i, t in enumerate(theta):
            slow = min(max((i - first) / max(last - first, 0.001), 0.0), 1.0)
            out.append(t / factor * slow + t * (1 - slow))
        return np.array(out), magnitude * (0.1 * math.log(factor) + 1.0)
    if kind == "llama3":
        low, high = keys.get("rope.scaling.low_freq_factor", 1.0), keys.get("rope.scaling.high_freq_factor", 4.0)
        out = []
        for t in theta:
            wavelength = 2 * math.pi / t
            smooth = (trained / wavelength - low) / (high - low)
            if wavelength < trained / high:
                out.append(t)
            elif wavelength > trained / low:
                out.append(t / factor)
            else:
                out.append((1 - smooth) * t / factor + smooth * t)
        return np.array(out), 1.0
    return theta, 1.0


def rotate(x: Any, positions: Any, theta: Any, magnitude: float = 1.0, neox: bool = False) -> Any:
    """(tokens, heads, length): the first 2 · len(theta) dimensions of each head, as complex numbers, turned."""
    pairs = len(theta)
    turn = magnitude * np.exp(1j * np.asarray(positions, np.float64)[:, None, None] * theta)
    out = np.array(x, np.float64)
    halves = slice(0, pairs), slice(pairs, 2 * pairs)
    first, second = halves if neox else (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2))
    turned = (out[..., first] + 1j * out[..., second]) * turn
    out[..., first], out[..., second] = turned.real, turned.imag
    return out


def attend(
    q: Any, k: Any, v: Any, window: int = 0, softcap: float = 0.0, sinks: Any = None, all_seen: bool = False
) -> Any:
    """Attention: q (n, heads, key), k (m, shared, key), v (m, shared, value), the last n of m positions."""
    n, m, group = q.shape[0], k.shape[0], q.shape[1] // k.shape[1]
    scores = np.einsum("nhd,mhd->hnm", q, np.repeat(k, group, axis=1))
    here, there = np.arange(m - n, m)[:, None], np.arange(m)[None, :]
    if all_seen:
        seen = (abs(there - here) <= window // 2) | (window == 0)
    else:
        seen = (there <= here) & ((there > here - window) | (window == 0))
    scores = softcap * np.tanh(scores / softcap) if softcap else scores
    scores = np.where(seen, scores, -np.inf)
    extra = np.full((q.shape[1], 1, 1), -np.inf) if sinks is None else sinks[:, None, None]
    top = np.maximum(scores.max(axis=2, keepdims=True), extra)
    p = np.exp(scores - top)
    p /= p.sum(axis=2, keepdims=True) + np.exp(extra - top)
    return np.einsum("hnm,mhd->nhd", p, np.repeat(v, group, axis=1))


def reference(file: Any, tokens: Any) -> Any:
    """Logits (tokens, vocabulary) of a llama file in float64; keys and values are kept in f16, as the design has it."""
    keys = {k.removeprefix("llama."): v for k, v in file.metadata.items() if k.startswith("llama.")}
    tensors = {name: np.asarray(t.to_numpy(), np.float64) for name, t in file.tensors.items()}
    heads = keys["attention.head_count"]
    shared = keys.get("attention.head_count_kv", heads)
    key = keys.get("attention.key_length", keys["embedding_length"] // heads)
    eps = keys.get("attention.layer_norm_rms_epsilon", 1e-5)
    theta, magnitude = frequencies(keys, keys.get("rope.dimension_count", key), tensors.get("rope_freqs.weight"))
    n = len(tokens)

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * tensors[name]

    def project(x: Any, name: str) -> Any:
        return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0.0)

    x = tensors["token_embd.weight"][np.asarray(tokens)]
    for i in range(keys["block_count"]):
        at = f"blk.{i}."
        h = norm(x, at + "attn_norm.weight")
        q, k, v = (project(h, at + name) for name in ("attn_q", "attn_k", "attn_v"))
        q = rotate(q.reshape(n, heads, key), np.arange(n), theta, magnitude) / math.sqrt(key)
        k = half(rotate(k.reshape(n, shared, key), np.arange(n), theta, magnitude))
        y = attend(q, k, half(v.reshape(n, shared, -1)), keys.get("attention.sliding_window", 0))
        x = x + project(y.reshape(n, -1), at + "attn_output")
        h = norm(x, at + "ffn_norm.weight")
        gate = project(h, at + "ffn_gate")
        x = x + project(gate / (1 + np.exp(-gate)) * project(h, at + "ffn_up"), at + "ffn_down")
    output = "output" if "output.weight" in tensors else "token_embd"
    x = norm(x, "output_norm.weight") @ tensors[f"{output}.weight"].T
    return x + tensors.get("output.bias", 0.0)


def divergence(exact: Any, found: Any) -> float:
    """Mean KL divergence of the rows' softmax from the exact ones."""
    a, b = (z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)
            for z in (np.asarray(exact, np.float64), np.asarray(found, np.float64)))  # fmt: skip
    return float((np.exp(a) * (a - b)).sum(axis=1).mean())


def difference(exact: Any, found: Any) -> float:
    """The largest error over the spread of the exact values."""
    return float(np.abs(exact - found).max() / np.std(exact))
