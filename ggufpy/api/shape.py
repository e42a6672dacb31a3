"""How one call's answer is told: what every interface's answers have in common.

In: deltas of its choices (`openai/texts.py`), as they come. Out: the records of a stream, or one record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.api.openai.texts import Delta, Job

Record = dict[str, Any]


@dataclass(frozen=True)
class TextSpent:
    """What one text of a call took, as `Spent`; `place` is the number of the place that it had, None where none."""

    prompt: int
    cached: int
    completion: int
    place: int | None = None
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class Spent:
    """What a call took: tokens of its prompt, how many of them were read before, and tokens of all its choices.

    Seconds: from the call until it began to be evaluated (waiting for its model, of that `load_seconds`, and for a
    place), from then to its first token, and from there to its end. They are 0 where nobody took the time. `texts` are
    those of its choices, in order, where somebody keeps an account of each.
    """

    prompt: int
    cached: int
    completion: int
    wait_seconds: float = 0.0
    load_seconds: float = 0.0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    texts: tuple[TextSpent, ...] = ()

    @property
    def usage(self) -> Record:
        """OpenAI's counts."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class Shape(Protocol):
    """One call's answer. `prepare` first, then either `begin`, `delta` for each and `end`, or `whole`."""

    def prepare(self) -> None:
        """What must be evaluated beside the texts; it may take long."""

    def begin(self) -> Iterator[Record]:
        """The stream's first records."""

    def delta(self, number: int, delta: Delta) -> Iterator[Record]:
        """The records of a delta of choice `number`, if any."""

    def end(self, spent: Spent) -> Iterator[Record]:
        """The stream's last records."""

    def whole(self, said: Sequence[Sequence[Delta]], spent: Spent) -> Record:
        """The answer in one record; `said` has the deltas of every choice."""


def chunks(job: Job, shape: Shape) -> Iterator[Record]:
    """A stream's records, each evaluated when it is asked for."""
    shape.prepare()
    yield from shape.begin()
    for number, delta in job.deltas():
        yield from shape.delta(number, delta)
    yield from shape.end(job.spent)


def whole(job: Job, shape: Shape) -> Record:
    """The answer in one record."""
    shape.prepare()
    said: list[list[Delta]] = [[] for _ in job.asked.samplings]
    for number, delta in job.deltas():
        said[number].append(delta)
    return shape.whole(said, job.spent)
