"""Products of many tokens on bf16 tiles and bf16 dot products, against NumPy.

What runs on this machine are the emulated tiles, and dot products where the CPU has them; for tiles of the CPU it is
looked at what the same sources compile to.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
from engine import LEVELS, Room, compile_ahead, half, padded, run, some_fast, up
from test_kernels_matmul import FORMATS, Source, exact, pack, source

from ggufpy import quants
from ggufpy.backends.cpu.kernels import matmul_tiles
from ggufpy.backends.cpu.kernels.matmul_tiles import bulk_kernel, scratch_bytes
from ggufpy.backends.cpu.kernels.to_tiles import tiles_bytes
from ggufpy.backends.cpu.weights import Matrix, pack_kernel
from ggufpy.jit.compile import assembly
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.quants.base import FloatPanel, IntPanel, Panel
from ggufpy.simd import isa
from ggufpy.simd.isa import EMULATED, Level

TO_TILES = kernel("to_tiles")
FLOATS = ("F16", "BF16")
QUICK = ["Q4_0", "Q5_1", "Q2_K", *FLOATS]  # between them, all that panels differ in
WIDE = [level for level in (EMULATED, *LEVELS) if level.lanes == 16]
PACKS = WIDE[-1]  # whichever: panels depend on lanes alone
RUN = [level for level in WIDE if isa.has_tiles(level) or isa.has_bf16_dot(level)]
X86 = frozenset({"x86_64", "AMD64"})
AMX_FEATURES = "+amx-tile,+amx-bf16,+avx512bf16"
SAPPHIRE_RAPIDS = Level("amx", 16, 32, "amx", X86, cpu="sapphirerapids", features=AMX_FEATURES)
only_x86 = pytest.mark.skipif(platform.machine() not in X86, reason="code for x86 needs LLVM's x86 target")
SPAN = 3  # the first row of every span here


def bulk(panel: Panel, level: Level) -> Kernel:
    """The kernel, also where another one is better."""
    found = bulk_kernel(panel, level) or bulk_kernel(panel, EMULATED)
    assert found is not None
    return found


def panel_of(type_name: str) -> Panel:
    return IntPanel(*FORMATS[type_name]) if type_name in FORMATS else quants.get(type_name).panel


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    wanted = [(bulk(panel_of(name), level), level) for level in RUN for name in QUICK]
    packing = [(pack_kernel(quants.get(name)), PACKS) for name in QUICK]
    compile_ahead([*wanted, *packing])


def bf16(x: Any) -> Any:
    """The nearest bf16, ties to even, as float64."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def span(count: int, first: int = SPAN) -> Room:
    return Room(np.array([first, count], np.int64))


def tiles_of(x: Any) -> Any:
    """(rows, 32 · blocks) float32 → bits of bf16 as tiles: (groups of 16 rows, blocks, 16, 32)."""
    rows, columns = x.shape
    whole = np.zeros((up(rows, 32), columns))
    whole[:rows] = bf16(x)
    bits = (whole.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits.reshape(-1, 16, columns // 32, 32).swapaxes(1, 2).copy()


class Product:
    """A packed matrix and all it takes to multiply many rows by it."""

    def __init__(self, of: Source, level: Level) -> None:
        self.level, self.matrix = level, pack(of, PACKS)
        self.kernel = bulk(self.matrix.panel, level)
        m = self.matrix
        self.weights, self.doubt = rounded(of, m)
        self._memory = Room(m.memory.bytes)

    def __call__(self, x: Any, nth: int = 1, bias: Any = None, y: Any = None) -> Any:
        """y of x (tokens, columns) as (tokens, rows); a `y` given is added to."""
        m, count = self.matrix, len(x)
        rows = m.panels * 16
        before = np.full((SPAN + count + 40, rows + 8), np.nan, np.float32)
        if y is not None:
            before[SPAN : SPAN + count, :rows] = padded(y, rows)
        out, size = Room(before), up(scratch_bytes(self.kernel), 64)
        fields = {
            "span_ptr": span(count), "weights_ptr": self._memory, "tiles_ptr": Room(tiles_of(padded(x, 32 * m.blocks))),
            "y_ptr": out, "bias_ptr": 0 if bias is None else Room(padded(bias, rows)), "n_panels": m.panels,
            "n_blocks": m.blocks, "y_stride": out.array.strides[0], "adds": int(y is not None),
            "multiplier": m.multiplier, "scratch_ptr": Room(np.full(nth * size, 0xFF, np.uint8)), "scratch_bytes": size,
        }  # fmt: skip
        run(self.kernel, self.level, nth, **fields)
        inside = np.zeros(before.shape, bool)
        inside[SPAN : SPAN + count, :rows] = True
        np.testing.assert_array_equal(out.array[~inside].view(np.int32), before[~inside].view(np.int32))
        found = out.array[SPAN : SPAN + count, :rows]
        if y is None and bias is None:
            assert not found[:, m.rows :].any(), "rows of padding"
        return found[:, : m.rows].copy()

    def wanted(self, x: Any) -> tuple[Any, Any]:
        """(exact products of what is rounded to bf16, the error that is allowed)."""
        values = bf16(x)
        bound = 3e-6 * np.abs(values) @ np.abs(self.weights).T + np.abs(values) @ self.doubt.T
        return values @ self.weights.T, bound + 1e-30


def rounded(of: Source, matrix: Matrix) -> tuple[Any, Any]:
    """(weights as bf16, by how much one may differ because it came so close to a tie)."""
    panel, weights = matrix.panel, exact(of, matrix).weights
    near = 0.0
    if isinstance(panel, IntPanel) and panel.has_min:  # scale · 256 - minimum was rounded to float32
        scale = np.abs(half(quants.get(of.type).fields(of.data).scale / matrix.multiplier)) * matrix.multiplier
        near = 2.0**-23 * (np.repeat(256 * scale, panel.group, axis=1) + np.abs(weights))
    return bf16(weights), bf16(weights + near) - bf16(weights - near)


def activations(tokens: int, columns: int) -> Any:
    x = np.random.default_rng(tokens).standard_normal((tokens, columns)).astype(np.float32)
    x[0, 3] = 40.0
    x[-1, :16] = 0.0
    return x


def check(type_name: str, level: Level, rows: int, columns: int, counts: tuple[int, ...]) -> None:
    product = Product(source(type_name, rows, columns), level)
    for count in counts:
        x = activations(count, columns)
        found, (wanted, bound) = product(x), product.wanted(x)
        assert (np.abs(found - wanted) <= bound).all(), (rows, columns, count)
        for nth in (2, 3):
            np.testing.assert_array_equal(product(x, nth), found)


def with_names(levels: list[Level]) -> Any:
    return pytest.mark.parametrize("level", levels, ids=lambda level: level.name)


@with_names(RUN)
@pytest.mark.parametrize("type_name", some_fast([*FORMATS, *FLOATS], QUICK))
def test_products_of_every_panel(type_name: str, level: Level) -> None:
    block = max(quants.get(type_name).weights, 32)
    check(type_name, level, 70, 3 * block, (5, 33))


@with_names(RUN)
@pytest.mark.parametrize("type_name", ["Q4_0", "Q5_1", "F16"])
def test_products_of_odd_shapes(type_name: str, level: Level) -> None:
    for rows, columns in ((1, 32), (16, 96), (37, 1056), (81, 96)):
        check(type_name, level, rows, columns, (1, 5, 16, 17, 33, 70))


@with_names(RUN)
def test_columns_that_do_not_fill_a_block(level: Level) -> None:
    check("F16", level, 20, 33, (1, 33))


@with_names(RUN)
@pytest.mark.parametrize("columns", [96, 1056])
def test_bias_and_what_was_there_are_added(columns: int, level: Level) -> None:
    rng = np.random.default_rng(0)
    product = Product(source("Q4_0", 40, columns), level)
    bias = rng.standard_normal(40).astype(np.float32)
    for count in (32, 33, 70):
        x, y = activations(count, columns), rng.standard_normal((count, 40)).astype(np.float32)
        wanted, bound = product.wanted(x)
        for given in ({"bias": bias}, {"y": y}, {"bias": bias, "y": y}):
            total = wanted + sum(np.asarray(part, np.float64) for part in given.values())
            slack = bound + 1e-6 * sum(np.abs(part) for part in given.values())
            found = product(x, **given)
            assert (np.abs(found - total) <= slack).all(), (count, list(given))
            np.testing.assert_array_equal(product(x, 3, **given), found)


@with_names(RUN)
def test_a_row_does_not_depend_on_those_beside_it(level: Level) -> None:
    product = Product(source("Q4_0", 40, 1056), level)
    x, bias = activations(70, 1056), np.linspace(-1, 1, 40).astype(np.float32)
    whole = product(x, bias=bias)
    for first, last in ((0, 5), (33, 70), (16, 17)):
        np.testing.assert_array_equal(product(x[first:last], bias=bias), whole[first:last])


@with_names(RUN)
@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0"])
def test_whole_numbers_are_exact(kind: str, level: Level) -> None:
    """Codes at the ends of their ranges, a scale of one, activations of 8 bits: no sum is ever rounded."""
    rng = np.random.default_rng(3)
    blocks = np.zeros((48, 3), quants.get(kind).record)
    blocks["d"] = 1.0
    for name in {"qs", "qh"} & set(blocks.dtype.names or ()):
        width = blocks[name].dtype.itemsize * int(np.prod(blocks[name].shape[2:]))
        field = rng.integers(0, 256, (48, 3, width)).astype(np.uint8)
        field[0], field[1] = 0xFF, 0
        blocks[name] = field.view(blocks[name].dtype).reshape(blocks[name].shape)
    data = blocks.view(np.uint8).reshape(48, -1)
    x = rng.integers(-127, 128, (37, 96)).astype(np.float32)
    wanted = x.astype(np.float64) @ quants.dequantize(data, kind).T.astype(np.float64)
    np.testing.assert_array_equal(Product(Source("w", kind, (48, 96), data), level)(x), wanted)


@with_names(RUN)
def test_no_rows_are_no_work(level: Level) -> None:
    product = Product(source("F16", 20, 32), level)
    assert product(np.zeros((0, 32), np.float32)).shape == (0, 20)


# -- tiles of activations ------------------------------------------------------------------------------------


@with_names(WIDE)
@pytest.mark.parametrize("count", [0, 1, 16, 17, 33, 70])
def test_rows_become_tiles(count: int, level: Level) -> None:
    rng = np.random.default_rng(count)
    x = rng.standard_normal((SPAN + count + 2, 96 + 16)).astype(np.float32)
    x[SPAN] *= 1e30
    ties = (rng.integers(0x3F00, 0x4100, x.shape[0] * 16) << 16 | 0x8000).astype(np.uint32)
    x[:, :16] = ties.view(np.float32).reshape(-1, 16)
    wanted = tiles_of(x[SPAN : SPAN + count, :96])
    assert wanted.nbytes == tiles_bytes(count, 3)
    for nth in (1, 2, 3):
        tiles = Room(np.full(wanted.shape, 0xAAAA, np.uint16))
        given = {"span_ptr": span(count), "x_ptr": Room(x), "x_stride": x.strides[0], "tiles_ptr": tiles, "n_blocks": 3}
        run(TO_TILES, level, nth, **given)
        np.testing.assert_array_equal(tiles.array, wanted)


# -- what there is for which level ---------------------------------------------------------------------------


def test_which_panels_have_a_kernel_for_many_tokens() -> None:
    panels = [panel_of(name) for name in (*FORMATS, *FLOATS)]
    dots = Level("avx512", 16, 32, "avx512", frozenset(), features="+avx512bf16")
    assert all(bulk_kernel(panel, SAPPHIRE_RAPIDS) for panel in panels)
    assert [p for p in panels if bulk_kernel(p, dots)] == [FloatPanel("f16"), FloatPanel("bf16")]
    for name in ("avx2", "neon", "portable"):
        level = next(level for level in isa.LEVELS if level.name == name)
        assert not any(bulk_kernel(panel, level) for panel in panels)
    without = Level("avx512", 16, 32, "avx512", frozenset(), features="+avx512f")
    assert not any(bulk_kernel(panel, without) for panel in panels)


def test_scratch_memory_holds_the_panels_of_a_chunk() -> None:
    of = bulk(FloatPanel("f16"), EMULATED)
    chunk = int(of.parameters["chunk"])
    assert scratch_bytes(of) == 2 * chunk * 16 * 2 + 32 * 32 * 4
    assert scratch_bytes(of) % 64 == 0
    assert matmul_tiles.PANELS == 2


@only_x86
@pytest.mark.parametrize("type_name", ["Q4_0", "BF16"])
def test_products_compile_to_tile_instructions(type_name: str) -> None:
    text = assembly(bulk(panel_of(type_name), SAPPHIRE_RAPIDS), SAPPHIRE_RAPIDS)
    for instruction in ("ldtilecfg", "tilezero", "tileloadd", "tilestored", "tilerelease", "vpermw"):
        assert instruction in text, instruction
    assert text.count("tdpbf16ps") == 6  # two panels by two groups of tokens, and one by two


@only_x86
def test_the_measure_of_tiles_compiles() -> None:
    assert assembly(kernel("measure", what="tiles"), SAPPHIRE_RAPIDS).count("tdpbf16ps") >= 12
