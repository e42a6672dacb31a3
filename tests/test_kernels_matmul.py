"""Packing and matrix products of every panel format against float64 on the same 8-bit activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS, Room, compile_ahead, half, padded, quantised, run, some_fast, step, synthetic, up

from ggufpy import quants
from ggufpy.backends.cpu.kernels.layout import block_bytes, quantised_row_bytes
from ggufpy.backends.cpu.packing import Packer
from ggufpy.backends.cpu.weights import Matrix, matmul_kernel, packed_bytes
from ggufpy.errors import GGUFError
from ggufpy.jit.cache import library
from ggufpy.quants.base import FloatPanel, IntPanel
from ggufpy.simd.isa import Level

# A type of each integer panel format that block types use, (bits, group, offset, has_min) beside it.
FORMATS = {
    "Q4_0": (4, 32, 8, False),
    "Q4_1": (4, 32, 0, True),
    "Q5_0": (5, 32, 16, False),
    "Q5_1": (5, 32, 0, True),
    "NVFP4": (6, 16, 32, False),
    "Q3_K": (4, 16, 8, False),
    "Q2_K": (2, 16, 0, True),
    "TQ2_0": (2, 32, 1, False),
    "Q8_0": (8, 32, 128, False),
    "IQ2_S": (8, 16, 128, False),
}
PROMPT = 4
# Formats and tokens a reading at the levels below the best; all of them at the best.
SOME = {
    "avx512": [("Q4_0", PROMPT), ("Q8_0", 1)],
    "avx2": [("Q4_0", PROMPT), ("Q5_1", 1), ("Q8_0", PROMPT)],
    "portable": [("Q4_0", PROMPT), ("Q2_K", 1), ("Q8_0", 1)],
    "neon": [("Q4_0", PROMPT), ("Q8_0", 1)],
}


PRODUCTS = [(name, tokens) for name in FORMATS for tokens in (1, PROMPT)]
FLOATS = [
    *((BEST, name) for name in ("F16", "BF16", "F32")),
    *((level, name) for level in LEVELS[1:] for name in ("F16", "F32")),
]


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Most of this module's time without a cache is compiling: it is done by two processes."""
    wanted = [(name, PROMPT, BEST) for name in FORMATS]
    wanted += [(name, tokens, level) for level in LEVELS[1:] for name, tokens in SOME[level.name]]
    wanted += [(name, tokens, level) for level, name in FLOATS for tokens in (1, PROMPT)]
    compile_ahead([(matmul_kernel(quants.get(name).panel, tokens), level) for name, tokens, level in wanted])


@dataclass
class Source:
    """A tensor as the packer sees one."""

    name: str
    type: str
    shape: tuple[int, ...]
    data: Any

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes)

    def little(self) -> Any:
        return self.data

    def release(self) -> None:
        pass


def source(type_name: str, rows: int, columns: int, seed: int = 0) -> Source:
    """A random matrix of a type, with standard deviation about 1/sqrt(columns)."""
    made = synthetic().make_rows(quants.get(type_name), columns, np.random.default_rng(seed))
    return Source("w", type_name, (rows, columns), np.resize(made, (rows, made.shape[1])))


def pack(of: Source, level: Level, threads: int = 1) -> Matrix:
    with Packer(library(level), threads, lambda nbytes: None) as packer:
        return packer.pack(of)


@dataclass(frozen=True)
class Exact:
    """A packed matrix as its kernel should read it: weights, and the size of what is added up for each."""

    weights: Any
    size: Any


def exact(of: Source, matrix: Matrix) -> Exact:
    """scale · (code - offset) + minimum with scale and minimum rounded to f16 as packing does."""
    panel = matrix.panel
    if isinstance(panel, FloatPanel):
        w = np.asarray(quants.dequantize(of.data, of.type), np.float64).reshape(of.shape)
        return Exact(w, np.abs(w))
    fields = quants.get(of.type).fields(of.data)
    factor = np.float32(1.0 / matrix.multiplier)

    def halves(x: Any) -> Any:
        return np.repeat(half(x * factor) * matrix.multiplier, panel.group, axis=1)

    product = halves(fields.scale) * (fields.codes.astype(np.float64) - panel.offset)
    minimum = halves(fields.minimum) if panel.has_min else 0.0
    return Exact(product + minimum, np.abs(product) + np.abs(minimum))


@dataclass
class Case:
    """One matrix, with all it takes to multiply by it at a level."""

    level: Level
    matrix: Matrix
    exact: Exact
    tokens: int

    def run(self, x: Any, nth: int = 1, bias: Any = None, y: Any = None) -> Any:
        """y (tokens, padded rows) of x (tokens, columns); `y` given is added to."""
        m, lanes = self.matrix, self.level.lanes
        rows, stride = up(m.rows, lanes), up(m.rows, 32)
        surplus = up(len(x), self.tokens) - len(x)  # computed with the last group of tokens, and read by nobody
        out = Room(np.full((len(x) + surplus, stride), np.nan, np.float32))
        if y is not None:
            out.array[: len(x)] = padded(y, stride)
        given = padded(x, m.blocks * 32)
        if isinstance(m.panel, IntPanel):
            given = quantised(given)[0]
            assert given.shape[1] == quantised_row_bytes(m.blocks * 32)
        acts = Room(np.concatenate([given, np.full_like(given[:1].repeat(surplus, 0), 77)]))
        fields: dict[str, Any] = {
            "step_ptr": step(len(x)), "weights_ptr": m.memory.at(0, m.memory.nbytes), "x_ptr": acts, "y_ptr": out,
            "bias_ptr": 0 if bias is None else Room(padded(bias, rows)), "n_panels": m.panels, "n_blocks": m.blocks,
            "x_stride": acts.array.strides[0], "y_stride": 4 * stride, "adds": int(y is not None),
            "multiplier": m.multiplier,
        }  # fmt: skip
        run(matmul_kernel(m.panel, self.tokens), self.level, nth, **fields)
        if y is None:
            assert np.isnan(out.array[:, rows:]).all(), "written past the last panel"
            assert not out.array[: len(x), m.rows : rows].any(), "rows of padding"
        return out.array[: len(x), : m.rows].copy()

    def wanted(self, x: Any) -> tuple[Any, Any]:
        """(exact products, the error that adding up in float32 may bring)."""
        values = np.asarray(x, np.float64)
        if not isinstance(self.matrix.panel, FloatPanel):
            values = quantised(x)[1]
        bound = np.abs(values) @ self.exact.size.T
        return values @ self.exact.weights.T, 3e-6 * bound + 1e-30


def case(type_name: str, rows: int, columns: int, level: Level, tokens: int) -> Case:
    of = source(type_name, rows, columns)
    matrix = pack(of, level)
    assert (matrix.rows, matrix.columns) == (rows, columns)
    assert matrix.memory.nbytes == packed_bytes(of, level.lanes)
    return Case(level, matrix, exact(of, matrix), tokens)


def activations(tokens: int, columns: int, seed: int = 1) -> Any:
    """Rows of activations with an outlier, a group of zeros and one that is tiny."""
    x = np.random.default_rng(seed).standard_normal((tokens, columns)).astype(np.float32)
    x[0, 3] = 40.0
    x[-1, :16] = 0.0
    x[0, 16:32] *= np.float32(1e-20)
    return x


def check_products(type_name: str, level: Level, tokens: int) -> None:
    block = quants.get(type_name).weights
    shapes = [(1, 1), (7, 3), (33, 1), (100, max(576 // block, 1))]
    for rows, blocks in shapes:
        columns = max(block, 32) * blocks
        c = case(type_name, rows, columns, level, tokens)
        for count in (1, 3, 4, 5, 20, 9):
            x = activations(count, columns)
            wanted, bound = c.wanted(x)
            found = c.run(x)
            assert (np.abs(found - wanted) <= bound).all(), (rows, columns, count)
        bias = np.linspace(-1, 1, rows).astype(np.float32)
        start = np.random.default_rng(2).standard_normal((9, rows)).astype(np.float32)
        np.testing.assert_array_equal(c.run(x, bias=bias), found + bias)
        np.testing.assert_array_equal(c.run(x, y=start), found + start)
        np.testing.assert_array_equal(c.run(x, bias=bias, y=start), (found + bias) + start)
        for nth in (2, 3, 5):
            np.testing.assert_array_equal(c.run(x, nth), found)
        np.testing.assert_array_equal(c.run(x[:3]), found[:3])  # whatever else is in the step


ONE = ("Q4_0", "Q8_0", "NVFP4", "Q2_K")  # read for one token in the short run: sums, minima and groups of both sizes


@pytest.mark.parametrize(("type_name", "tokens"), some_fast(PRODUCTS, [p for p in PRODUCTS if p[1] > 1 or p[0] in ONE]))
def test_int_products_at_the_best_level(type_name: str, tokens: int) -> None:
    panel = quants.get(type_name).panel
    assert panel == IntPanel(*FORMATS[type_name])
    check_products(type_name, BEST, tokens)


@pytest.mark.parametrize(
    ("level", "type_name", "tokens"),
    [pytest.param(at, *which, id=f"{at.name}-{which[0]}-{which[1]}") for at in LEVELS[1:] for which in SOME[at.name]],
)
def test_int_products_at_the_other_levels(level: Level, type_name: str, tokens: int) -> None:
    check_products(type_name, level, tokens)


def test_every_integer_panel_of_a_block_type_is_tested() -> None:
    panels = {quants.get(name).panel for name in quants.names()}
    tested = {IntPanel(*panel) for panel in FORMATS.values()}
    used = {panel for panel in panels if isinstance(panel, IntPanel)}
    assert used - tested <= {IntPanel(8, 32, 128), IntPanel(6, 16, 32)}


@pytest.mark.parametrize("type_name", some_fast(list(FORMATS), ONE))
def test_bits_do_not_depend_on_how_many_tokens_share_a_reading(type_name: str) -> None:
    columns = 2 * max(quants.get(type_name).weights, 32)
    of = source(type_name, 50, columns)
    matrix = pack(of, BEST)
    x = activations(6, columns)
    one, many = (Case(BEST, matrix, exact(of, matrix), tokens).run(x) for tokens in (1, PROMPT))
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("tokens", [1, PROMPT])
@pytest.mark.parametrize(("level", "type_name"), FLOATS, ids=lambda part: getattr(part, "name", part))
def test_float_products(level: Level, type_name: str, tokens: int) -> None:
    for rows, columns in [(1, 1), (7, 20), (33, 33), (100, 100), (20, 576)]:
        c = case(type_name, rows, columns, level, tokens)
        for count in (1, 3, 4, 5, 20, 9):
            x = activations(count, 64)[:, :columns] if columns < 64 else activations(count, columns)
            wanted, bound = c.wanted(x)
            found = c.run(x)
            assert (np.abs(found - wanted) <= bound).all(), (rows, columns, count)
        bias = np.linspace(-1, 1, rows).astype(np.float32)
        start = np.random.default_rng(2).standard_normal((9, rows)).astype(np.float32)
        np.testing.assert_array_equal(c.run(x, bias=bias), found + bias)
        np.testing.assert_array_equal(c.run(x, bias=bias, y=start), (found + bias) + start)
        for nth in (2, 3, 5):
            np.testing.assert_array_equal(c.run(x, nth), found)


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0"])
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_extreme_codes_and_activations_are_exact(level: Level, kind: str) -> None:
    """All weights and activations at the ends of their ranges: the largest sums that a block can reach."""
    rng = np.random.default_rng(3)
    blocks = np.zeros((48, 2), quants.get(kind).record)
    blocks["d"] = 1.0
    ends = np.array([0x80, 0x81, 0x7F] if kind == "Q8_0" else [0, 0xFF], np.uint8)
    for name in {"qs", "qh"} & set(blocks.dtype.names or ()):
        width = blocks[name].dtype.itemsize * int(np.prod(blocks[name].shape[2:]))
        field = np.empty((48, 2, width), np.uint8)
        field[...] = rng.choice(ends, field.shape)
        field[0], field[1] = ends[-1], ends[0]
        blocks[name] = field.view(blocks[name].dtype).reshape(blocks[name].shape)
    data = blocks.view(np.uint8).reshape(48, -1)
    of = Source("w", kind, (48, 64), data)
    matrix = pack(of, level)
    x = rng.choice(np.array([-127, 127], np.float32), (5, 64))
    x[0], x[1] = 127, -127
    wanted = x.astype(np.float64) @ quants.dequantize(data, kind).T
    for tokens in (1, PROMPT):
        if level == BEST or (kind, tokens) in SOME[level.name] or kind != "Q8_0":
            np.testing.assert_array_equal(Case(level, matrix, exact(of, matrix), tokens).run(x), wanted)


# -- packing -----------------------------------------------------------------------------------------------


# (vector, bit in its bytes, bit of the code, bits) of each piece of a column group's codes, by bits of a code.
STANDS: dict[int, Any] = {
    2: lambda g: [(g % 2, g // 2 * 2, 0, 2)],
    4: lambda g: [(g % 4, g // 4 * 4, 0, 4)],
    5: lambda g: [(g, 0, 0, 5)] if g < 4 else [(g - 4, 5, 2, 3), (4, 2 * (g - 4), 0, 2)],
    6: lambda g: [(g, 0, 0, 6)] if g < 4 else [(g - 4, 6, 4, 2), (2 + g // 2, g % 2 * 4, 0, 4)],
    8: lambda g: [(g, 0, 0, 8)],
}


def unpacked(matrix: Matrix, lanes: int) -> tuple[Any, Any, Any]:
    """(codes, scales, minima) of an integer matrix, read back from memory as kernels/layout.py describes it."""
    panel = matrix.panel
    assert isinstance(panel, IntPanel)
    size = block_bytes(panel, lanes)
    blocks = matrix.memory.bytes.reshape(matrix.panels, matrix.blocks, size)
    codes = np.zeros((matrix.panels, lanes, matrix.blocks, 8, 4), np.uint8)
    start = panel.bits * lanes * 4
    vectors = blocks[..., :start].reshape(matrix.panels, matrix.blocks, panel.bits, lanes, 4)
    for group in range(8):
        for vector, shift, low, width in STANDS[panel.bits](group):
            part = (vectors[:, :, vector] >> shift) & ((1 << width) - 1)
            codes[:, :, :, group] |= (part << low).swapaxes(1, 2)
    groups = 32 // panel.group
    tail = np.ascontiguousarray(blocks[..., start:]).view(np.float16)
    tail = tail.reshape(matrix.panels, matrix.blocks, -1, groups, lanes)
    parts = np.moveaxis(tail, 4, 1).astype(np.float64)  # (panels, lanes, blocks, kinds, groups)
    rows = slice(0, matrix.rows)
    flat = [parts[:, :, :, i].reshape(matrix.panels * lanes, -1) for i in range(parts.shape[3])]
    return codes.reshape(matrix.panels * lanes, -1)[rows], flat[0][rows], flat[-1][rows]


@pytest.mark.parametrize(
    ("level", "type_name"),
    [*((BEST, name) for name in FORMATS), *((level, name) for level in LEVELS[1:] for name in ("Q5_1", "Q2_K"))],
    ids=lambda part: getattr(part, "name", part),
)
def test_packed_memory_is_laid_out_as_written_down(level: Level, type_name: str) -> None:
    for rows in (1, 21):
        of = source(type_name, rows, 2 * max(quants.get(type_name).weights, 32))
        matrix = pack(of, level)
        fields = quants.get(type_name).fields(of.data)
        codes, scale, minimum = unpacked(matrix, level.lanes)
        np.testing.assert_array_equal(codes, fields.codes)
        factor = np.float32(1 / matrix.multiplier)
        np.testing.assert_array_equal(scale, half(fields.scale * factor))
        if fields.minimum is not None:
            np.testing.assert_array_equal(minimum, half(fields.minimum * factor))


def _q8(scales: Any) -> Source:
    """A Q8_0 matrix of 32 columns whose row r has scale scales[r]."""
    rows = np.zeros((len(scales), 1), quants.get("Q8_0").record)
    rows["d"] = np.asarray(scales)[:, None]
    rows["qs"] = np.arange(-16, 16)
    return Source("blk.0.w", "Q8_0", (len(scales), 32), rows.view(np.uint8).reshape(len(scales), -1))


def test_scales_of_any_size_keep_their_precision() -> None:
    for scales in ([6e-8] * 40, [60000.0] * 40, [0.0] * 40, [1e-4] * 20 + [1000.0] * 20, [6e-8] * 20 + [6e4] * 20):
        of = _q8(scales)
        matrix = pack(of, BEST)
        assert matrix.multiplier > 0
        assert np.log2(matrix.multiplier) % 1 == 0
        w, true = exact(of, matrix).weights, quants.dequantize(of.data, "Q8_0")
        np.testing.assert_allclose(w, true, rtol=2**-11, atol=16 * max(scales) * 2.0**-39)


def test_progress_counts_every_byte_once_even_if_scales_force_a_second_pass() -> None:
    of = _q8([1e-4] * 20 + [1000.0] * 20)
    done: list[int] = []
    with Packer(library(BEST), 1, done.append) as packer:
        packer.pack(of)
    assert sum(done) == of.data.nbytes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 37])
def test_a_scale_that_is_not_finite_is_refused(row: int, value: float) -> None:
    scales = [0.5] * 40
    scales[row] = value
    with pytest.raises(GGUFError, match=r"blk\.0\.w has a scale or minimum that is not finite"):
        pack(_q8(scales), BEST)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 37])
def test_a_minimum_that_is_not_finite_is_refused(row: int, value: float) -> None:
    rows = np.zeros((40, 1), quants.get("Q4_1").record)
    rows["d"], rows["m"] = 0.5, 0.25
    rows["m"][row] = value
    of = Source("w", "Q4_1", (40, 32), rows.view(np.uint8).reshape(40, -1))
    with pytest.raises(GGUFError, match="w has a scale or minimum that is not finite"):
        pack(of, BEST)
