"""The files that are written: one, or with --keep-split as many as the source has, each with its tensors."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufpy.format import GGUFFile, Typed
from ggufpy.format.header import parse
from ggufpy.format.writer import file_size
from ggufpy.quantizer.recipe import Job

_ENDING = re.compile(r"(-\d{5}-of-\d{5})?\.gguf$")


@dataclass(frozen=True)
class Shard:
    """A file to be written: its path, metadata, and jobs in order."""

    path: Path
    metadata: Mapping[str, Typed]
    jobs: Sequence[Job]

    @property
    def size(self) -> int:
        """Bytes that the file will have."""
        return file_size(self.metadata, [job.info for job in self.jobs])


def shards_of(
    file: GGUFFile, target: Path, jobs: Sequence[Job], metadata: Mapping[str, Typed], keep: bool
) -> list[Shard]:
    """One file called `target`; or where `keep` is set and the source is split, files as llama-split names them.

    The first has the metadata; split.no, split.count and split.tensors.count are in all.
    """
    if not keep or len(file.files) == 1:
        return [Shard(target, metadata, jobs)]
    count = len(file.files)
    stem = _ENDING.sub("", target.name)
    by_name = {job.tensor.name: job for job in jobs}
    shards = []
    for i, path in enumerate(file.files):
        keys = {
            "split.no": Typed("uint16", i),
            "split.count": Typed("uint16", count),
            "split.tensors.count": Typed("int32", len(jobs)),
        }
        own = [by_name[name] for name in _names(path)]
        name = f"{stem}-{i + 1:05d}-of-{count:05d}.gguf"
        shards.append(Shard(target.with_name(name), {**metadata, **keys} if i == 0 else keys, own))
    return shards


def _names(path: str) -> list[str]:
    """The tensors of one file of a set that was opened already."""
    with open(path, "rb") as file:
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return list(parse(buffer, path).tensors)
