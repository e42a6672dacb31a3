"""Matrices in a device's memory: every type's bytes, decoded again as backends/gpu/formats.py says that they lie."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_matrices import Tensor, decoded

from ggufpy import quants
from ggufpy.backends.gpu.formats import format_of, matrix_bytes
from ggufpy.backends.gpu.weights import MATRIX_ARGS, PIECE, matrix_of, packed, vector, vector_bytes
from ggufpy.errors import GGUFError
from ggufpy.quants.base import IntPanel

NAMES = quants.names()


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
