"""Responses that are kept, so that others may go on from them: in memory, the newest, until the server ends.

What a response was made from it shares with the one that it goes on from, and is kept as long as one of both is.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any

from ggufpy.server.families import encode
from ggufpy.server.problems import NOT_FOUND, Problem
from ggufpy.support.records import dataclass

Record = dict[str, Any]

MOST = 1000  # responses
MOST_BYTES = 64 << 20  # of them and of what they were made from, as JSON


class Link:
    """Items of a conversation, behind those of another link, as JSON: `size` says what is held. `users`: how many
    responses and links have it."""

    def __init__(self, before: Link | None, items: Sequence[Record], more: int = 0) -> None:
        self.before, self._said, self.users = before, encode(list(items)), 0
        self.size = len(self._said) + more

    def all(self) -> list[Record]:
        """All items from the conversation's beginning."""
        links = [*_chain(self)]
        return [item for each in reversed(links) for item in json.loads(each._said)]


@dataclass(frozen=True)
class Kept:
    """A response: whose it is, itself as JSON, what it was made from, and that with what it said."""

    owner: str
    said: bytes
    input: Link
    whole: Link

    @property
    def record(self) -> Record:
        """The response."""
        made: Record = json.loads(self.said)
        return made


class Responses:
    """What a server keeps. An owner, which is an API key, has their own responses only. Any thread may ask."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._lock = Lock()
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # by id, the one that was wanted last at the end
        self._items: dict[tuple[str, str], str] = {}  # which response has said an item, by owner and id
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, owner: str, record: Record, before: Link | None, given: Sequence[Record]) -> None:
        """Keeps a response that was made from `given` items behind `before`."""
        said, read = encode(record), Link(before, given)
        whole = Link(read, record["output"], len(said))
        with self._lock:
            self._kept[record["id"]] = Kept(owner, said, read, whole)
            self._use(whole)
            for item in record["output"]:
                self._items[owner, item["id"]] = record["id"]
            while self._kept and (len(self._kept) > self._most or self.size > self._most_bytes):
                self._drop(next(iter(self._kept)))

    def find(self, owner: str, name: str, param: str | None = None) -> Kept:
        """A response by its id. Raises Problem 404 where it is not, or no more, kept."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None and kept.owner == owner:
                self._kept.move_to_end(name)
                return kept
        raise self._missing("response", name, param)

    def item(self, owner: str, name: str) -> Record:
        """An item that a response has said, by its id. Raises Problem 404 as `find` does."""
        with self._lock:
            kept = self._kept.get(self._items.get((owner, name), ""))
        if kept is None:
            raise self._missing("item", name, "input")
        return next(item for item in kept.record["output"] if item["id"] == name)

    def delete(self, owner: str, name: str) -> None:
        """Forgets a response; others that go on from it stay. Raises Problem 404 as `find` does."""
        self.find(owner, name)
        with self._lock:
            if name in self._kept:
                self._drop(name)

    def _missing(self, kind: str, name: str, param: str | None) -> Problem:
        told = (
            f"{kind} {name[:80]!r} is not kept: the server keeps the newest {self._most:,} responses "
            f"({self._most_bytes >> 20} MB) that were made with store, in memory, until it ends"
        )
        code = "previous_response_not_found" if param == "previous_response_id" else "not_found"
        return Problem(NOT_FOUND, told, code, param)

    def _use(self, link: Link | None) -> None:
        for each in _chain(link):
            each.users += 1
            if each.users > 1:
                return
            self.size += each.size

    def _drop(self, name: str) -> None:
        kept = self._kept.pop(name)
        for item in kept.record["output"]:
            self._items.pop((kept.owner, item["id"]), None)
        for each in _chain(kept.whole):
            each.users -= 1
            if each.users:
                return
            self.size -= each.size


def _chain(link: Link | None) -> Iterator[Link]:
    while link is not None:
        yield link
        link = link.before
