"""What is written is read back: values, types, order, tensors, both byte orders, by us and by PyPI's gguf."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggufpy import quants
from ggufpy.format import Blocks, TensorInfo, Typed, Writer, from_bytes, write
from ggufpy.format import open as open_gguf

gguf = pytest.importorskip("gguf", reason="PyPI's gguf is the oracle of these tests")

INTS = {"uint8": (0, 8), "int8": (1, 8), "uint16": (0, 16), "int16": (1, 16)}
INTS |= {"uint32": (0, 32), "int32": (1, 32), "uint64": (0, 64), "int64": (1, 64)}


def scalars(name: str) -> st.SearchStrategy[Any]:
    if name in INTS:
        signed, bits = INTS[name]
        return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)
    return {
        "bool": st.booleans(),
        "float32": st.floats(width=32),
        "float64": st.floats(),
        "string": st.text() | st.binary(max_size=9).map(lambda b: b.decode("utf-8", "surrogateescape")),
    }[name]


NAMES = [*INTS, "bool", "float32", "float64", "string"]
SCALAR = st.sampled_from(NAMES).flatmap(lambda n: st.builds(Typed, st.just(n), scalars(n)))
FLAT = st.sampled_from(NAMES).flatmap(
    lambda n: st.builds(Typed, st.just(f"array[{n}]"), st.lists(scalars(n), max_size=6))
)
NESTED = st.recursive(
    FLAT, lambda inner: st.builds(Typed, st.just("array[array]"), st.lists(inner, max_size=3)), max_leaves=8
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda k: k != "general.alignment" and not k.startswith("split.")
)
METADATA = st.dictionaries(KEYS, SCALAR | NESTED, max_size=8)
DTYPES = [np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64]
ARRAYS = st.builds(
    lambda shape, dtype, seed: np.random.default_rng(seed).integers(-99, 99, shape).astype(dtype),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from(DTYPES),
    st.integers(0, 9),
)


def plain(typed: Typed) -> Any:
    return (
        [plain(v) if isinstance(v, Typed) else v for v in typed.value] if isinstance(typed.value, list) else typed.value
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return isinstance(b, float) and ((a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b))
    return type(a) is type(b) and bool(a == b)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=METADATA,
    tensors=st.dictionaries(KEYS, ARRAYS, max_size=4),
    byteorder=st.sampled_from(["little", "big"]),
    version=st.sampled_from([2, 3]),
    alignment=st.sampled_from([None, 1, 2, 8, 32, 64, 4096]),
)
def test_round_trip(
    tmp_path: Path,
    metadata: dict[str, Typed],
    tensors: dict[str, np.ndarray],
    byteorder: str,
    version: int,
    alignment: int | None,
) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    write(first, metadata, tensors, byteorder=byteorder, version=version, alignment=alignment)
    with open_gguf(first) as f:
        assert (f.version, f.byteorder, f.alignment) == (version, byteorder, alignment or 32)
        keys = [k for k in f.metadata if k != "general.alignment"]
        assert keys == list(metadata)
        for k, value in metadata.items():
            assert f.metadata.type(k) == value.type
            assert same(f.metadata[k], plain(value))
        assert list(f.tensors) == list(tensors)
        for name, array in tensors.items():
            tensor = f.tensors[name]
            assert tensor.shape == array.shape
            assert tensor.nbytes == array.nbytes
            assert tensor.offset % f.alignment == 0 or not tensor.nbytes
            np.testing.assert_array_equal(tensor.to_numpy(), array)
        write(second, f.metadata, f.tensors, byteorder=byteorder, version=version)
        assert second.read_bytes() == first.read_bytes()
        other = "big" if byteorder == "little" else "little"
        write(second, f.metadata, f.tensors, byteorder=other, version=version)
    with open_gguf(second) as swapped:
        write(first, swapped.metadata, swapped.tensors, byteorder=byteorder, version=version)
        for name, array in tensors.items():
            np.testing.assert_array_equal(swapped.tensors[name].to_numpy(), array)
    write(second, metadata, tensors, byteorder=byteorder, version=version, alignment=alignment)
    if not any("float32" in v.type or "array[array]" in v.type for v in metadata.values()):  # NaNs may turn quiet
        assert second.read_bytes() == first.read_bytes()


def test_inferred_types(tmp_path: Path) -> None:
    values = {
        "bool": (True, "bool"),
        "uint32": (5, "uint32"),
        "int32": (-5, "int32"),
        "uint64": (2**40, "uint64"),
        "int64": (-(2**40), "int64"),
        "float": (0.5, "float32"),
        "large": (1e300, "float64"),
        "string": ("ä", "string"),
        "empty string": ("", "string"),
        "bools": ([True, False], "array[bool]"),
        "ints": ([1, 2**33], "array[uint64]"),
        "signed": ([1, -1], "array[int32]"),
        "floats": ([1, 0.5], "array[float32]"),
        "strings": (["a", ""], "array[string]"),
        "empty": ([], "array[int32]"),
        "nested": ([[1], [], ["a"]], "array[array]"),
    }
    path = tmp_path / "a.gguf"
    write(path, {k: v for k, (v, _) in values.items()}, {})
    with open_gguf(path) as f:
        for k, (value, name) in values.items():
            assert f.metadata.type(k) == name
            assert f.metadata[k] == value
        assert [t.type for t in f.metadata.typed("nested").value] == [
            "array[uint32]",
            "array[int32]",
            "array[string]",
        ]
    numpy_values = {
        "scalar": np.uint8(3),
        "array": np.arange(3, dtype=">i2"),
        "nested": Typed("array[array[int8]]", [[1], []]),
    }
    write(path, numpy_values, {})
    with open_gguf(path) as f:
        assert [f.metadata.type(k) for k in f.metadata] == ["uint8", "array[int16]", "array[array]"]
        assert dict(f.metadata) == {"scalar": 3, "array": [0, 1, 2], "nested": [[1], []]}
        assert f.metadata.array("array").dtype == np.dtype("int16")


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
def test_reads_what_gguf_writes(tmp_path: Path, endian: str) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(str(path), "llama", endianess=gguf.GGUFEndian[endian])
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -7)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -600)
    writer.add_uint32("u32", 2**31)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "größer 🦙")
    writer.add_array("strings", ["a", "", "🦙"])
    writer.add_array("floats", [1.5, -2.0])
    rng = np.random.default_rng(1)
    arrays = {
        "f32": rng.normal(size=(3, 4)).astype(np.float32),
        "f16": rng.normal(size=(2, 3, 4)).astype(np.float16),
    }
    arrays |= {"i8": np.arange(5, dtype=np.int8), "f64": rng.normal(size=(2, 1, 2, 3))}
    for name, array in arrays.items():
        writer.add_tensor(name, array.copy())  # it swaps in place
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_gguf(path) as f:
        assert f.byteorder == endian.lower()
        found = dict(f.metadata)
        assert found.pop("f32") == np.float32(0.1)
        assert found == {
            "general.architecture": "llama", "u8": 200, "i8": -7, "u16": 60000, "i16": -600, "u32": 2**31,
            "i32": -(2**31), "u64": 2**63, "i64": -(2**63), "f64": 0.1, "yes": True, "text": "größer 🦙",
            "strings": ["a", "", "🦙"], "floats": [1.5, -2.0],
        }  # fmt: skip
        assert f.metadata.type("u16") == "uint16"
        for name, array in arrays.items():
            assert f.tensors[name].shape == array.shape
            np.testing.assert_array_equal(f.tensors[name].to_numpy(), array)


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_gguf_reads_what_we_write(tmp_path: Path, byteorder: str) -> None:
    path = tmp_path / "a.gguf"
    metadata = {
        "general.architecture": "llama",
        "n": Typed("int16", -3),
        "x": 0.5,
        "tokens": ["a", "", "c"],
        "b": [True],
    }
    rng = np.random.default_rng(2)
    arrays = {"a": rng.normal(size=(3, 5)).astype(np.float32), "b": np.arange(7, dtype=np.int32)}
    blocks = rng.integers(0, 256, (4, 2 * 34), np.uint8)
    write(path, metadata, {**arrays, "q": Blocks(blocks, "Q8_0")}, byteorder=byteorder, alignment=64)
    reader = gguf.GGUFReader(str(path))
    assert reader.endianess.name == byteorder.upper()
    assert reader.alignment == 64
    for k, value in metadata.items():
        expected = value.value if isinstance(value, Typed) else value
        assert reader.get_field(k).contents() == expected
    assert reader.get_field("n").types == [gguf.GGUFValueType.INT16]
    tensors = {t.name: t for t in reader.tensors}
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name].data, array)
    assert tensors["q"].tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert tuple(tensors["q"].shape) == (64, 4)
    with open_gguf(path) as f:
        assert [t.data_offset for t in reader.tensors] == [f.tensors[t.name].offset for t in reader.tensors]
        if byteorder == "little":
            np.testing.assert_array_equal(tensors["q"].data, f.tensors["q"].data)


@pytest.mark.parametrize("name", quants.names())
def test_big_endian_blocks(tmp_path: Path, name: str) -> None:
    """Blocks of every type decode alike from both byte orders, and only numbers of several bytes move."""
    block = quants.get(name)
    data = np.random.default_rng(3).integers(0, 256, (2, 3 * block.nbytes), np.uint8)
    paths = {order: tmp_path / f"{order}.gguf" for order in ("little", "big")}
    for order, path in paths.items():
        write(path, {}, {"t": Blocks(data, name)}, byteorder=order)
    with open_gguf(paths["little"]) as little, open_gguf(paths["big"]) as big:
        np.testing.assert_array_equal(little.tensors["t"].data, data)
        np.testing.assert_array_equal(big.tensors["t"].little(), data)
        with np.errstate(invalid="ignore", over="ignore"):
            np.testing.assert_array_equal(little.tensors["t"].to_numpy(), big.tensors["t"].to_numpy())
        raw = big.tensors["t"].data
        offset = 0
        for field in block.layout:
            want = data.reshape(6, -1)[:, offset : offset + field.nbytes].reshape(-1, field.itemsize)[:, ::-1]
            got = raw.reshape(6, -1)[:, offset : offset + field.nbytes].reshape(-1, field.itemsize)
            np.testing.assert_array_equal(got, want)
            offset += field.nbytes
        assert offset == block.nbytes


def test_q8_0_swap_is_that_of_gguf_convert_endian() -> None:
    """The published converter reverses the two scale bytes at the start of each Q8_0 block."""
    from ggufpy.format.blocktypes import by_name, swapped

    data = np.arange(68, dtype=np.uint8).reshape(1, 68)
    assert swapped(data, by_name("Q8_0"))[0, [0, 1, 2, 33, 34, 35, 36]].tolist() == [1, 0, 2, 33, 35, 34, 36]
    data = np.arange(210, dtype=np.uint8)
    assert swapped(data, by_name("Q6_K"))[[0, 207, 208, 209]].tolist() == [0, 207, 209, 208]


def test_streamed_equals_written(tmp_path: Path) -> None:
    data = np.random.default_rng(4).integers(0, 256, (64, 2 * 18), np.uint8)
    row = np.arange(8, dtype=np.float32)
    infos = [
        TensorInfo("q", (64, 64), "Q4_0"),
        TensorInfo("empty", (0, 3), "F32"),
        TensorInfo("f", (8,), "F32"),
    ]
    for order in ("little", "big"):
        with Writer(tmp_path / "s.gguf", {"k": 1}, infos, byteorder=order) as writer:
            for i in range(0, 64, 16):
                writer.append("q", data[i : i + 16])
            writer.append("f", row[:3])
            writer.append("f", row[3:].tobytes())
        tensors = {"q": Blocks(data, "Q4_0"), "empty": np.empty((0, 3), np.float32), "f": row}
        write(tmp_path / "w.gguf", {"k": 1}, tensors, byteorder=order)
        assert (tmp_path / "s.gguf").read_bytes() == (tmp_path / "w.gguf").read_bytes()


def test_nan_payloads_and_lone_bytes_survive(tmp_path: Path) -> None:
    bits = struct.pack("<3I", 0x7FC00001, 0xFFFFFFFF, 0x7F800001)
    body = struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 6, 3) + bits
    body += struct.pack("<Q", 1) + b"s" + struct.pack("<IQ", 8, 2) + b"\xff\xc3"
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + body
    f = from_bytes(data)
    write(tmp_path / "a.gguf", f.metadata, f.tensors)
    assert (tmp_path / "a.gguf").read_bytes()[: len(data)] == data
    assert f.metadata["s"] == "\udcff\udcc3"
