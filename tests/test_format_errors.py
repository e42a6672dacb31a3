"""Files that are wrong: each raises one clear GGUFError, without allocating what it claims."""

from __future__ import annotations

import os
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpy.errors import GGUFError
from ggufpy.format import from_bytes
from ggufpy.format import open as open_gguf

UINT8, UINT32, BOOL, STRING, ARRAY, UINT64 = 0, 4, 7, 8, 9, 10


def text(s: str | bytes, order: str = "<") -> bytes:
    raw = s.encode() if isinstance(s, str) else s
    return struct.pack(order + "Q", len(raw)) + raw


def key(name: str | bytes, kind: int, body: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + body


def array(kind: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + body


def tensor(name: str | bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file(keys: list[bytes] = [], tensors: list[bytes] = [], data: bytes = b"", version: int = 3) -> bytes:  # noqa: B006
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys + tensors)
    return head + bytes(-len(head) % 32 if tensors else 0) + data


def counts(n_tensors: int, n_keys: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + rest


def nested(depth: int) -> bytes:
    return array(ARRAY, 1) * (depth - 1) + array(UINT8, 0)


HUGE = 2**63
WRONG = {
    "version 1": (b"GGUF" + struct.pack("<I", 1) + bytes(16), "GGUF version 1 is no longer read"),
    "version 1, big-endian": (b"GGUF" + struct.pack(">I", 1) + bytes(16), "GGUF version 1 is no longer read"),
    "version 4": (b"GGUF" + struct.pack("<I", 4) + bytes(16), "version 4 is not known"),
    "magic only": (b"GGUF", "ends at byte 4"),
    "no counts": (b"GGUF\3\0\0\0", "ends at byte 8"),
    "tensor count": (counts(HUGE, 0, bytes(64)), f"tensor count at byte 8: {HUGE} cannot fit"),
    "key count": (counts(0, HUGE, bytes(64)), f"metadata count at byte 16: {HUGE} cannot fit"),
    "tensor count after keys": (counts(3, 1, key("a", STRING, text("b" * 80))), "tensor count at byte 8: 3"),
    "key passes the end": (
        counts(0, 1, struct.pack("<Q", 9) + b"abcdefgh"),
        "metadata key 0 at byte 32: needs 9",
    ),
    "key is empty": (file([key("", UINT8, b"\1" + bytes(9))]), "length of metadata key 0 at byte 24: 0"),
    "key is too long": (file([key("k" * 65536, UINT8, b"\1")]), "65536 is not between 1 and 65535"),
    "key is not UTF-8": (
        file([key(b"\xff\xfe", UINT8, b"\1")]),
        "metadata key 0 at byte 32: is not valid UTF-8",
    ),
    "key twice": (
        file([key("k", UINT8, b"\1"), key("k", UINT8, b"\1")]),
        "metadata key 1 at byte 38: 'k' is there",
    ),
    "value type": (
        file([key("k", 13, b"\1")]),
        "type of metadata 'k' at byte 33: 13 is not a GGUF value type",
    ),
    "value cut": (file([key("k", UINT64, b"\1\2\3")]), "metadata 'k' at byte 37: needs 8 bytes"),
    "bool": (file([key("k", BOOL, b"\2")]), "metadata 'k' at byte 37: 02 is not a bool"),
    "bool in an array": (file([key("k", ARRAY, array(BOOL, 3, b"\0\1\7"))]), "metadata 'k'[2] at byte 51"),
    "string length": (file([key("k", STRING, struct.pack("<Q", HUGE))]), f"at byte 45: needs {HUGE} bytes"),
    "element type": (
        file([key("k", ARRAY, array(77, 1, bytes(8)))]),
        "element type of metadata 'k' at byte 37: 77",
    ),
    "array length": (
        file([key("k", ARRAY, array(UINT64, 2**61, bytes(64)))]),
        "length of metadata 'k' at byte 41",
    ),
    "string array length": (
        file([key("k", ARRAY, array(STRING, 2**60, bytes(64)))]),
        "cannot fit into the 64 bytes",
    ),
    "string in an array": (
        file([key("k", ARRAY, array(STRING, 2, text("ab") + struct.pack("<Q", 2**64 - 1)))]),
        "metadata 'k'[1] at byte 59: the string passes the end",
    ),
    "string in a long array": (
        file([key("k", ARRAY, array(STRING, 5001, text("ab") * 5000 + struct.pack("<Q", 2**64 - 1)))]),
        "metadata 'k'[5000] at byte 50049: the string passes the end",
    ),
    "nested array length": (
        file([key("k", ARRAY, array(ARRAY, 2, array(UINT8, 1, b"\1") + array(UINT8, 99)))]),
        "metadata 'k'[1]",
    ),
    "nesting": (file([key("k", ARRAY, nested(17))]), "nested more than 16 deep"),
    "nesting without end": (file([key("k", ARRAY, nested(100_000))]), "nested more than 16 deep"),
    "alignment is no power of two": (
        file([key("general.alignment", UINT32, struct.pack("<I", 24))]),
        "24 is not a power of two",
    ),
    "alignment 0": (file([key("general.alignment", UINT32, bytes(4))]), "0 is not a power of two"),
    "alignment type": (file([key("general.alignment", UINT8, b"\x20")]), "must be a uint32"),
    "tensor name twice": (
        file(tensors=[tensor("t", (8,), 0, 0), tensor("t", (8,), 0, 32)], data=bytes(64)),
        "name of tensor 1 at byte 57: 't' is there twice",
    ),
    "tensor name is not UTF-8": (
        file(tensors=[tensor(b"\xff", (8,), 0, 0)], data=bytes(32)),
        "is not valid UTF-8",
    ),
    "dimensions": (
        file(tensors=[tensor("t", (1,) * 5, 0, 0)], data=bytes(32)),
        "dimensions of tensor 't' at byte 33",
    ),
    "many dimensions": (
        counts(1, 0, text("t") + struct.pack("<I", 2**32 - 1) + bytes(64)),
        "dimensions of tensor 't' at byte 33: 4294967295 is above 4",
    ),
    "entry cut": (
        counts(1, 0, text("t") + struct.pack("<IQQ", 4, 1, 1)),
        "entry of tensor 't' at byte 37: needs 44",
    ),
    "tensor type": (file(tensors=[tensor("t", (8,), 4242, 0)], data=bytes(32)), "4242"),
    "shape beyond 64 bits": (
        file(tensors=[tensor("t", (2**32, 2**32), 0, 0)], data=bytes(32)),
        "shape of tensor 't' at byte 33",
    ),
    "shape wraps to nothing": (
        file(tensors=[tensor("t", (2**62, 4), 0, 0)], data=bytes(32)),
        "is beyond 64 bits",
    ),
    "empty but beyond 64 bits": (
        file(tensors=[tensor("t", (0, HUGE), 0, 0)], data=bytes(32)),
        "beyond 64 bits",
    ),
    "row is no whole blocks": (
        file(tensors=[tensor("t", (40, 2), 8, 0)], data=bytes(340)),
        "rows of 40 values",
    ),
    "offset is not aligned": (
        file(tensors=[tensor("t", (8,), 0, 8)], data=bytes(64)),
        "offset of tensor 't' at byte 49: 8 is not aligned to 32",
    ),
    "offset passes the end": (
        file(tensors=[tensor("t", (8,), 0, 64)], data=bytes(64)),
        "pass the end of the file",
    ),
    "offset wraps": (
        file(tensors=[tensor("t", (8,), 0, 2**64 - 32)], data=bytes(64)),
        "pass the end of the file",
    ),
    "empty tensor far away": (
        file(tensors=[tensor("t", (0,), 0, 2**63)], data=b""),
        "pass the end of the file",
    ),
    "data cut": (
        file(tensors=[tensor("t", (8,), 0, 0)], data=bytes(31)),
        "bytes 64 to 96 pass the end of the file",
    ),
    "overlap": (
        file(tensors=[tensor("b", (8,), 0, 32), tensor("a", (9,), 0, 0)], data=bytes(96)),
        "data of tensor 'b' (entry at byte 33): overlap those of 'a'",
    ),
    "same data": (
        file(tensors=[tensor("b", (8,), 0, 0), tensor("a", (8,), 0, 0)], data=bytes(96)),
        "overlap",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str) -> None:
    data, message = WRONG[case]
    with pytest.raises(GGUFError) as error:
        from_bytes(data, "x.gguf")
    assert str(error.value).startswith("x.gguf: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_every_truncation() -> None:
    whole = file(
        [
            key("general.alignment", UINT32, struct.pack("<I", 32)),
            key("s", ARRAY, array(STRING, 2, text("a") * 2)),
        ],
        [tensor("t", (8,), 0, 0), tensor("u", (2, 2), 1, 32)],
        bytes(40),
    )
    assert len(from_bytes(whole).tensors) == 2
    for n in range(len(whole)):
        with pytest.raises(GGUFError):
            from_bytes(whole[:n])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "x.png",
            b"\x89PNG\r\n\x1a\n" + bytes(99),
            "is not a GGUF file (it begins with 89 50 4e 47; a GGUF file",
        ),
        ("empty.gguf", b"", "is empty, not a GGUF file"),
        ("short.gguf", b"GG", "is not a GGUF file (it begins with 47 47;"),
    ],
)
def test_not_gguf(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(GGUFError) as error:
        open_gguf(path)
    assert str(error.value).startswith(f"{path} {message}")


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="is a directory"):
        open_gguf(tmp_path)
    with pytest.raises(GGUFError, match=r"^no such file: .*missing\.gguf$"):
        open_gguf(tmp_path / "missing.gguf")
    with pytest.raises(GGUFError, match=r"cannot open .*null"):
        open_gguf("a\0b")
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(GGUFError, match="is not a regular file"):
            open_gguf(tmp_path / "pipe")
    below = tmp_path / "file"
    below.write_bytes(b"x")
    with pytest.raises(GGUFError, match="cannot open"):
        open_gguf(below / "below.gguf")


VALID = file(
    [
        key("general.alignment", UINT32, struct.pack("<I", 32)),
        key("s", ARRAY, array(STRING, 2, text("ab") + text(""))),
        key(
            "n",
            ARRAY,
            array(ARRAY, 2, array(BOOL, 2, b"\0\1") + array(ARRAY, 1, array(STRING, 1, text("c")))),
        ),
        key("f", 12, struct.pack("<d", 0.5)),
    ],
    [
        tensor("t", (8,), 0, 0),
        tensor("u", (2, 2), 1, 32),
        tensor("q", (32, 2), 8, 64),
        tensor("e", (0,), 0, 0),
    ],
    bytes(140),
)
PLACE = st.integers(0, len(VALID) - 1)
NUMBERS = st.sampled_from([struct.pack(code, n) for code in "IQ" for n in (0, 1, 9, 33, 2**31, 2**32 - 1)])


@settings(max_examples=1500, deadline=None)
@given(
    edits=st.lists(st.tuples(PLACE, NUMBERS | st.binary(min_size=1, max_size=9)), max_size=4),
    keep=st.none() | PLACE,
)
def test_mutated_headers(edits: list[tuple[int, bytes]], keep: int | None) -> None:
    data = bytearray(VALID)
    for place, new in edits:
        data[place : place + len(new)] = new
    try:
        read = from_bytes(bytes(data[:keep]))
    except GGUFError as e:
        assert "\n" not in str(e)  # noqa: PT017
    else:
        assert len(dict(read.metadata)) == len(read.metadata)
        with np.errstate(all="ignore"):
            assert all(t.to_numpy().shape == t.shape for t in read.tensors.values())


def many_tensors(n: int) -> bytes:
    return file(tensors=[tensor(f"{i:x}", (1,), 24, 0) for i in range(n)], data=bytes(32))


CROWDED = {
    "strings": lambda: file([key("k", ARRAY, array(STRING, 300_000, bytes(2_400_000 - 8) + b"\xff" * 8))]),
    "small string arrays": lambda: file(
        [
            key(
                "k",
                ARRAY,
                array(ARRAY, 100, array(STRING, 4096, bytes(8 * 4096)) * 99 + array(STRING, 2, b"\xff" * 16)),
            )
        ]
    ),
    "nested arrays": lambda: file([key("k" * 9999, ARRAY, array(ARRAY, 16_000, array(UINT8, 0) * 16_000)), b"\xff"]),
    "tensors": lambda: many_tensors(65_536),
    "keys": lambda: file([key(f"{i:x}", UINT8, b"\1") for i in range(16_383)] + [b"\xff"]),
    "bools": lambda: file([key("k", ARRAY, array(BOOL, 8_000_000, bytes(7_999_999) + b"\2"))]),
}


def test_counts_are_limited_by_the_file_alone() -> None:
    """More keys, tensors and arrays than any model has are still a valid file."""
    keys = [key(f"{i:x}", UINT8, b"\1") for i in range(20_000)]
    keys.append(key("nested", ARRAY, array(ARRAY, 20_000, array(UINT8, 0) * 20_000)))
    keys.append(key("bools", ARRAY, array(BOOL, 1 << 24, bytes(1 << 24))))
    keys.append(key("strings", ARRAY, array(STRING, 1 << 20, bytes(8 << 20))))
    tensors = [tensor(f"{i:x}", (1,), 24, 32 * i) for i in range(70_000)]
    read = from_bytes(file(keys, tensors, bytes(32 * 70_000)))
    assert (len(read.tensors), len(read.metadata)) == (70_000, 20_003)
    assert read.metadata.count("bools") == 1 << 24
    assert (len(read.metadata["nested"]), len(read.metadata.strings("strings"))) == (20_000, 1 << 20)


@pytest.mark.parametrize("case", CROWDED)
@pytest.mark.usefixtures("deadline")
def test_crowded_files_are_refused_in_little_memory(case: str) -> None:
    data = CROWDED[case]()
    with pytest.raises(GGUFError):  # compiles, on a first run, what the measured one needs
        from_bytes(data)
    tracemalloc.start()
    with pytest.raises(GGUFError):
        from_bytes(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(data) + 100_000
