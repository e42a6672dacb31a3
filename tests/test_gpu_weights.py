"""Matrices in a device's memory: every type's bytes, decoded again as backends/gpu/formats.py says that they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.backends.gpu.formats import Format, format_of, matrix_bytes
from ggufpy.backends.gpu.weights import MATRIX_ARGS, PIECE, matrix_of, packed, vector, vector_bytes
from ggufpy.errors import GGUFError
from ggufpy.quants.base import DTYPES, IntPanel

NAMES = quants.names()


class Tensor:
    """Random blocks of a type, or given ones, as a file's tensor."""

    def __init__(self, name: str, shape: tuple[int, ...], seed: int = 0, blocks: NDArray[np.uint8] | None = None):
        self.name, self.type, self.shape = "blk.0.some", name, shape
        self.blocks = random_blocks(name, shape, seed) if blocks is None else blocks
        self.nbytes, self.released = self.blocks.nbytes, False

    def little(self) -> NDArray[np.uint8]:
        return self.blocks

    def release(self) -> None:
        self.released = True

    def to_numpy(self) -> NDArray[Any]:
        return quants.dequantize(self.blocks, self.type)


def random_blocks(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Any codes; floats of a block (its scales) are small and finite."""
    kind, random = quants.get(name), np.random.default_rng(seed)
    *rows, columns = shape
    if kind.whole:
        whole = random.integers(-100, 101, shape).astype(DTYPES[kind.layout[0].dtype])
        return whole.view(np.uint8)
    if kind.weights == 1:
        return quants.quantize(random.standard_normal(shape).astype(np.float32) * 3, name)
    blocks = random.integers(0, 256, (*rows, columns // kind.weights * kind.nbytes), dtype=np.uint8)
    records = kind.records(blocks)
    for field in kind.layout:
        if field.dtype in ("f16", "f32"):
            values = random.uniform(0.001, 0.02, records[field.name].shape) * random.choice([-1, 1])
            records[field.name] = values.astype(records[field.name].dtype)
    if name == "IQ1_M":  # its f16 scale is spread over the upper nibbles of these words
        records["scales"][..., 3] = records["scales"][..., 3] & 0x0FFF | 0x2000
    if name == "MXFP4":
        records["e"] = random.integers(118, 128, records["e"].shape)
    if name == "NVFP4":
        records["d"] = random.integers(0, 0x7F, records["d"].shape)
    return blocks


def decoded(form: Format, data: NDArray[np.uint8], multiplier: float, rows: int, columns: int) -> NDArray[np.float64]:
    """The weights that are in a matrix's bytes."""
    places, _ = form.places(rows, columns)
    sizes = form.sections(rows, columns)
    part = {name: data[at : at + sizes[name]] for name, at in places.items()}
    if form.dtype:
        width = -(-columns // 32) * 32
        if form.dtype == "bf16":
            numbers = (part["low"].view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            numbers = part["low"].view("<f2" if form.dtype == "f16" else "<f4")
        assert not numbers.reshape(rows, width)[:, columns:].any()
        return numbers.reshape(rows, width)[:, :columns].astype(np.float64)
    blocks = rows * columns // 32
    codes = _codes(form, part, blocks)
    if form.book:
        codes = np.array([*form.book, *[0] * (16 - len(form.book))])[codes]
    elif form.bits == 8:
        codes = codes.astype(np.uint8).view(np.int8).astype(np.int64)
    else:
        codes = codes - form.offset
    scale, minimum = _scales(form, part, blocks)
    groups = codes.reshape(blocks, -1, form.group)
    return multiplier * (groups * scale[..., None] + minimum[..., None]).reshape(rows, columns)


def _codes(form: Format, part: dict[str, NDArray[np.uint8]], blocks: int) -> NDArray[np.int64]:
    """Column by column, straight from the text of formats.py."""
    low = part["low"].reshape(blocks, -1).astype(np.int64)
    high = part["high"].reshape(blocks, -1).astype(np.int64) if "high" in part else None
    out = np.empty((blocks, 32), np.int64)
    for k in range(32):
        pair_at, pair_shift = 4 * (k // 16) + k % 4, 2 * (k % 16 // 4)
        if form.bits == 8:
            assert high is not None
            out[:, k] = low[:, k] if k < 16 else high[:, k - 16]
        elif form.bits <= 3:
            out[:, k] = low[:, pair_at] >> pair_shift & 3
        elif form.book:
            out[:, k] = low[:, k // 2] >> 4 * (k % 2) & 15
        else:
            out[:, k] = low[:, k % 16] >> 4 * (k // 16) & 15
        if form.bits in (3, 5):
            assert high is not None
            out[:, k] += (high[:, k % 4] >> (k // 4) & 1) << (2 if form.bits == 3 else 4)
        elif form.bits == 6:
            assert high is not None
            out[:, k] += (high[:, pair_at] >> pair_shift & 3) << 4
    return out


def _scales(form: Format, part: dict[str, NDArray[np.uint8]], blocks: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """(blocks, groups) of scales and of minima."""
    groups = 32 // form.group
    if form.scales == "half":
        values = part["scales"].view("<f2").astype(np.float64).reshape(blocks // form.share, -1)
        values = np.repeat(values, form.share, axis=0)
        return values[:, :groups], values[:, groups:] if form.minimum else np.zeros((blocks, groups))
    if form.scales == "sixes":
        words = part["scales"].reshape(-1, 16)
        d, dmin = words[:, :4].copy().view("<f2").astype(np.float64).T
        a, b, c = (words[:, at : at + 4].copy().view("<u4").astype(np.int64) >> 4 * np.arange(8) for at in (4, 8, 12))
        scale = d[:, None] * ((a & 15) + 16 * (c & 3))
        return scale.reshape(-1, 1), (-dmin[:, None] * ((b & 15) + 4 * (c & 12))).reshape(-1, 1)
    tops = part["tops"].view("<f2").astype(np.float64).reshape(blocks // 8, -1)
    if form.scales == "bytes":
        scale = tops[:, :1] * part["scales"].view(np.int8).reshape(-1, 16)
        return scale.reshape(blocks, 2), np.zeros((blocks, 2))
    pairs = part["scales"].reshape(-1, 16)
    scale, minimum = tops[:, :1] * (pairs & 15), -tops[:, 1:] * (pairs >> 4)
    return scale.reshape(blocks, 2), minimum.reshape(blocks, 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(5, 256), (1, 768), (3, 4, 512)])
def test_what_lies_there_is_what_the_file_has(name: str, shape: tuple[int, ...]) -> None:
    tensor = Tensor(name, shape)
    data, multiplier = packed(tensor)
    kind = quants.get(name)
    assert data.nbytes == matrix_bytes(kind, shape)
    assert tensor.released
    found = decoded(format_of(kind), data, multiplier, int(np.prod(shape[:-1])), shape[-1])
    wanted = tensor.to_numpy().reshape(found.shape).astype(np.float64)
    # Products of scales are rounded to f16, other scales are those of the file.
    form = format_of(kind)
    rounding = 0.0 if form.dtype else 2.0**-11
    np.testing.assert_allclose(found, wanted, rtol=rounding + 2e-7, atol=np.abs(wanted).max() * (2e-7 + rounding / 500))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "I8"])
def test_rows_of_numbers_are_filled_up(name: str) -> None:
    tensor = Tensor(name, (7, 45))
    data, multiplier = packed(tensor)
    assert multiplier == 1.0
    found = decoded(format_of(quants.get(name)), data, 1.0, 7, 45)
    assert np.array_equal(found, tensor.to_numpy())


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "IQ4_XS", "F16"])
def test_pieces_are_one_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = Tensor(name, (33, 512))
    whole, multiplier = packed(tensor)
    assert PIECE > 33 * 512
    monkeypatch.setattr("ggufpy.backends.gpu.weights.PIECE", 512 * 4)
    pieces, same = packed(tensor)
    assert np.array_equal(whole, pieces)
    assert same == multiplier


def test_scales_beyond_half_are_kept_by_the_multiplier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggufpy.backends.gpu.weights.PIECE", 256)
    tensor = Tensor("MXFP4", (6, 256))
    records = quants.get("MXFP4").records(tensor.blocks)
    records["e"][0] = 127 - 20  # the first row says nothing of what the last has
    records["e"][1:] = 127 + 24
    data, multiplier = packed(tensor)
    found = decoded(format_of(quants.get("MXFP4")), data, multiplier, 6, 256)
    assert multiplier != 1.0
    assert np.array_equal(found[1:], tensor.to_numpy()[1:])
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q6_K", "Q4_K", "Q2_K", "IQ4_XS"])
def test_scales_that_are_not_finite_are_refused(name: str) -> None:
    tensor = Tensor(name, (4, 512))
    quants.get(name).records(tensor.blocks)["d"][2, 0] = np.inf
    with pytest.raises(GGUFError, match=r"tensor blk\.0\.some has a scale or minimum that is not finite"):
        packed(tensor)


def test_every_type_has_the_size_of_its_file_or_a_known_one() -> None:
    larger = {}
    for kind in map(quants.get, NAMES):
        if isinstance(kind.panel, IntPanel):
            bits, own = matrix_bytes(kind, (128, 256)) / 128 / 32, kind.nbytes * 8 / kind.weights
            if bits > own:
                larger[kind.name] = bits
    assert larger == {
        "Q3_K": 3.5625, "IQ4_XS": 4.5, "MXFP4": 4.5, "NVFP4": 5.0, "Q1_0": 2.125, "TQ1_0": 2.0625, "IQ1_S": 4.5,
        "IQ1_M": 5.0, "IQ2_XXS": 4.5, "IQ2_XS": 5.0, "IQ2_S": 5.0, "IQ3_XXS": 5.0, "IQ3_S": 4.5,
    }  # fmt: skip


def test_arguments_are_addresses_of_what_lies_there() -> None:
    tensor = Tensor("Q6_K", (2, 3, 256))
    matrix = matrix_of(tensor, 1 << 20, 1.0)
    assert (matrix.rows, matrix.columns, matrix.experts, matrix.blocks) == (3, 256, 2, 8)
    assert set(matrix.arguments) == {name for name, _ in MATRIX_ARGS}
    at = [matrix.arguments[name] - (1 << 20) for name in ("low", "high", "scales", "tops")]
    assert at == [0, 768, 1152, 1280]
    assert matrix.nbytes == 1408


def test_vectors_are_filled_up() -> None:
    tensor = Tensor("F16", (3, 40))
    values = vector(tensor)
    assert values.shape == (3, 64)
    assert values.nbytes == vector_bytes((3, 40))
    assert not values[:, 40:].any()
    assert np.array_equal(values[:, :40], tensor.to_numpy())
    broken = Tensor("F32", (4,), blocks=np.array([1, np.nan, 2, 3], np.float32).view(np.uint8))
    with pytest.raises(GGUFError, match="a value that is not finite"):
        vector(broken)
