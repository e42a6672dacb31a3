"""Hashes of tensor data, as llama.cpp's examples/gguf-hash prints and checks them: by tensor, and of all data in order.

In: an open file, or a whole split set (its data hash as those of the merged file do). Out: hexadecimal digests.
Metadata and padding are not hashed. A manifest has lines `ALGORITHM  DIGEST  FILE:TENSOR` and, for all data,
`ALGORITHM  DIGEST  FILE`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import xxhash

from ggufpy.errors import GGUFError
from ggufpy.format.reader import GGUFFile
from ggufpy.support.records import dataclass

HASHED_BYTES = 4 << 20  # bytes that all hashes take before the next are read: they come from a cache then

_LINE = re.compile(r"\s*(\S+)\s+(\S+)\s+(\S[^\n]*)\n?")

Progress = Callable[[str, int, int], None]


class Hash(Protocol):
    """What hashlib and xxhash have in common."""

    def update(self, data: Any, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        ...


# In the order in which gguf-hash prints them.
ALGORITHMS: dict[str, Callable[[], Hash]] = {
    "xxh64": xxhash.xxh64,
    "xxh3": xxhash.xxh3_64,
    "sha1": hashlib.sha1,
    "sha256": hashlib.sha256,
}


@dataclass(frozen=True)
class Digests:
    """Digests by algorithm of one tensor, or of all data in order (tensor "")."""

    tensor: str
    by: dict[str, str]


def digests(
    file: GGUFFile, algorithms: Sequence[str], *, layers: bool = True, progress: Progress | None = None
) -> Iterator[Digests]:
    """Digests of each tensor (unless not `layers`), in file order, then of all data.

    The hashes of one piece of data run at the same time, as many as the machine has cores.
    """
    whole = {name: ALGORITHMS[name]() for name in algorithms}
    total, done = sum(t.nbytes for t in file.tensors.values()), 0
    with ThreadPoolExecutor(max(len(algorithms) * 2, 1)) as pool:
        for tensor in file.tensors.values():
            own = {name: ALGORITHMS[name]() for name in algorithms if layers}
            running = [*whole.values(), *own.values()]
            flat = tensor.data.reshape(-1)
            for start in range(0, flat.size, HASHED_BYTES):
                part = flat[start : start + HASHED_BYTES]
                list(pool.map(lambda h, part=part: h.update(part), running))
                done += part.size
                if progress is not None:
                    progress("hash", done, total)
            tensor.release()
            if layers:
                yield Digests(tensor.name, {name: h.hexdigest() for name, h in own.items()})
    yield Digests("", {name: h.hexdigest() for name, h in whole.items()})


@dataclass(frozen=True)
class Manifest:
    """What a manifest says of one file: digests by (algorithm, tensor), "" for all data."""

    expected: dict[tuple[str, str], str]
    unknown: tuple[str, ...]  # names of tensors that the file does not have

    def algorithms(self) -> list[str]:
        """Those it has lines of, of those known here."""
        have = {algorithm for algorithm, _ in self.expected}
        return [name for name in ALGORITHMS if name in have]


def read_manifest(path: Path, file: GGUFFile, written: Callable[[str], str] = str) -> Manifest:
    """The lines of a manifest that are about `file`, which may have moved or been renamed since.

    A line of several files' manifest belongs to `file` by its name without folders; `written` is how names were
    written into it. Raises GGUFError where the manifest cannot be read or has no line of a known algorithm about the
    file.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            entries = [entry for line in lines if (entry := _LINE.fullmatch(line)) and entry[1] in ALGORITHMS]
    except (OSError, ValueError) as e:  # a NUL inside the name
        raise GGUFError(f"cannot read {path}: {(isinstance(e, OSError) and e.strerror) or e}") from None
    if not entries:
        raise GGUFError(f"{path} has no line of {', '.join(ALGORITHMS)}; `ggufpy hash FILE > MANIFEST` writes one")
    tensors = {written(name): name for name in file.tensors} | {name: name for name in file.tensors}
    named = [(entry[1], entry[2].lower(), *_names(entry[3], tensors)) for entry in entries]
    about = _files(named, {str(file.path), written(str(file.path))})
    mine = [entry for entry in named if entry[2] in about]
    if not mine:
        others = sorted({Path(name).name for _, _, name, _ in named})
        raise GGUFError(f"{path} says nothing of {file.path.name}; it is about {', '.join(others[:3])}")
    return Manifest(
        {(algorithm, tensor): digest for algorithm, digest, _, tensor in mine if not tensor or tensor in file.tensors},
        tuple(dict.fromkeys(tensor for *_, tensor in mine if tensor and tensor not in file.tensors)),
    )


def _names(name: str, tensors: Mapping[str, str]) -> tuple[str, str]:
    """The file and the tensor that FILE:TENSOR or FILE stands for; both may have colons in them.

    `tensors` are those of the file, by their names as a manifest has them.
    """
    cuts = [i for i, c in enumerate(name) if c == ":"]
    for end in (None, len(name.rstrip())):  # spaces at the end may be of the name, or of an editor
        for i in cuts:
            if (known := tensors.get(name[i + 1 : end])) is not None:
                return name[:i], known
    name = name.rstrip()
    at = name.find(".gguf:")
    if at >= 0:  # a tensor that the file does not have
        return name[: at + 5], name[at + 6 :]
    return name, ""


def _files(named: Iterable[tuple[str, str, str, str]], paths: set[str]) -> set[str]:
    """The file names of a manifest that mean the file with `paths`: its own name, else the only one there is."""
    names = {name for _, _, name, _ in named}
    same = {name for name in names if Path(name).name in {Path(path).name for path in paths}}
    if names & paths:
        return names & paths
    return same or (names if len(names) == 1 else set())
