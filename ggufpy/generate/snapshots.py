"""A text and what the cache holds of it, as bytes of one piece: in memory, in a file, in another process.

Layout, little-endian:

    "GGUFPYST" | u32 version | u32 bytes of the head | 16 bytes of hash | head
    tokens, i32 each | logits, f32 each | rows, group by group

The head is a JSON object: `model` (`fingerprint`), `seed`, `tokens` (how many), `bulk`, `scales`, `logits` (0, or the
size of the vocabulary: the row behind the last token) and `groups` (`form`, `since` and `width`, the bytes of a
position). The hash is XXH3 (128 bits) of all that follows it. Bytes may come from anywhere: lengths are checked
before anything is made of them, nothing in them is run, and what is wrong with them is a GGUFError of one line.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.runtime.snapshots import GroupRows, Snapshot
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.format import GGUFFile
    from ggufpy.models.plan import Plan

MAGIC, VERSION = b"GGUFPYST", 1
PREFIX = struct.Struct("<8sII16s")
MOST_HEAD = 1 << 16  # bytes of a head: it has a line for each group of layers
MOST_TOKENS = 1 << 31
MOST_WIDTH = 1 << 31  # bytes of a position
SAMPLE = 64  # bytes of a tensor's beginning and middle that tell models of one shape apart

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Saved:
    """What the bytes hold: a snapshot (None of no text), of which model, with which seed and logits (n_vocab,)."""

    model: str
    seed: int | None
    snapshot: Snapshot | None
    logits: Floats | None = None


@dataclass(frozen=True)
class Head:
    """The head, checked, and where the body begins."""

    fields: Mapping[str, Any]
    start: int

    @property
    def model(self) -> str:
        return str(self.fields["model"])

    @property
    def count(self) -> int:
        """How many tokens there are."""
        return int(self.fields["tokens"])

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        rows = sum((self.count - group["since"]) * group["width"] for group in self.fields["groups"])
        return self.start + 4 * self.count + 4 * int(self.fields["logits"]) + int(rows)

    def check_size(self, size: int, name: str) -> None:
        """Raises GGUFError unless that is how many bytes there are."""
        if size != self.nbytes:
            raise GGUFError(f"{name} has {size:,} bytes and should have {self.nbytes:,}: save it again")


def fingerprint(plan: Plan, files: Iterable[GGUFFile]) -> str:
    """What tells models apart whose caches have the same shape, as hexadecimal digits.

    It is made of the ops of the plan, with their numbers, and of names, types, shapes and a few bytes of all tensors.
    """
    digest = hashlib.sha256(repr(plan.ops).encode())
    for file in files:
        for name, tensor in file.tensors.items():
            octets = tensor.data.reshape(-1)
            middle = len(octets) // 2
            digest.update(f"\n{name} {tensor.type} {tensor.shape}\n".encode())
            digest.update(octets[:SAMPLE].tobytes() + octets[middle : middle + SAMPLE].tobytes())
    return digest.hexdigest()[:32]


def encode(saved: Saved) -> bytes:
    """The bytes of a text."""
    snapshot = saved.snapshot or Snapshot((), 0, (), ())
    logits = np.zeros(0, np.float32) if saved.logits is None else np.asarray(saved.logits, "<f4")
    groups = [np.ascontiguousarray(group.rows) for group in snapshot.groups]
    body = [np.array(snapshot.tokens, "<i4"), logits, *groups]
    head = {
        "model": saved.model, "seed": saved.seed, "tokens": len(snapshot.tokens), "bulk": snapshot.bulk,
        "scales": snapshot.scales, "logits": len(logits),
        "groups": [{"form": g.form, "since": g.since, "width": g.rows.shape[1]} for g in snapshot.groups],
    }  # fmt: skip
    text = json.dumps(head).encode()
    octets = (memoryview(part.reshape(-1).view(np.uint8)) for part in body)  # type: ignore[arg-type]
    parts: list[bytes | memoryview] = [text, *octets]
    return b"".join([PREFIX.pack(MAGIC, VERSION, len(text), _hash(parts)), *parts])


def decode(data: bytes | memoryview, name: str = "the state") -> Saved:
    """What `encode` has made bytes of; arrays are views of them. Raises GGUFError for all else, naming it `name`."""
    view = memoryview(data).cast("B")
    head = read_head(view, name)
    head.check_size(len(view), name)
    body, fields = view[head.start :], head.fields
    if _hash([view[PREFIX.size :]]) != PREFIX.unpack_from(view)[-1]:
        raise GGUFError(f"{name} is damaged: its bytes are not those that were written; save it again")
    end = 4 * head.count
    logits = np.frombuffer(body, "<f4", fields["logits"], end) if fields["logits"] else None
    if not head.count:
        return Saved(head.model, fields["seed"], None, logits)
    end += 4 * fields["logits"]
    groups = []
    for group in fields["groups"]:
        shape = (head.count - group["since"], group["width"])
        rows = np.frombuffer(body[end : end + shape[0] * shape[1]], np.uint8) if all(shape) else np.empty(0, np.uint8)
        groups.append(GroupRows(group["form"], group["since"], rows.reshape(shape)))
        end += rows.nbytes
    tokens = np.frombuffer(body, "<i4", head.count).tolist()
    snapshot = Snapshot(tuple(tokens), fields["bulk"], tuple(fields["scales"]), tuple(groups))
    return Saved(head.model, fields["seed"], snapshot, logits)


def read_tokens(data: bytes | memoryview, name: str) -> tuple[Head, tuple[int, ...]]:
    """The head and the tokens of what begins with these bytes. Raises GGUFError where they are not there."""
    head = read_head(memoryview(data).cast("B"), name)
    if len(data) < head.start + 4 * head.count:
        raise GGUFError(f"{name} ends within its tokens: it was cut short, save it again")
    return head, tuple(np.frombuffer(data, "<i4", head.count, head.start).tolist()) if head.count else ()


def read_head(view: memoryview, name: str) -> Head:
    """The head of what begins with these bytes. Raises GGUFError for one that is none."""
    if len(view) < PREFIX.size or bytes(view[:8]) != MAGIC:
        raise GGUFError(f"{name} is no saved state of ggufpy")
    _, version, size, _ = PREFIX.unpack_from(view)
    if version != VERSION:
        raise GGUFError(f"{name} is of version {version}; this ggufpy reads version {VERSION}: save it again")
    if size > MOST_HEAD or len(view) < PREFIX.size + size:
        raise GGUFError(f"{name} ends within its head: it was cut short, save it again")
    try:
        return Head(_checked(json.loads(bytes(view[PREFIX.size : PREFIX.size + size]))), PREFIX.size + size)
    except (ValueError, TypeError, KeyError, RecursionError):  # not JSON, or not of this form: GGUFErrors too
        raise GGUFError(f"the head of {name} is damaged: save it again") from None


def _checked(fields: Any) -> dict[str, Any]:
    """The fields of a head. Raises GGUFError, KeyError or TypeError for what they cannot be."""
    count = _within("tokens", fields["tokens"], MOST_TOKENS)
    seed = fields["seed"] if fields["seed"] is None else checks.seed("seed", fields["seed"])
    groups = [
        {"form": checks.text("form", group["form"]), "since": _within("since", group["since"], count),
         "width": _within("width", group["width"], MOST_WIDTH)}
        for group in checks.items("groups", fields["groups"], "a list")
    ]  # fmt: skip
    return {
        "model": checks.text("model", fields["model"]), "seed": seed, "tokens": count, "groups": groups,
        "bulk": _within("bulk", fields["bulk"], count),
        "logits": _within("logits", fields["logits"], MOST_TOKENS),
        "scales": [checks.number("scale", scale) for scale in checks.items("scales", fields["scales"], "a list")],
    }  # fmt: skip


def _within(name: str, value: object, most: int) -> int:
    count = checks.whole(name, value, 0)
    if count > most:
        raise GGUFError(f"{name} is {count}, and can be at most {most}")
    return count


def _hash(parts: Iterable[bytes | memoryview]) -> bytes:
    from xxhash import xxh3_128

    digest = xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.digest()


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file that is whole or not there. Raises GGUFError where it cannot be written."""
    from ggufpy.format.atomic import AtomicFile

    with AtomicFile(checks.path("path", path), len(data)) as out:
        out.file.write(data)


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file. Raises GGUFError for one that cannot be read, or is no saved state."""
    name = checks.path("path", path)
    try:
        with open(name, "rb") as file:
            start = file.read(PREFIX.size + MOST_HEAD)
            head = read_head(memoryview(start), name)
            head.check_size(os.fstat(file.fileno()).st_size, name)
            return start + file.read()
    except OSError as error:
        raise GGUFError(f"cannot read {name}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL inside the name
        raise error if isinstance(error, GGUFError) else GGUFError(f"cannot read {name!r}: {error}") from None
