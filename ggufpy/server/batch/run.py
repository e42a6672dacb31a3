"""Answers a batch: as many requests at work as the model has places, and some that are prepared behind them."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ggufpy.server.batch.answers import Answers
from ggufpy.server.batch.calls import prepare
from ggufpy.server.batch.lines import Line, digest
from ggufpy.server.families import encode
from ggufpy.server.families.openai import OPENAI
from ggufpy.server.problems import FAILED, Problem
from ggufpy.server.responses_store import Responses
from ggufpy.server.served import Served
from ggufpy.server.work import Prepared, Work
from ggufpy.support import console

if TYPE_CHECKING:
    from ggufpy.llm import Llama

Record = dict[str, Any]
Told = Callable[[str, int, int], None]

PREPARING = 2  # requests that are looked at at once: templates, tokens, grammars
WINDOW = 512  # requests of which those that begin alike are asked one behind the other
BEGIN = 8192  # bytes of a request that say whether it begins as another
PROMPTS = ("tools", "instructions", "messages", "input", "prompt")  # of a body, in the order in which models read them
STAGE = "answering requests"


@dataclass
class Outcome:
    """What a run has done. Tokens of prompts, and those of them that had been read before; seconds."""

    requests: int = 0
    failed: int = 0
    skipped: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of the answers of all requests together."""
        return self.tokens / self.seconds if self.seconds else 0.0


def alike(lines: Iterable[Line], window: int = WINDOW) -> Iterator[Line]:
    """The lines, of which some at a time are put in the order of how they begin: what they share is read once."""
    rest = iter(lines)
    while some := list(islice(rest, window)):
        yield from sorted(some, key=_beginning)


def _beginning(line: Line) -> tuple[str, bytes]:
    said = [line.body[name] for name in PROMPTS if line.body.get(name) is not None]
    return line.url, encode(said)[:BEGIN]


def answer(llm: Llama, name: str, lines: Iterable[Line], answers: Answers, told: Told, total: int) -> Outcome:
    """Answers the lines that have no answer yet; `told` hears how many of `total` are done. The model is closed then.

    Raises GGUFError where an answer cannot be written.
    """
    return asyncio.run(_Run(llm, name, answers, told, total).run(lines))


class _Run:
    """One run over a batch, on an event loop of its own."""

    def __init__(self, llm: Llama, name: str, answers: Answers, told: Told, total: int) -> None:
        self._llm, self._name, self._answers = llm, name, answers
        self._told, self._total = told, total
        self._outcome = Outcome()
        self._kept = Responses(most=0)  # a batch ends before anybody could go on from one

    async def run(self, lines: Iterable[Line]) -> Outcome:
        """See `answer`."""
        start, places = time.monotonic(), self._llm.n_parallel()
        self._served = Served(self._name, self._llm, 0)
        self._preparing = ThreadPoolExecutor(PREPARING, "ggufpy-prepare")
        self._calling = ThreadPoolExecutor(places, "ggufpy-vectors")
        pending: set[asyncio.Task[None]] = set()
        try:
            for line in lines:
                if digest(line.custom_id) in self._answers.done:
                    self._outcome.skipped += 1
                    continue
                if len(pending) >= places + PREPARING * 2:
                    pending = await self._some(pending)
                pending.add(asyncio.create_task(self._one(line)))
            while pending:
                pending = await self._some(pending)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            for threads in (self._preparing, self._calling):
                threads.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(self._served.close)
        self._outcome.seconds = time.monotonic() - start
        return self._outcome

    async def _some(self, pending: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Waits until some are done. Raises what one has failed with: its answer could not be written."""
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        return pending

    async def _one(self, line: Line) -> None:
        """Answers a line; what is wrong with it is its answer."""
        try:
            status, body = 200, await self._record(line)
        except Problem as problem:
            status, body = problem.status, OPENAI.error(problem)
        except Exception as error:  # a fault of ours: the others go on
            console.note(f"ggufpy: line {line.number}: {traceback.format_exc()}")
            told = Problem(FAILED, f"ggufpy has failed: {type(error).__name__}: {error}", "internal_error")
            status, body = told.status, OPENAI.error(told)
        response = {"status_code": status, "request_id": f"req_{uuid4().hex}", "body": body}
        record = {"id": f"batch_req_{uuid4().hex}", "custom_id": line.custom_id, "response": response, "error": None}
        self._answers.add(line.custom_id, record)
        self._outcome.requests += 1
        self._outcome.failed += status != 200
        self._told(STAGE, self._outcome.requests, self._total)

    async def _record(self, line: Line) -> Record:
        """What answers a line. Raises Problem for what cannot be."""
        loop, body = asyncio.get_running_loop(), {**line.body, "model": self._name}
        made = await loop.run_in_executor(self._preparing, self._prepared, line.url, body)
        if isinstance(made, tuple):
            return await self._text(*made)
        async with self._served.queue.place(""):
            record = await loop.run_in_executor(self._calling, made)
        self._outcome.prompt_tokens += record["usage"]["prompt_tokens"]
        return record

    def _prepared(self, url: str, body: Record) -> tuple[Prepared, Work] | Callable[[], Record]:
        made = prepare(self._llm, url, body, self._kept)
        if not isinstance(made, Prepared):
            return made
        made.shape.prepare()
        return made, Work(self._served, made, "")

    async def _text(self, prepared: Prepared, work: Work) -> Record:
        said: list[list[Any]] = [[] for _ in prepared.asked.samplings]
        async with aclosing(work.deltas()) as deltas:
            async for made in deltas:
                for number, delta in made:
                    said[number].append(delta)
        spent, outcome = work.spent, self._outcome
        outcome.prompt_tokens += spent.prompt
        outcome.cached_tokens += spent.cached
        outcome.tokens += spent.completion
        return prepared.shape.whole(said, spent)
