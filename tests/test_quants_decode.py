"""Decoding against PyPI's gguf and against references, and `fields` against decoding."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from engine import BEST, LEVELS, OTHERS, Room, compile_ahead

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.jit.spec import kernel
from ggufpy.quants import IntPanel, base, grids
from ggufpy.quants.decoding import run_kernel
from ggufpy.quants.encoding import PART

gguf = pytest.importorskip("gguf", reason="the oracle, PyPI's gguf, is not installed")
NAMES = quants.names()
INTEGER = [name for name in NAMES if isinstance(quants.get(name).panel, IntPanel)]
COMPILED = [name for name in NAMES if quants.get(name).decoder == "blocks"]
EVERYWHERE = ["F16", "Q5_1", "Q3_K", "Q4_K"]  # decoded at every level: between them, all that decoders share
ORACLE = {kind.name for kind in gguf.quants._type_traits} | {"F32", "F16"}


def random_blocks(name, shape, seed=0):
    """(*shape, bytes) of random bits, but with f16 and f32 scales that are ordinary numbers."""
    block = quants.get(name)
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] * block.nbytes), dtype=np.uint8)
    records = blocks.reshape(-1, block.nbytes).view(block.record)
    for field in block.layout:
        if field.dtype in ("f16", "f32"):
            values = rng.standard_normal(records[field.name].shape).astype(block.record[field.name].base)
            records[field.name] = values
    if name == "IQ1_M":  # its f16 scale lies in the upper nibbles of four words
        d = rng.standard_normal(len(records)).astype(np.float16).view(np.uint16)
        for i in range(4):
            low = records["scales"][:, 0, i] & 0x0FFF
            records["scales"][:, 0, i] = low | (d >> (4 * i) & 15) << 12
    return blocks


def oracle(blocks, name):
    return gguf.dequantize(np.ascontiguousarray(blocks), gguf.GGMLQuantizationType[name])


def same_bits(a, b):
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("name", sorted(ORACLE & set(NAMES)))
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3, 5), (2, 1, 3, 2), (7, 41)])
def test_decodes_as_gguf(name, shape):
    blocks = random_blocks(name, shape)
    ours = quants.dequantize(blocks, name)
    assert ours.dtype == np.float32
    assert same_bits(ours, oracle(blocks, name).reshape(ours.shape))


@pytest.mark.parametrize("name", sorted(ORACLE & set(NAMES)))
def test_decodes_any_bits_quietly(name):
    block = quants.get(name)
    blocks = np.random.default_rng(3).integers(0, 256, (16, 24 * block.nbytes), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = quants.dequantize(blocks, name)
        if isinstance(block.panel, IntPanel):
            block.fields(blocks)
    with np.errstate(all="ignore"):
        theirs = oracle(blocks, name)
    assert np.array_equal(ours, theirs, equal_nan=True)


def test_every_scale_byte():
    e = np.arange(256, dtype=np.uint8)
    mxfp4 = np.concatenate([e[:, None], np.full((256, 16), 0x7F, np.uint8)], axis=1)
    assert same_bits(quants.dequantize(mxfp4, "MXFP4"), oracle(mxfp4, "MXFP4"))
    nvfp4 = np.concatenate([np.repeat(e[:, None], 4, axis=1), np.full((256, 32), 0x7F, np.uint8)], axis=1)
    assert same_bits(quants.dequantize(nvfp4, "NVFP4"), oracle(nvfp4, "NVFP4"))


@pytest.mark.parametrize(
    ("name", "table", "scale", "shift"),
    [
        ("IQ1_S", grids.iq1, 8, 1),
        ("IQ2_XXS", grids.iq2_xxs, 1, 0),
        ("IQ2_XS", grids.iq2_xs, 1, 0),
        ("IQ2_S", grids.iq2_s, 1, 0),
        ("IQ3_XXS", grids.iq3_xxs, 0.5, 0),
        ("IQ3_S", grids.iq3_s, 1, 0),
    ],
)
def test_grids_are_those_of_gguf(name, table, scale, shift):
    theirs = getattr(gguf.quants, name)
    theirs.init_grid()
    expected = (theirs.grid.reshape(theirs.grid_shape) + shift) * scale
    assert np.array_equal(table()[:, None].view(np.uint8), expected)


def test_q1_0_by_hand():
    block = np.zeros(18, np.uint8)
    block[:2] = np.array([0.5], "<f2").view(np.uint8)
    block[2], block[17] = 0b00000101, 0b10000000
    expected = np.full(128, -0.5, np.float32)
    expected[[0, 2, 127]] = 0.5
    assert np.array_equal(quants.dequantize(block, "Q1_0"), expected)


def test_q2_0_by_hand():
    block = np.zeros(18, np.uint8)
    block[:2] = np.array([0.5], "<f2").view(np.uint8)
    block[2], block[17] = 0b11_10_01_00, 0b01_00_00_00
    expected = np.full(64, -0.5, np.float32)
    expected[:4] = -0.5, 0, 0.5, 1
    expected[63] = 0
    assert np.array_equal(quants.dequantize(block, "Q2_0"), expected)


@pytest.mark.parametrize("name", ["Q8_1", "Q8_K"])
def test_activation_types(name):
    block = quants.get(name)
    blocks = random_blocks(name, (3, 4))
    records = block.records(blocks)
    expected = records["d"].astype(np.float32)[..., None] * records["qs"].astype(np.float32)
    assert same_bits(quants.dequantize(blocks, name), expected.reshape(3, -1))


@pytest.mark.parametrize("name", ["I8", "I16", "I32", "I64", "F64"])
def test_other_numbers(name):
    numbers = np.array([[0, 1, -1, 100], [-128, 127, 5, -5]]).astype(quants.get(name).record["w"])
    decoded = quants.dequantize(numbers.view(np.uint8), name)
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, numbers.astype(np.float32))


@pytest.mark.parametrize("name", INTEGER)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5)])
def test_fields_give_the_weights(name, shape):
    block = quants.get(name)
    panel = block.panel
    blocks = random_blocks(name, shape, seed=5)
    fields = block.fields(blocks)
    k = shape[1] * block.weights
    assert fields.codes.dtype == np.uint8
    assert fields.codes.shape == (shape[0], k)
    assert fields.codes.max() < 2**panel.bits
    assert fields.scale.dtype == np.float32
    assert fields.scale.shape == (shape[0], k // panel.group)
    weights = (fields.codes.astype(np.float64) - panel.offset).reshape(-1, panel.group)
    weights *= fields.scale.reshape(-1, 1)
    assert (fields.minimum is not None) == panel.has_min
    if fields.minimum is not None:
        assert fields.minimum.dtype == np.float32
        assert fields.minimum.shape == fields.scale.shape
        weights += fields.minimum.reshape(-1, 1)
    decoded = block.decode(blocks)
    largest = np.abs(weights).max()
    assert np.allclose(decoded.reshape(weights.shape), weights, rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_decode(name):
    block = quants.get(name)
    for shape in [(0,), (0, 4 * block.nbytes), (3, 0), (2, 0, block.nbytes)]:
        decoded = block.decode(np.zeros(shape, np.uint8))
        assert decoded.shape == (*shape[:-1], shape[-1] // block.nbytes * block.weights)
        assert block.byteswap(np.zeros(shape, np.uint8)).shape == shape
    if isinstance(block.panel, IntPanel):
        assert block.fields(np.zeros((0, block.nbytes), np.uint8)).codes.shape == (0, block.weights)
        assert block.fields(np.zeros((3, 0), np.uint8)).codes.shape == (3, 0)


@pytest.mark.parametrize("name", NAMES)
def test_strided_read_only_and_unaligned_blocks(name):
    blocks = random_blocks(name, (4, 3))
    expected = quants.dequantize(blocks, name)
    room = np.zeros(blocks.size + 1, np.uint8)[1:].reshape(blocks.shape)  # an odd address
    room[...] = blocks
    room.flags.writeable = False
    assert np.array_equal(quants.dequantize(room, name), expected, equal_nan=True)
    assert np.array_equal(quants.dequantize(room[::2], name), expected[::2], equal_nan=True)
    wide = np.zeros((4, 2 * blocks.shape[1]), np.uint8)[:, : blocks.shape[1]]
    wide[...] = blocks
    assert np.array_equal(quants.dequantize(wide, name), expected, equal_nan=True)
    fortran = np.asfortranarray(blocks)
    assert np.array_equal(quants.dequantize(fortran, name), expected, equal_nan=True)


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "BF16", "IQ2_XXS"])
def test_chunks_meet(name):
    block = quants.get(name)
    blocks = random_blocks(name, (2, base.CACHED // block.weights + 3))
    whole = block.decode(blocks)
    last = block.decode(blocks[:, -2 * block.nbytes :])
    assert np.array_equal(whole[:, -2 * block.weights :], last, equal_nan=True)


def test_reference_bytes_decode_to_their_weights(shared):
    with np.load(shared / "reference" / "quant_vectors.npz") as vectors:
        x = vectors["x"]
        spread = float((x.astype(np.float64) ** 2).mean()) ** 0.5
        # Bits a weight bound the error from both sides: a wrong layout is far above, a copy would be below.
        bounds = {
            "Q8_0": 0.01,
            "Q6_K": 0.03,
            "NVFP4": 0.2,
            "MXFP4": 0.2,
            "Q1_0": 0.7,
            "Q2_0": 0.85,
            "IQ1_M": 0.6,
        }
        for key in sorted(set(vectors) - {"x", "imatrix"}):
            name = key.split("__")[0]
            decoded = quants.dequantize(vectors[key], name)
            assert decoded.shape == x.shape
            error = float(((decoded - x).astype(np.float64) ** 2).mean()) ** 0.5 / spread
            assert 0 < error < bounds.get(name, 0.9), key
        largest = np.abs(x.reshape(-1, 64)).max(axis=1)
        decoded = np.abs(quants.dequantize(vectors["Q2_0"], "Q2_0").reshape(-1, 64)).max(axis=1)
        assert np.allclose(decoded, largest, rtol=1e-3, atol=1e-6)
        signs = quants.dequantize(vectors["Q1_0"], "Q1_0") * x
        assert (signs.reshape(-1, 128).max(axis=1) >= 0).all()
        assert (signs >= 0).all()


# -- compiled -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled():
    here = [(kernel("decode", type=name.lower()), BEST) for name in COMPILED]
    compile_ahead(here + [(kernel("decode", type=name.lower()), level) for name in EVERYWHERE for level in OTHERS])


def any_bits(name, count):
    """(count, nbytes) of random bits, and every byte value in each place."""
    block = quants.get(name)
    blocks = np.random.default_rng(6).integers(0, 256, (count, block.nbytes), dtype=np.uint8)
    if block.weights > 1:
        blocks[:256] = np.arange(256, dtype=np.uint8)[:, None]
    else:
        blocks[: 1 << 16] = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2)[:count]
    return blocks


def plain(name, blocks):
    """What NumPy decodes."""
    block = quants.get(name)
    out = np.empty((len(blocks), block.weights), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        block.decode_blocks(blocks, out)
    return out


def same_numbers(a, b):
    number = ~np.isnan(b)
    return np.array_equal(np.isnan(a), ~number) and np.array_equal(a[number].view(np.uint32), b[number].view(np.uint32))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_compiled_decoders_give_numpys_bits(name, level):
    if level is not BEST and name not in EVERYWHERE:
        pytest.skip("shares its code with those tested at every level")
    blocks = any_bits(name, 517 if quants.get(name).weights > 1 else (1 << 16) + 5)
    room = Room(np.zeros((len(blocks), quants.get(name).weights), np.float32))
    run_kernel(quants.get(name), Room(blocks).array, room.array, level)
    room.check()
    assert same_numbers(room.array, plain(name, blocks))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", COMPILED)
def test_large_arrays_are_decoded_as_small_ones(name):
    block = quants.get(name)
    blocks = random_blocks(name, (3, base.CACHED // block.weights // 2 + 1))  # more than a chunk, rows of less
    whole = block.decode(blocks)
    assert same_bits(whole, np.stack([block.decode(row) for row in blocks]))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", ["Q4_K", "F16"])
def test_threads_share_a_large_array(name, monkeypatch):
    block = quants.get(name)
    blocks = random_blocks(name, (1, 2 * PART // block.weights + 9))
    found = []
    for threads in (1, 3):
        monkeypatch.setenv("GGUFPY_THREADS", str(threads))
        found.append(block.decode(blocks))
    assert same_bits(*found)
    assert same_bits(found[0][:, -9 * block.weights :], block.decode(blocks[:, -9 * block.nbytes :]))


def test_a_large_array_of_half_blocks_is_refused():
    with pytest.raises(GGUFError, match="are not whole Q8_0 blocks of 34 bytes"):
        quants.dequantize(np.zeros(base.CACHED * 34 + 1, np.uint8), "Q8_0")
