"""How prompts share the rows of a step: short ones do not wait for long ones, and none waits for ever.

A share of the rows is the oldest prompt's, whatever else there is; the others are given to whoever has fewest tokens
left. So what fits into three quarters of a step's room is read in the next step, however many long prompts came before
it, and a prompt whose turn it is by arrival gets on under an endless stream of short ones: with n tokens of its own
and of all before it, it has been read after at most 4 · n / room steps, where n / room would do without others.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import NamedTuple

OLDEST = 4  # a part in so many of the room is the oldest prompt's


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
