"""The instructions of pickles that dictionaries of tensors are made of, and no others.

In: bytes. Out: dictionaries, lists, tuples, texts, numbers, and `View`s where PyTorch has tensors. Python's own
unpickler is not used: `Machine` knows the few instructions that are needed, and the few names that may be in them
(`_DTYPES`, `_CALLS`), none of which stands for anything of Python's. So a file can neither run code nor ask for more
memory or time than its bytes account for: what is gone through twice, by way of the memo, is counted twice.
Instructions: https://github.com/python/cpython/blob/main/Lib/pickletools.py
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from ggufpy.convert.safetensors import DIMS_MAX
from ggufpy.errors import GGUFError
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

STEPS_MAX = 1 << 22  # instructions of a pickle, and steps within them; a tensor takes about 40

# torch's names of storages and of dtypes, by safetensors' names of what is in them
_STORAGES: Mapping[str, str] = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
_DTYPES: Mapping[str, str] = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")


@dataclass(frozen=True)
class _Dtype:
    """A dtype; "" is that of a storage without one, counted in bytes."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers that lie in the file under a key, `count` of them from `first` on."""

    dtype: str
    key: str
    count: int
    first: int = 0  # numbers before it, in a storage that is part of another


@dataclass(frozen=True)
class View:
    """A tensor: a run of a storage, with strides; all in numbers."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Dictionary(dict[Any, Any]):
    """A dictionary of the pickle, whose attributes ("_metadata" of a state dict) are dropped."""

    __slots__ = ()


def _counts(value: Any, what: str) -> tuple[int, ...]:
    """A few whole numbers from 0."""
    if isinstance(value, tuple) and len(value) > DIMS_MAX:
        raise GGUFError(f"a tensor has {len(value)} dimensions")
    if not isinstance(value, tuple) or not all(type(n) is int and 0 <= n < 1 << 62 for n in value):
        raise GGUFError(f"the {what} of a tensor is not of whole numbers from 0")
    return value


def _tensor(*args: Any) -> View:
    """torch._utils._rebuild_tensor_v2 and _v3, which has a dtype besides: storage, offset, shape, strides, …"""
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise GGUFError("a tensor of its pickle has no storage")
    storage = args[0]
    (offset,) = _counts((args[1],), "offset")
    shape, strides = _counts(args[2], "shape"), _counts(args[3], "strides")
    if len(shape) != len(strides):
        raise GGUFError("a tensor of its pickle has a shape and strides of different lengths")
    said = [arg.name for arg in args[4:] if isinstance(arg, _Dtype) and arg.name]
    return View(storage, said[0] if said else storage.dtype, offset, shape, strides)


def _parameter(*args: Any) -> View:
    """torch._utils._rebuild_parameter: the tensor, and whether it is trained."""
    if not args or not isinstance(args[0], View):
        raise GGUFError("a parameter of its pickle has no tensor")
    return args[0]


def _dictionary(*args: Any) -> Dictionary:
    """collections.OrderedDict, empty or of a list of pairs."""
    made = Dictionary()
    if args and isinstance(args[0], list):
        for pair in args[0]:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise GGUFError("a dictionary of its pickle is not of pairs")
            made[_key(pair[0])] = pair[1]
    return made


def _size(*args: Any) -> tuple[int, ...]:
    """torch.Size."""
    return _counts(args[0] if args else (), "shape")


def _nothing(*args: Any) -> None:
    """torch.device and what else says nothing of the numbers."""


@dataclass(frozen=True)
class _Call:
    """What may be called in a pickle."""

    function: Callable[..., Any]


_CALLS: Mapping[str, _Call] = {
    "collections.OrderedDict": _Call(_dictionary),
    "torch._utils._rebuild_tensor_v2": _Call(_tensor),
    "torch._utils._rebuild_tensor_v3": _Call(_tensor),
    "torch._utils._rebuild_parameter": _Call(_parameter),
    "torch.Size": _Call(_size),
    "torch.device": _Call(_nothing),
}


def _global(module: Any, name: Any) -> _Call | _Dtype:
    """What a name stands for. GGUFError for all that tensors do not need."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise GGUFError("its pickle is damaged: a name is no text")
    full = f"{module}.{name}"
    if full in _CALLS:
        return _CALLS[full]
    if full in _UNTYPED:
        return _Dtype("")
    if module == "torch":
        known = _STORAGES.get(name) or _DTYPES.get(name)
        if known:
            return _Dtype(known)
    raise GGUFError(f"its pickle names {shown(full)}, which no tensor that ggufpy knows needs: it is not read")


def _key(value: Any) -> Any:
    if type(value) not in (str, int):
        raise GGUFError("a dictionary of its pickle has a key that is neither a text nor a number")
    return value


class _Mark:
    """Where a run of values begins."""


@dataclass
class Machine:
    """Goes through the pickle from byte `at`, within `end`, and knows what it must."""

    buffer: mmap.mmap
    at: int
    end: int
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)  # all that it refers to, by key
    done: int = 0  # instructions, and what those went through of what was there already

    def run(self) -> tuple[Any, int]:
        """The value, and the byte after the pickle."""
        while True:
            self.count(1)
            code = self.take(1)
            if code == b".":
                return self.pop(), self.at
            step = _STEPS.get(code)
            if step is None:
                raise GGUFError(f"its pickle has the instruction {code!r}, which dictionaries of tensors do not need")
            step(self)

    def count(self, steps: int) -> None:
        """GGUFError where there are more steps than any pickle of tensors takes."""
        self.done += steps
        if self.done > STEPS_MAX:
            raise GGUFError(f"its pickle takes more than {STEPS_MAX:,} instructions")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.end - self.at:
            raise GGUFError("its pickle ends too early: it is cut short, or no file of PyTorch")
        self.at += count
        return self.buffer[self.at - count : self.at]

    def number(self, count: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(count), "little", signed=signed)

    def pop(self) -> Any:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise GGUFError("its pickle is damaged: a value is missing")
        return self.stack.pop()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def run_of_values(self) -> list[Any]:
        """What stands behind the last mark, which goes, too."""
        values: list[Any] = []
        while self.stack and not isinstance(self.stack[-1], _Mark):
            values.append(self.stack.pop())
        if not self.stack:
            raise GGUFError("its pickle is damaged: a mark is missing")
        self.stack.pop()
        return values[::-1]

    def text(self, width: int, encoding: str = "utf-8") -> None:
        try:
            self.push(self.take(self.number(width)).decode(encoding))
        except UnicodeDecodeError:
            raise GGUFError("its pickle has a text that is none") from None

    def line(self) -> str:
        """Up to the next newline."""
        end = self.buffer.find(b"\n", self.at, min(self.end, self.at + 256))
        if end < 0:
            raise GGUFError("its pickle is damaged: a name does not end")
        return self.take(end + 1 - self.at)[:-1].decode("latin-1")

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1] if self.stack else None

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise GGUFError("its pickle is damaged: it refers to what is not there")
        self.push(self.memo[index])

    def tuple_of(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def stack_global(self) -> None:
        name = self.pop()
        self.push(_global(self.pop(), name))

    def reduce(self) -> None:
        args, call = self.pop(), self.pop()
        if not isinstance(call, _Call) or not isinstance(args, tuple):
            raise GGUFError("its pickle calls something that cannot be called")
        self.count(len(args))
        self.count(sum(len(arg) for arg in args if isinstance(arg, list | tuple)))
        self.push(call.function(*args))

    def build(self) -> None:
        self.pop()
        if not self.stack or not isinstance(self.stack[-1], Dictionary):
            raise GGUFError("its pickle gives a state to something that is no dictionary")

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, Dictionary) or len(values) % 2:
            raise GGUFError("its pickle is damaged: keys and values do not belong to a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if type(target) is not list:
            raise GGUFError("its pickle is damaged: values do not belong to a list")
        target += values

    def storage(self) -> None:
        """A reference ("storage", dtype, key, where it was, count), in the old layout with (key, first, count) if it is
        a part of another."""
        said = self.pop()
        if not isinstance(said, tuple) or len(said) not in (5, 6) or said[0] != "storage":
            raise GGUFError("its pickle refers to something that is no storage")
        dtype, key, count = said[1], said[2], said[4]
        if not isinstance(dtype, _Dtype) or not isinstance(key, str):
            raise GGUFError("its pickle refers to a storage without a dtype or a key")
        (count,) = _counts((count,), "storage")
        part = said[5] if len(said) == 6 else None
        first = 0
        if part is not None:
            if not isinstance(part, tuple) or len(part) != 3:
                raise GGUFError("its pickle refers to a part of a storage that it does not describe")
            first, count = _counts(part[1:], "storage")
        self.push(Storage(dtype.name or "U8", key, count, first))
        self.storages[key] = self.stack[-1]


def _pair(machine: Machine) -> list[Any]:
    value = machine.pop()
    return [machine.pop(), value]


Step = Callable[[Machine], object]
_STEPS: Mapping[bytes, Step] = {
    b"\x80": lambda m: m.take(1),  # protocol
    b"\x95": lambda m: m.take(8),  # frame
    b"(": lambda m: m.push(_Mark()),
    b"}": lambda m: m.push(Dictionary()),
    b")": lambda m: m.push(()),
    b"]": lambda m: m.push([]),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number(4, signed=True)),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"\x8a": lambda m: m.push(m.number(m.number(1), signed=True)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.text(4),
    b"\x8c": lambda m: m.text(1),
    b"U": lambda m: m.text(1, "latin-1"),
    b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(m.number(1)),
    b"j": lambda m: m.get(m.number(4)),
    b"t": lambda m: m.push(tuple(m.run_of_values())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"c": lambda m: m.push(_global(m.line(), m.line())),
    b"\x93": lambda m: m.stack_global(),
    b"Q": lambda m: m.storage(),
    b"R": lambda m: m.reduce(),
    b"b": lambda m: m.build(),
    b"s": lambda m: m.set_items(_pair(m)),
    b"u": lambda m: m.set_items(m.run_of_values()),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.run_of_values()),
}
