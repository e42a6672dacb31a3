"""Panels, byte for byte, of every block type at every level, against NumPy; and what packing makes of odd scales."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS, compile_ahead, half, up
from test_kernels_matmul import Source, pack

from ggufpy import quants
from ggufpy.backends.cpu import packing
from ggufpy.backends.cpu.kernels.layout import BLOCK, block_bytes, pieces, scale_offset
from ggufpy.backends.cpu.memory import Region
from ggufpy.backends.cpu.weights import pack_kernel, packed_bytes
from ggufpy.errors import GGUFError
from ggufpy.jit.cache import library
from ggufpy.quants.base import EXPONENTS, FloatPanel, IntPanel
from ggufpy.quants.words import PIECE, Words
from ggufpy.simd.isa import EMULATED, Level

INTEGER = [name for name in quants.names() if isinstance(quants.get(name).panel, IntPanel)]
COMPILED = [name for name in INTEGER if quants.get(name).packer == "lanes"]
FLOATS = ("F16", "BF16", "F32", "F64", "I8")
# What differs between levels are the primitives, all of which these use; the best level packs every type.
SOME = ("Q4_0", "Q5_1", "Q8_0", "Q3_K", "Q4_K", "Q6_K", "IQ4_NL", "MXFP4", "IQ3_S", *FLOATS)
CASES = [(BEST, name) for name in (*INTEGER, *FLOATS)]
CASES += [(level, name) for level in (*LEVELS[1:], EMULATED) for name in SOME]


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    compile_ahead([(pack_kernel(quants.get(name)), level) for level, name in CASES])


@functools.cache
def scrambled(type_name: str, rows: int, blocks: int) -> Source:
    """A tensor of random bytes, whose scales and minima are of any size that is finite."""
    kind = quants.get(type_name)
    data = np.random.default_rng(rows + blocks).integers(0, 256, (rows, blocks * kind.nbytes), np.uint8)
    records = data.view(kind.record)
    for field in kind.layout:
        if field.dtype in EXPONENTS:
            dtype, mask = EXPONENTS[field.dtype]
            bits = records[field.name].copy().view(dtype)
            bits[bits & mask == mask] &= ~np.array(mask, dtype)
            records[field.name] = bits.view(records[field.name].dtype)
    if type_name == "IQ1_M":  # its f16 is in the upper bits of four words: an exponent without the highest bit
        records["scales"][..., 3] &= 0xBFFF
    return Source("w", type_name, (rows, blocks * kind.weights), data)


def words_of(codes: Any, bits: int) -> Any:
    """(rows, blocks, 32) codes → (rows, blocks, bits) i32 lanes, by the one description of the layout."""
    groups = np.ascontiguousarray(codes).reshape(*codes.shape[:2], 8, 4).astype(np.int64)
    out = np.zeros((*codes.shape[:2], bits, 4), np.int64)
    for piece in pieces(bits):
        out[:, :, piece.vector] |= (groups[:, :, piece.group] >> piece.low & (1 << piece.width) - 1) << piece.shift
    return out.astype(np.uint8).view(np.int32)[..., 0]


def panels_of(of: Source, lanes: int, factor: float) -> Any:
    """The bytes of a packed integer matrix: (panels, blocks, bytes a block)."""
    kind = quants.get(of.type)
    panel = kind.panel
    assert isinstance(panel, IntPanel)
    fields, (rows, columns) = kind.fields(of.data), of.shape
    blocks, halves = columns // BLOCK, BLOCK // panel.group
    out = np.zeros((up(rows, lanes) // lanes, blocks, block_bytes(panel, lanes)), np.uint8)

    def put(values: Any, at: int) -> None:
        """(rows, blocks, n) numbers → n vectors of lanes, from a byte of each block on."""
        whole = np.zeros((up(rows, lanes), *values.shape[1:]), values.dtype)
        whole[:rows] = values
        vectors = whole.reshape(-1, lanes, *values.shape[1:]).transpose(0, 2, 3, 1)
        flat = np.ascontiguousarray(vectors).view(np.uint8).reshape(*out.shape[:2], -1)
        out[:, :, at : at + flat.shape[2]] = flat

    put(words_of(fields.codes.reshape(rows, blocks, BLOCK), panel.bits), 0)
    numbers = [fields.scale, fields.minimum] if panel.has_min else [fields.scale]
    for i, values in enumerate(numbers):
        assert values is not None
        halfs = half(values * np.float32(factor)).astype(np.float16).reshape(rows, blocks, halves)
        put(halfs, scale_offset(panel.bits, lanes) + 2 * i * halves * lanes)
    return out


@pytest.mark.parametrize(("level", "type_name"), CASES, ids=lambda x: getattr(x, "name", x))
def test_panels_are_what_numpy_makes_of_them(level: Level, type_name: str) -> None:
    kind = quants.get(type_name)
    for rows, blocks in ((level.lanes, 3), (2 * level.lanes + 5, 1), (1, 2)):
        of = scrambled(type_name, rows, blocks if kind.weights > 1 else 37 * blocks)
        matrix = pack(of, level, threads=2)
        if isinstance(kind.panel, FloatPanel):
            wanted = float_panels_of(of, level.lanes)
        else:
            factor = 1.0 / matrix.multiplier
            assert np.log2(factor) % 1 == 0
            fields = kind.fields(of.data)
            largest = max(np.abs(x).max() for x in (fields.scale, fields.minimum) if x is not None)
            assert largest * factor <= 65504
            wanted = panels_of(of, level.lanes, factor)
        np.testing.assert_array_equal(matrix.memory.bytes, wanted.reshape(-1))


def float_panels_of(of: Source, lanes: int) -> Any:
    """The bytes of a packed float matrix: for each column a number of each row."""
    kind, (rows, columns) = quants.get(of.type), of.shape
    assert isinstance(kind.panel, FloatPanel)
    same = kind.layout[0].dtype == kind.panel.dtype
    values = of.data if same else kind.decode(of.data).view(np.uint8)
    out = np.zeros((up(rows, lanes), up(columns, BLOCK), values.shape[1] // columns), np.uint8)
    out[:rows, :columns] = values.reshape(rows, columns, -1)
    return np.ascontiguousarray(out.reshape(-1, lanes, *out.shape[1:]).swapaxes(1, 2)).reshape(-1)


@pytest.mark.parametrize("type_name", COMPILED)
def test_nothing_outside_a_block_is_loaded(type_name: str) -> None:
    kind = quants.get(type_name)
    words = Words(kind)
    where = np.full((words.count, 4), -1)  # bytes of the block in each vector
    for at, vector in words.pieces:
        assert 0 <= at <= kind.nbytes - PIECE
        where[vector : vector + 4] = np.arange(at, at + PIECE).reshape(4, 4)
    start = 0
    for field in kind.layout:
        if field.nbytes < 4:
            vector, shift = words.small(field.name)
            found = where[vector].tolist()[shift // 8 : shift // 8 + field.nbytes]
        else:
            first = words.first(field.name)
            found = where[first:].reshape(-1).tolist()[: field.nbytes]
        assert found == list(range(start, start + field.nbytes))
        start += field.nbytes


NUMBERS = [
    (name, field.name)
    for name in COMPILED
    for field in quants.get(name).layout
    if field.dtype in EXPONENTS and field.name in ("d", "m", "dmin")
]


@pytest.mark.parametrize(("type_name", "field"), NUMBERS)
@pytest.mark.parametrize("row", [0, 37])
def test_what_is_not_finite_is_refused(type_name: str, field: str, row: int) -> None:
    kind = quants.get(type_name)
    for value in (np.nan, np.inf, -np.inf):
        data = scrambled(type_name, 40, 1).data.copy()
        data.view(kind.record)[field][row] = value
        with pytest.raises(GGUFError, match=r"blk\.0\.w has a scale or minimum that is not finite"):
            pack(Source("blk.0.w", type_name, (40, kind.weights), data), BEST)


def _many() -> list[Source]:
    """Matrices of all ways of packing, one without rows, and one whose last row wants another factor."""
    odd = scrambled("Q8_0", 500, 3).data.copy()
    odd.view(quants.get("Q8_0").record)["d"] = 1e-4
    odd.view(quants.get("Q8_0").record)["d"][-1] = 1000.0
    some = [scrambled(name, 500, 3) for name in ("Q4_0", "IQ3_S", "Q6_K")]
    floats, doubles = scrambled("F16", 300, 37), Source("doubles", "F64", (50, 9), _doubles(50, 9))
    none = Source("none", "Q4_0", (0, 32), np.zeros((0, 18), np.uint8))
    return [*some, none, Source("odd", "Q8_0", (500, 96), odd), floats, doubles]


def _doubles(rows: int, columns: int) -> Any:
    values = np.random.default_rng(2).standard_normal((rows, columns)).astype(np.float32).astype(np.float64)
    return values.view(np.uint8)


@pytest.mark.parametrize("batch", [1, packing.BATCH])
def test_packing_is_the_same_with_more_threads_in_chunks_and_company(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = _many()
    alone = [pack(of, BEST) for of in sources]
    monkeypatch.setattr(packing, "PACKED_BYTES", 1000)
    monkeypatch.setattr(packing, "BATCH", batch)
    monkeypatch.setattr(packing, "FIELD_BYTES", 1000)
    rooms = [Region(packed_bytes(of, BEST.lanes), of.name) for of in sources]
    done: list[int] = []
    with packing.Packer(library(BEST), 3, done.append) as packer:
        together = packer.pack_all(list(zip(sources, rooms, strict=True)))
    assert sum(done) == sum(of.nbytes for of in sources)
    for one, other in zip(alone, together, strict=True):
        assert (other.panels, other.blocks, other.multiplier) == (one.panels, one.blocks, one.multiplier)
        np.testing.assert_array_equal(other.memory.bytes, one.memory.bytes)


def test_after_a_refusal_the_packer_packs_others() -> None:
    bad = scrambled("Q8_0", 500, 3).data.copy()
    bad.view(quants.get("Q8_0").record)["d"][77] = np.inf
    good = scrambled("Q4_0", 40, 2)
    with packing.Packer(library(BEST), 2, lambda nbytes: None) as packer:
        with pytest.raises(GGUFError, match="tensor bad has a scale"):
            packer.pack(Source("bad", "Q8_0", (500, 96), bad))
        np.testing.assert_array_equal(packer.pack(good).memory.bytes, pack(good, BEST).memory.bytes)


def test_rows_that_are_not_whole_blocks_are_refused_before_any_kernel_reads_them() -> None:
    of = scrambled("Q4_0", 16, 2)
    with pytest.raises(ValueError, match="rows of Q4_0"):
        pack(Source("w", "Q4_0", (16, 64), of.data[:, :-1].copy()), BEST)
