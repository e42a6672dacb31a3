"""What a sequence holds, taken out of the cache and put back: into another sequence, of another process too.

Rows of bytes by position and group of layers, as `Program.read_page` makes them: they depend on the plan and on the
types of the cache, and neither on the vector length nor on how pages were shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

from .pages import PAGE

if TYPE_CHECKING:
    from ggufpy.backends.program import Program

    from .holding import Pool
    from .sequence import Sequence

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class GroupRows:
    """What a group of layers holds of a text of n positions: those from `since` on, `rows` (n - since, bytes).

    `form` says what the bytes are; a group of a cache takes rows of its own form alone.
    """

    form: str
    since: int
    rows: Bytes


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A text and what layers hold of it. The first `bulk` of `tokens` were read in bulk; `scales` are of adapters."""

    tokens: tuple[int, ...]
    bulk: int
    scales: tuple[float, ...]
    groups: tuple[GroupRows, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(group.rows.nbytes for group in self.groups)


def forms(pools: tuple[Pool, ...], program: Program) -> tuple[str, ...]:
    """What the rows of each group are made of, and what it keeps."""
    return tuple(f"{program.form(i)} ({pool.cache.layers})" for i, pool in enumerate(pools))


def taken(sequence: Sequence, n: int, program: Program, names: tuple[str, ...]) -> tuple[GroupRows, ...]:
    """What a sequence holds of its first n positions. Raises GGUFError as `Sequence.truncate` does."""
    groups = []
    for group, (name, (since, pages)) in enumerate(zip(names, sequence.wanted(n), strict=True)):
        rows = np.empty((n - since, program.row_bytes(group)), np.uint8)
        for i, page in enumerate(pages, start=since // PAGE):
            start, stop = max(since, i * PAGE), min(n, (i + 1) * PAGE)
            part = program.read_page(group, page)
            rows[start - since : stop - since] = part[start - i * PAGE : stop - i * PAGE]
        groups.append(GroupRows(name, since, rows))
    return tuple(groups)


def put_back(
    sequence: Sequence, groups: tuple[GroupRows, ...], n: int, program: Program, pools: tuple[Pool, ...]
) -> None:
    """Makes an empty sequence one of n positions, of rows that have been checked.

    Raises GGUFError, and the sequence is closed, for numbers that are not finite, and where there are not enough pages.
    """
    # what windows have forgotten since is not put back: the sequence holds no more than if it had been read here
    since = [max(g.since, pool.cache.first(n) * PAGE) for g, pool in zip(groups, pools, strict=True)]
    try:
        for group, pages in enumerate(sequence.begin(since, n)):
            rows, first = groups[group].rows, groups[group].since
            for i, page in enumerate(pages, start=since[group] // PAGE):
                start, stop = max(since[group], i * PAGE), min(n, (i + 1) * PAGE)
                part = np.zeros((PAGE, rows.shape[1]), np.uint8)
                part[start - i * PAGE : stop - i * PAGE] = rows[start - first : stop - first]
                program.write_page(group, page, part)
        sequence.advance(n)
    except BaseException:
        sequence.close()
        raise


def check(groups: tuple[GroupRows, ...], n: int, program: Program, pools: tuple[Pool, ...]) -> None:
    """Raises GGUFError for rows of another cache, or fewer than what follows n positions sees."""
    saved, names = tuple(group.form for group in groups), forms(pools, program)
    if saved != names:
        theirs, ours = (" and ".join(some) for some in (saved, names))
        raise GGUFError(
            f"what was saved is of a cache of {theirs}; this one has {ours}: load the model with the same types of "
            "cache (cache_type_k, cache_type_v) and the same n_ctx"
        )
    for i, (group, pool) in enumerate(zip(groups, pools, strict=True)):
        held = 0 <= group.since <= n and pool.cache.suffices(group.since, n)
        if not held or group.rows.shape != (n - group.since, program.row_bytes(i)):
            shape = " x ".join(map(str, group.rows.shape))
            raise GGUFError(
                f"what was saved has {shape} bytes from position {group.since} on for a text of {n}: it is damaged, "
                "save it again"
            )
