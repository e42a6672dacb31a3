"""How prompts share the rows of a step: short ones do not wait for long ones, none waits for ever, and those who write
do not wait long for any.

A share of the rows is the oldest prompt's, whatever else there is; the others are given to whoever has fewest tokens
left. So what fits into three quarters of a step's room is read in the next step, however many long prompts came before
it, and a prompt whose turn it is by arrival gets on under an endless stream of short ones: with n tokens of its own
and of all before it, it has been read after at most 4 · n / room steps, where n / room would do without others.

While texts are written the room is what can be read in a time (`Pace`), because a step is also how long each of them
waits for its next token: 512 tokens of a model of 7 billion weights take seconds on a few cores. A prompt then takes
more steps, each of which has a token of every text in it. How a text is cut into steps changes none of its bits.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import NamedTuple

OLDEST = 4  # a part in so many of the room is the oldest prompt's
LEAST = 16  # rows for prompts that a step has in any case, and fewest that say how fast they are read


class Wish(NamedTuple):
    """What a prompt wants of a step: it has `left` tokens to be read, of which the step can take `most`."""

    left: int
    most: int


def shares(wishes: Items[Wish], room: int, whole: bool = False) -> list[int]:
    """How many tokens of each prompt a step with room for `room` takes; prompts are in order of arrival.

    `whole`: prompts cannot be cut, and the oldest is all that is sure to be read.
    """
    counts = [0] * len(wishes)
    if not wishes:
        return counts
    if not whole:
        counts[0] = min(wishes[0].most, -(-room // OLDEST))
    elif wishes[0].most <= room:
        counts[0] = wishes[0].most
    room -= counts[0]
    for i in sorted(range(len(wishes)), key=lambda i: wishes[i].left):
        more = min(wishes[i].most - counts[i], room)
        if not whole or counts[i] + more == wishes[i].left:
            counts[i] += more
            room -= more
    return counts


class Pace:
    """How many rows of prompts take a given time, by how long the latest steps with prompts took."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds  # 0: any time will do
        self._row = 0.0  # seconds that a row took lately, with its part of all else that is in a step

    def note(self, rows: int, seconds: float) -> None:
        """A step with so many rows of prompts took so long."""
        if rows >= LEAST:
            self._row = (self._row + seconds / rows) / 2 if self._row else seconds / rows

    @property
    def rows(self) -> int | None:
        """None: any number, or nothing is known yet."""
        if not self._seconds or not self._row:
            return None
        return max(int(self._seconds / self._row), LEAST)
