"""Encoders of the lattice types: their tables, ggml's bytes, NumPy's bytes, and what holds for any weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grids_reference as plain
import numpy as np
import pytest
from engine import BEST, LEVELS, OTHERS, Room, compile_ahead, run, some_fast

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.jit.spec import kernel
from ggufpy.quants import neighbours
from ggufpy.quants.base import BlockType, FloatPanel
from ggufpy.quants.encoding import Encoder, NotFinite, run_kernel
from ggufpy.quants.kernels import encode_blocks
from ggufpy.simd.isa import Level

FREE = ["IQ3_S", "IQ3_XXS", "IQ2_S"]  # work without importance
BOUND = ["IQ2_XS", "IQ2_XXS", "IQ1_S", "IQ1_M"]
NAMES = FREE + BOUND
CASES = [(name, weighted) for name in NAMES for weighted in (False, True) if weighted or name in FREE]
LATTICES = ["IQ1", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"]
AT_ALL_LEVELS = ["IQ3_S", "IQ2_XXS", "IQ1_S", "IQ1_M"]  # the others have no part that these do not
QUICK = ["IQ3_S", "IQ2_XXS", "IQ1_S"]
FAST = some_fast(CASES, [case for case in CASES if case[0] in QUICK])

LARGE = [(name, 1e25) for name in NAMES] + [(name, 1e8) for name in (*FREE, "IQ1_M")]
PLAIN = [case for case in CASES if case[0] in ("IQ3_S", "IQ2_S", "IQ1_S")]
PLAIN = some_fast(PLAIN, [case for case in PLAIN if case[0] in QUICK])


def encoder(name: str, weighted: bool = True) -> Any:
    return kernel("encode_blocks", type=name.lower(), weighted=int(weighted))


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    wanted = [(encoder(*case), BEST) for case in CASES if case[0] in QUICK]
    compile_ahead(wanted + [(encoder(name), level) for name in AT_ALL_LEVELS for level in OTHERS])


def weights(shape: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def importances(columns: Any, seed: int = 1) -> Any:
    return (np.random.default_rng(seed).random(columns) ** 4 + 1e-3).astype(np.float32)


def odd_blocks() -> Any:
    """(rows, 256) whose groups are not like the others."""
    x = weights((9, 256), seed=2)
    x[0] = 0
    x[1, :32], x[1, 64:96] = 0, -0.0
    x[2] = 0.25
    x[3, ::2], x[3, 1::2] = 3, -3
    x[4] *= 1e-20
    x[5, 40:] *= 1e-9
    x[6] = np.repeat(np.float32([1, -1, 0, 2]), 64)
    x[7, 5] = 1000
    x[8] = -np.abs(x[8])
    return x


def encode_at(name: str, level: Any, x: Any, importance: Any) -> Any:
    """The bytes that a level's kernel writes, and the row that it reports; nothing outside its arrays is touched."""
    block = quants.get(name)
    code = encoder(name, importance is not None)
    tables = [Room(table) for table in block.tables()]
    out = Room(np.zeros((len(x), x.shape[1] // block.weights * block.nbytes), np.uint8))
    bad = Room(np.array([-1], np.int64))
    run(
        code,
        level,
        x_ptr=Room(x),
        x_stride=x.strides[0],
        x_type=("float32", "float16", "uint16").index(x.dtype.name),
        n_rows=len(x),
        n_blocks=x.shape[1] // block.weights,
        importance_ptr=0 if importance is None else Room(importance),
        importance_stride=0 if importance is None or len(importance) == 1 else importance.strides[0],
        out_ptr=out,
        out_stride=out.array.shape[1],
        scratch_ptr=Room(np.zeros(encode_blocks.SCRATCH * level.lanes, np.uint8)),
        bad_ptr=bad,
        tables_ptr=Room(np.array([table.address for table in tables], np.int64)),
    )
    return out.array, int(bad.array[0])


@pytest.mark.parametrize("name", LATTICES)
def test_tables_against_brute_force(name: str) -> None:
    lattice = getattr(neighbours, name)
    numbers, lists = neighbours.tables(lattice)
    points = plain.lattice(lattice.words(), lattice.digits)
    shifts = lattice.bits * np.arange(lattice.digits)
    places = (points << shifts).sum(axis=1)
    assert numbers[places].tolist() == list(range(len(points)))
    assert (numbers >= 0).sum() == len(points)
    every = np.indices((lattice.levels,) * lattice.digits).reshape(lattice.digits, -1).T
    off = every[numbers[(every << shifts).sum(axis=1)] < 0]
    assert len(off) == len(every) - len(points)
    for place in off[:: len(off) // 60]:
        start = -1 - numbers[(place << shifts).sum()]
        expected = places[plain.near(points, place, lattice.classes)]
        found = lists[start + 1 : start + 1 + lists[start]]
        assert found.tolist() == expected.tolist()
        filled = lists[start + 1 : start + 1 + -(-len(found) // 16) * 16]
        assert len(filled) % 16 == 0
        assert (filled[len(found) :] == found[0]).all()


def zeros_displace(x: Any) -> Any:
    """(blocks,) whether a group of zeros stands before another: ggml's IQ3_S then writes later groups too early."""
    zero = (x.reshape(-1, 8, 32) == 0).all(axis=2)
    return (zero[:, :-1] & ~zero[:, 1:]).any(axis=1)


@pytest.mark.parametrize(("name", "weighted"), FAST)
def test_bytes_of_ggml(shared: Any, name: str, weighted: bool) -> None:
    with np.load(shared / "reference" / "quant_vectors.npz") as vectors:
        x, importance = vectors["x"], vectors["imatrix"] if weighted else None
        expected = vectors[name + "__imatrix" * weighted]
    nbytes = quants.get(name).nbytes
    found = quants.quantize(x, name, importance)
    same = (found.reshape(-1, nbytes) == expected.reshape(-1, nbytes)).all(axis=1)
    if name == "IQ3_S":
        displaced = zeros_displace(x)
        assert same[~displaced].all()
        ours, theirs = [((quants.dequantize(b, name) - x) ** 2).reshape(-1, 256).sum(axis=1) for b in (found, expected)]
        assert (ours[displaced] < theirs[displaced] / 2).all()
    else:
        assert same.all()


@pytest.mark.parametrize(("name", "weighted"), PLAIN)
def test_bytes_of_numpy(name: str, weighted: bool) -> None:
    x = np.concatenate([odd_blocks()[[0, 1, 5, 6]], weights((1, 256), seed=3) * np.float32(0.02)])
    importance = importances(256) if weighted else None
    reference: Callable[..., Any] = getattr(plain, name.lower())
    with np.errstate(over="ignore", under="ignore"):
        expected = np.stack([reference(row, importance) for row in x])
    assert np.array_equal(quants.quantize(x, name, importance), expected)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("name", some_fast(NAMES, QUICK))
def test_levels_agree(name: str, level: Level) -> None:
    x = np.concatenate([odd_blocks(), weights((12, 256), seed=4) * np.float32(1e-2)]).reshape(7, 768)
    importance = importances((7, 768))
    expected = quants.quantize(x, name, importance)
    found, bad = encode_at(name, level, x, importance)
    assert np.array_equal(found, expected)
    assert bad == -1


@pytest.mark.parametrize(("name", "weighted"), FAST)
@pytest.mark.parametrize("rows", [1, 3])
def test_rows_stand_alone(name: str, weighted: bool, rows: int) -> None:
    x, importance = weights((rows, 2, 512), seed=5), importances((rows, 2, 512)) if weighted else None
    whole = quants.quantize(x, name, importance)
    assert whole.shape == (rows, 2, 2 * quants.get(name).nbytes)
    for i in np.ndindex(rows, 2):
        alone = quants.quantize(x[i], name, None if importance is None else importance[i])
        assert np.array_equal(whole[i], alone)


# Of the mean square, what an error of the type may come to on normal weights, measured with some room.
BOUNDS = {
    "IQ3_S": 0.022, "IQ3_XXS": 0.034, "IQ2_S": 0.066, "IQ2_XS": 0.093, "IQ2_XXS": 0.12, "IQ1_S": 0.24, "IQ1_M": 0.22,
}  # fmt: skip


@pytest.mark.parametrize("name", some_fast(NAMES, QUICK))
def test_error(name: str) -> None:
    x = weights((8, 1024), seed=6)
    blocks = quants.quantize(x, name, np.ones(1024))
    assert ((quants.dequantize(blocks, name) - x) ** 2).mean() < BOUNDS[name]


@pytest.mark.parametrize("name", some_fast(NAMES, QUICK))
def test_importance_lowers_the_weighted_error(name: str) -> None:
    x, importance = weights((8, 1024), seed=7), importances(1024)

    def error(given: Any) -> float:
        decoded = quants.dequantize(quants.quantize(x, name, given), name)
        return float((importance * (decoded - x) ** 2).mean())

    assert error(importance) < error(np.ones(1024))
    if name in FREE:
        assert error(importance) < error(None)


@pytest.mark.parametrize(("name", "weighted"), FAST)
def test_odd_blocks(name: str, weighted: bool) -> None:
    x = odd_blocks()
    blocks = quants.quantize(x, name, np.ones(256) if weighted else None)
    decoded = quants.dequantize(blocks, name)
    assert np.isfinite(decoded).all()
    assert (decoded[0] == 0).all()
    assert (np.abs(decoded - x) <= 1.3 * np.abs(x).max(axis=1, keepdims=True)).all()
    even = name in ("IQ3_XXS", "IQ2_XS", "IQ2_XXS")
    if not even and name[2] != "1":  # a sign may be given up for the others, or for a smaller error
        assert (decoded[8] < 0).all()


@pytest.mark.parametrize("name", some_fast(NAMES, QUICK))
def test_importance_of_zero(name: str) -> None:
    x = weights((4, 256), seed=8)
    importance = importances((4, 256))
    importance[0], importance[1, :48], importance[2, ::2] = 0, 0, 0
    decoded = quants.dequantize(quants.quantize(x, name, importance), name)
    assert np.isfinite(decoded).all()
    without = importance.copy()
    without[3, 0] = 1e20
    assert np.isfinite(quants.dequantize(quants.quantize(x, name, without), name)).all()


@pytest.mark.parametrize("name", some_fast(["IQ3_XXS", "IQ1_S", "IQ1_M"], QUICK[2:]))
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_sources(name: str, kind: str) -> None:
    bits = weights((3, 512), seed=9).view(np.uint32) & np.uint32(0xFFFF0000)
    x, importance = bits.view(np.float32), importances((1, 512))
    given = x.astype(np.float16) if kind == "float16" else (bits >> np.uint32(16)).astype(np.uint16)
    if kind == "float16":
        x = given.astype(np.float32)
    out = np.empty((3, 2 * quants.get(name).nbytes), np.uint8)
    Encoder(quants.get(name), 2).encode(given, importance, out)
    assert np.array_equal(out, quants.quantize(x, name, importance))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(value: float) -> None:
    x, block = weights((5, 512), seed=10), quants.get("IQ2_XXS")
    x[3, 300] = value
    out = np.empty((5, 2 * block.nbytes), np.uint8)
    with pytest.raises(NotFinite) as error:
        Encoder(block, 1).encode(x, importances((1, 512)), out)
    assert error.value.row == 3
    Encoder(block, 1).encode(x, importances((1, 512)), out, zero_bad=True)
    x[3, 300] = 0
    assert np.array_equal(out, quants.quantize(x, "IQ2_XXS", importances(512)))


@pytest.mark.parametrize("name", some_fast(BOUND, QUICK[1:]))
def test_importance_is_needed(name: str) -> None:
    with pytest.raises(GGUFError, match=f"{name} needs an importance"):
        quants.quantize(weights(256), name)


@pytest.mark.parametrize(("name", "size"), some_fast(LARGE, [case for case in LARGE if case[0] in QUICK]))
def test_too_large(name: str, size: float) -> None:
    with pytest.raises(GGUFError, match="too large for the 16-bit scale"):
        quants.quantize(weights(256, seed=11) * np.float32(size), name, np.ones(256))


class Probe(BlockType):
    """Writes down what an encoder is given: the mean of its row, its first weight and importance."""

    name, id, weights, nbytes, layout, formula, panel = "PROBE", -1, 32, 12, (), "", FloatPanel("f32")
    encoder = "blocks"

    def block_encoder(self, v: Any, weighted: bool) -> Any:
        @v.njit
        def encode(x, w, mean, out, work, tables):
            v.store_f32(out, mean)
            v.store_f32(out + 4, v.load_f32(x))
            v.store_f32(out + 8, v.load_f32(w + 4 * 31))

        return encode


def test_what_an_encoder_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    probe = Probe()
    monkeypatch.setenv("GGUFPY_CACHE", str(tmp_path))
    monkeypatch.setattr(quants, "get", lambda name: probe)
    x, importance = weights((3, 64), seed=12), importances((3, 64))
    out = np.empty((3, 24), np.uint8)
    assert run_kernel(probe, x, importance, out, BEST) == -1
    found = out.view(np.float32).reshape(3, 2, 3)
    mean = np.add.accumulate(x * x, axis=1)[:, -1] / np.float32(64)
    assert (found[:, :, 0] == mean[:, None]).all()
    assert (found[:, :, 1] == x[:, ::32]).all()
    assert (found[:, :, 2] == importance[:, 31::32]).all()
