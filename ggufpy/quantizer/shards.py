"""The files that are written: one, as many as the source has (--keep-split), or as many as limits of size ask for."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ggufpy.format import Typed
from ggufpy.format.header import parse
from ggufpy.format.split import cut, shard_name
from ggufpy.format.writer import file_size
from ggufpy.quantizer.options import QuantizeOptions
from ggufpy.quantizer.recipe import Job
from ggufpy.quantizer.source import QuantizeSource
from ggufpy.support.records import dataclass

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
    source: QuantizeSource, target: Path, jobs: Sequence[Job], metadata: Mapping[str, Typed], options: QuantizeOptions
) -> list[Shard]:
    """One file called `target`; or files as llama-split names them: cut at `options.limits`, or as the source is split
    where `options.keep_split` is set.

    The first has the metadata; split.no, split.count and split.tensors.count are in all.
    """
    if options.limits is not None:
        sizes = [(job.tensor.name, job.nbytes) for job in jobs]
        parts = [tuple(names) for names in cut(sizes, options.limits)]
    elif options.keep_split:
        parts = [_names(path) for path in source.files]
    else:
        parts = [()]
    if len(parts) == 1:
        return [Shard(target, metadata, jobs)]
    stem, by_name, shards = _ENDING.sub("", target.name), {job.tensor.name: job for job in jobs}, []
    for i, names in enumerate(parts):
        keys = {
            "split.no": Typed("uint16", i),
            "split.count": Typed("uint16", len(parts)),
            "split.tensors.count": Typed("int32", len(jobs)),
        }
        path = target.with_name(shard_name(stem, i + 1, len(parts)))
        shards.append(Shard(path, {**metadata, **keys} if i == 0 else keys, [by_name[name] for name in names]))
    return shards


def _names(path: str) -> tuple[str, ...]:
    """The tensors of one file of a set that was opened already."""
    with open(path, "rb") as file:
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return tuple(parse(buffer, path).tensors)
