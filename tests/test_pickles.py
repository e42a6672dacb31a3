"""Pickles of PyTorch, made by hand: what they may have in them, and what ends in one line."""

from __future__ import annotations

import collections
import contextlib
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest

from ggufpy.convert import ConvertOptions, convert, pickles, unpickling
from ggufpy.convert.pickles import open_pickle
from ggufpy.errors import GGUFError


class Named:
    """Pickles as the global of a name, called with arguments; imports nothing."""

    def __init__(self, name: str, *args: Any) -> None:
        self.name, self.args = name, args


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def dumped(value: Any) -> bytes:
    """Instructions of protocol 2 for dictionaries, tuples, texts, numbers, `Named` and storages."""
    if isinstance(value, Named):
        module, _, name = value.name.rpartition(".")
        got = b"c" + module.encode() + b"\n" + name.encode() + b"\n"
        return got + (dumped(value.args) + b"R" if value.args != (None,) else b"")
    if isinstance(value, dict):
        return b"}(" + b"".join(dumped(k) + dumped(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(dumped, value)) + b"e"
    if isinstance(value, tuple):
        if value[:1] == ("storage",):
            return b"(" + b"".join(map(dumped, value)) + b"tQ"
        return b"(" + b"".join(map(dumped, value)) + b"t"
    if isinstance(value, str):
        return text(value)
    return pickle.dumps(value, 2)[2:-1]


def tensor(key: str, count: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0,
           kind: str = "FloatStorage") -> Named:  # fmt: skip
    storage = ("storage", Named(f"torch.{kind}", None), key, "cpu", count)
    return Named("torch._utils._rebuild_tensor_v2", storage, offset, shape, strides, False,
                 Named("collections.OrderedDict"))  # fmt: skip


def zipped(path: Path, body: bytes, data: dict[str, bytes], order: bytes | None = b"little", **how: Any) -> Path:
    with zipfile.ZipFile(path, "w", how.get("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for key, raw in data.items():
            archive.writestr(f"archive/data/{key}", raw)
    return path


NUMBERS = np.arange(24, dtype="<f4")


def test_tensors(tmp_path: Path) -> None:
    state = {
        "whole": tensor("0", 24, (4, 6), (6, 1)),
        "part": tensor("0", 24, (2, 3), (6, 1), 7),
        "turned": tensor("0", 24, (6, 4), (1, 6)),
        "deep": tensor("0", 24, (2, 2, 3), (1, 12, 4), 1),
        "scalar": tensor("0", 24, (), (), 5),
        "none": tensor("0", 24, (0, 6), (6, 1)),
        "trained": Named("torch._utils._rebuild_parameter", tensor("0", 24, (24,), (1,)), True,
                         Named("collections.OrderedDict")),
        "step": 7,
    }  # fmt: skip
    path = zipped(tmp_path / "a.bin", dumped(state), {"0": NUMBERS.tobytes()})
    found = open_pickle(path)
    assert set(found) == set(state) - {"step"}
    square = NUMBERS.reshape(4, 6)
    deep = np.lib.stride_tricks.as_strided(NUMBERS[1:], (2, 2, 3), (4, 48, 16))
    wanted = {"whole": square, "part": square[1:3, 1:4], "turned": square.T, "deep": deep, "scalar": square[0, 5],
              "none": square[:0], "trained": NUMBERS}  # fmt: skip
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        assert np.array_equal(found[name].array, value), name
        assert np.array_equal(found[name].to_numpy(), value), name
        found[name].release()
    assert np.array_equal(found["deep"].floats(1, 3), deep.reshape(4, 3)[1:3])


def test_types_and_orders_of_bytes(tmp_path: Path) -> None:
    kinds = {"DoubleStorage": "f8", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4", "ByteStorage": "u1",
             "BFloat16Storage": "u2", "BoolStorage": "u1"}  # fmt: skip
    for order in ("little", "big"):
        state = {kind: tensor(kind, 6, (2, 3), (3, 1), kind=kind) for kind in kinds}
        sign = "<" if order == "little" else ">"
        values = {kind: np.arange(6).astype(sign + dtype) for kind, dtype in kinds.items()}
        raw = {kind: value.tobytes() for kind, value in values.items()}
        found = open_pickle(zipped(tmp_path / f"{order}.bin", dumped(state), raw, order.encode()))
        for kind, value in values.items():
            assert np.array_equal(found[kind].array, value.reshape(2, 3)), kind
        assert np.array_equal(found["HalfStorage"].floats(1, 2), [[3, 4, 5]])
        assert np.array_equal(found["BFloat16Storage"].rows(1, 2).view("<u2"), [[3, 4, 5]])


def test_a_state_dict_within_a_checkpoint(tmp_path: Path) -> None:
    state = {"epoch": 3, "state_dict": {"w": tensor("0", 24, (4, 6), (6, 1))}}
    assert set(open_pickle(zipped(tmp_path / "a.pt", dumped(state), {"0": NUMBERS.tobytes()}))) == {"w"}


def old(made: Any, keys: list[str], data: bytes) -> bytes:
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, made, keys]
    return b"".join(b"\x80\x02" + dumped(part) + b"." for part in parts) + data


def test_the_layout_before_zip(tmp_path: Path) -> None:
    made = {"w": tensor("77", 24, (4, 6), (6, 1)), "part": tensor("77", 24, (5,), (1,), 3)}
    path = tmp_path / "old.bin"
    raw = old(made, ["77"], struct.pack("<q", 24) + NUMBERS.tobytes())
    path.write_bytes(raw)
    assert np.array_equal(open_pickle(path)["w"].array, NUMBERS.reshape(4, 6))
    assert np.array_equal(open_pickle(path)["part"].array, NUMBERS[3:8])
    for cut in range(len(raw)):
        path.write_bytes(raw[:cut])
        with pytest.raises(GGUFError):
            open_pickle(path)


def test_a_checkpoint_of_pickles_converts(tmp_path: Path) -> None:
    """To the same file as one of safetensors, if it is asked for."""
    tensors = checkpoints.weights()
    folder = checkpoints.write(tmp_path / "hf", tensors)
    convert(folder, tmp_path / "a.gguf", ConvertOptions("F16", no_vocab=True))
    (folder / "model.safetensors").unlink()
    state = {}
    for name, values in tensors.items():
        strides = tuple(stride // 4 for stride in values.strides)
        state[name] = tensor(name, values.size, values.shape, strides)
    zipped(folder / "pytorch_model.bin", dumped(state), {name: value.tobytes() for name, value in tensors.items()})
    with pytest.raises(GGUFError, match="--allow-pickle"):
        convert(folder, tmp_path / "b.gguf", ConvertOptions("F16", no_vocab=True))
    convert(folder, tmp_path / "b.gguf", ConvertOptions("F16", no_vocab=True, allow_pickle=True))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


CALLED: list[str] = []


class Evil:
    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def touched(path: str) -> None:
    CALLED.append(path)


def nested(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1)


def doubled() -> bytes:
    """A tuple of itself twice, sixty times: 2^60 values to whoever goes through it."""
    return b")" + b"q\0h\0\x86" * 60


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (pickle.dumps(Evil(touched, "x"), 2)[2:-1], "touched"),
        (pickle.dumps(Evil(eval, "1"), 2)[2:-1], "eval"),
        (dumped({"w": Named("os.system", "true")}), "'os.system', which no tensor"),
        (dumped({"w": Named("builtins.eval", "1")}), "builtins.eval"),
        (dumped({"w": Named("torch.load", "a")}), "'torch.load'"),
        (dumped({"w": Named("torch.FloatStorage", 1)}), "cannot be called"),
        (dumped({"w": Named("torch._utils._rebuild_tensor_v2", 1, 2, (), ())}), "no storage"),
        (dumped({"w": Named("torch._utils._rebuild_parameter", 1)}), "no tensor"),
        (b"cos\nsystem\n" + text("true") + b"\x85R", "os.system"),
        (text("os") + text("system") + b"\x93", "os.system"),
        (nested(5) + text("system") + b"\x93", "a name is no text"),
        (b"ios\nsystem\n", "instruction"),
        (b"(" + text("x") + b"o", "instruction"),
        (b"N" + b")\x81", "instruction"),
        (b"\x82\x01", "instruction"),
        (b"\x96" + b"\xff" * 8, "instruction"),
        (b"\x8b\xff\xff\xff\x7f", "instruction"),
        (b"N" + dumped({}) + b"b", "state"),
        (b"]" + dumped({"__dict__": 1}) + b"b", "state"),
        (b"ccollections\nOrderedDict\n" + dumped({"x": 1}) + b"b", "state"),
        (b"X\xff\xff\xff\x7fab", "too early"),
        (b"X\2\0\0\0\xff\xff", "text"),
        (b"r\xff\xff\xff\xffN", "no dictionary"),
        (b"h\7", "refers to what is not there"),
        (b"t", "mark"),
        (b"R", "missing"),
        (b"}Na", "list"),
        (b"]NNs", "dictionary"),
        (b"}" + nested(9) + b"Ns", "key"),
        (b"}" + doubled() + b"Ns", "key"),
        (nested(100_000), "no dictionary"),
        (doubled(), "no dictionary"),
        (dumped({}), "no dictionary"),
        (dumped({1: tensor("0", 24, (24,), (1,))}), "no texts"),
        (dumped({"w": tensor("9", 24, (24,), (1,))}), "'9' is not in the file"),
        (dumped({"w": tensor("../../etc", 24, (24,), (1,))}), "is not in the file"),
        (dumped({"w": tensor("0", 25, (24,), (1,))}), "the file has 96"),
        (dumped({"w": tensor("0", 1 << 60, (24,), (1,))}), "the file has 96"),
        (dumped({"w": tensor("0", 24, (25,), (1,))}), "beyond its storage"),
        (dumped({"w": tensor("0", 24, (24,), (1,), 1)}), "beyond its storage"),
        (dumped({"w": tensor("0", 24, (5, 6), (6, 1))}), "beyond its storage"),
        (dumped({"w": tensor("0", 24, (1 << 40, 1 << 40), (0, 0))}), "beyond its storage"),
        (dumped({"w": tensor("0", 24, (5,), (-1,), 10)}), "strides of a tensor"),
        (dumped({"w": tensor("0", 24, (5,), (1,), -1)}), "offset of a tensor"),
        (dumped({"w": tensor("0", 24, (True,), (1,))}), "shape of a tensor"),
        (dumped({"w": tensor("0", 24, (5,), (1, 1))}), "different lengths"),
        (dumped({"w": tensor("0", 24, (1,) * 9, (1,) * 9)}), "9 dimensions"),
        (dumped({"w": tensor("0", 24, (24,), (1,), kind="ComplexFloatStorage")}), "ComplexFloatStorage"),
        (dumped(("storage", "x", "0", "cpu", 1)), "without a dtype"),
        (dumped(("storage", 1)), "no storage"),
        (b"N(0", "instruction"),
    ],
)
def test_hostile_pickles(tmp_path: Path, body: bytes, said: str) -> None:
    path = zipped(tmp_path / "a.bin", body, {"0": NUMBERS.tobytes()})
    with pytest.raises(GGUFError, match=r"a\.bin: ") as error:
        open_pickle(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert CALLED == []


def test_hostile_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = tmp_path / "a.bin", {"0": NUMBERS.tobytes()}
    good = dumped({"w": tensor("0", 24, (24,), (1,))})

    def refused(said: str) -> None:
        with pytest.raises(GGUFError, match=said):
            open_pickle(path)

    zipped(path, good, data, compression=zipfile.ZIP_DEFLATED)
    refused("compressed")
    zipped(path, good, data, b"middle")
    refused("order of bytes")
    zipped(path, good, data)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", b"")
    refused("twice")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/other", b"")
    refused("0 members named data.pkl")
    raw = zipped(path, good, data).read_bytes()
    for cut in range(0, len(raw), 7):
        path.write_bytes(raw[:cut])
        refused("a.bin")
    at = raw.rindex(b"PK\1\2")  # the central directory's entry of the storage: size and place
    for field, value in ((20, 1 << 30), (42, 1 << 30), (42, 3)):
        bad = bytearray(raw)
        bad[at + field : at + field + 4] = struct.pack("<I", value)
        if field == 20:
            bad[at + 24 : at + 28] = struct.pack("<I", value)
        path.write_bytes(bad)
        refused("beyond the file|not where it should be")
    path.write_bytes(raw)
    monkeypatch.setattr(unpickling, "STEPS_MAX", 10)
    refused("more than 10 instructions")
    monkeypatch.setattr(pickles, "PICKLE_MAX", 10)
    refused("its pickle takes")


def pairs_of(count: int) -> bytes:
    """A list of pairs of different texts, in the memo as 0."""
    entries = b"".join(text(f"{i:07}") + b"N\x86" for i in range(count))
    return b"](" + entries + b"eq\0"


@pytest.mark.parametrize(
    "body",
    [
        pairs_of(100_000) + b"ccollections\nOrderedDict\nq\1" + b"h\1h\0\x85R" * 200,
        b"(" + b"K\1" * 300_000 + b"tq\0" + b"ctorch\nSize\nq\1" + b"h\1h\0\x85R" * 200,
        b"(" + b"K\1" * 300_000 + b"tq\0" + b"ctorch\ndevice\nq\1" + b"h\1h\0R" * 200,
        b"(" + b"N" * (1 << 22) + b"t",
    ],
    ids=["dictionaries", "shapes", "arguments", "instructions"],
)
def test_what_is_gone_through_twice_counts_twice(tmp_path: Path, body: bytes) -> None:
    """A megabyte could else ask for hours, and for all memory there is."""
    with pytest.raises(GGUFError, match=r"more than 4,194,304 instructions|has 300000 dimensions"):
        open_pickle(zipped(tmp_path / "a.bin", body, {}))


def test_a_directory_that_says_it_is_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zipfile reads it at once, whatever its length."""
    path = zipped(tmp_path / "a.bin", dumped({"w": tensor("0", 24, (24,), (1,))}), {"0": NUMBERS.tobytes()})
    assert set(open_pickle(path)) == {"w"}
    monkeypatch.setattr(pickles, "DIRECTORY_MAX", 100)
    with pytest.raises(GGUFError, match="its directory has more than 100 bytes"):
        open_pickle(path)


def test_damaged_bytes_end_in_one_line(tmp_path: Path) -> None:
    """Whatever byte of a pickle is changed, the tensors lie in the file or it is refused."""
    body = dumped(collections.OrderedDict(w=tensor("0", 24, (4, 6), (6, 1)), v=tensor("0", 24, (3,), (2,), 4)))
    rng = np.random.default_rng(0)
    path = tmp_path / "a.bin"
    for _ in range(300):
        bad = bytearray(body)
        for _ in range(rng.integers(1, 4)):
            bad[rng.integers(len(bad))] = rng.integers(256)
        zipped(path, bytes(bad), {"0": NUMBERS.tobytes()})
        with contextlib.suppress(GGUFError):
            for found in open_pickle(path).values():
                assert found.array.shape == found.shape
