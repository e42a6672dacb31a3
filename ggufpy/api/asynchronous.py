"""Completions for asyncio: each call waits on a thread of its own, and the model evaluates them together.

A call whose task is cancelled ends before the model's next step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from ggufpy.api.completing import Completions
from ggufpy.api.embedding import Embeddings
from ggufpy.api.openai.model import Record
from ggufpy.support import checks

if TYPE_CHECKING:  # who does not await imports neither asyncio nor threads for it: 40 ms of a start
    from concurrent.futures import ThreadPoolExecutor

    from ggufpy.api.openai.texts import Job

T = TypeVar("T")
MOST_THREADS = 256  # calls that can wait at once; the next ones wait for their threads


class AsyncCompletions(Completions, Embeddings):
    """The twins of `create_completion` and others, for `await`."""

    _workers: ThreadPoolExecutor | None = None
    _beginning = Lock()

    async def acreate_completion(
        self, prompt: str | Sequence[int], max_tokens: int | None = 16, *, stream: bool = False, **options: Any
    ) -> Record | AsyncIterator[Record]:
        """`create_completion`; with `stream` what it gives is for `async for`."""
        from ggufpy.api import shape
        from ggufpy.api.openai.text import TextShape

        one_by_one = checks.switch("stream", stream)
        job = await self._on_thread(partial(self._text_job, prompt, max_tokens, options))
        form = TextShape(self, job.asked)
        if one_by_one:
            return self._streamed(shape.chunks(job, form), job.cancel)
        return await self._whole(job, partial(shape.whole, job, form))

    async def acreate_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
        *,
        stream: bool = False,
        **options: Any,
    ) -> Record | AsyncIterator[Record]:
        """`create_chat_completion`; with `stream` what it gives is for `async for`."""
        from ggufpy.api import shape
        from ggufpy.api.openai.chat import ChatShape

        if self.chat_handler is not None:
            call = partial(self.create_chat_completion, messages, max_tokens, stream=stream, **options)
            made = await self._on_thread(call)
            return made if isinstance(made, Mapping) else self._streamed(iter(made), lambda: None)
        one_by_one = checks.switch("stream", stream)
        job = await self._on_thread(partial(self._chat_job, messages, max_tokens, options))
        form = ChatShape(self, job.asked)
        if one_by_one:
            return self._streamed(shape.chunks(job, form), job.cancel)
        return await self._whole(job, partial(shape.whole, job, form))

    async def acreate_embedding(self, input: str | Sequence[str], model: str | None = None, **options: Any) -> Record:
        """`create_embedding`."""
        return await self._on_thread(partial(self.create_embedding, input, model, **options))

    async def aembed(self, input: str | Sequence[str], **options: Any) -> Any:
        """`embed`."""
        return await self._on_thread(partial(self.embed, input, **options))

    async def _whole(self, job: Job, make: Callable[[], Record]) -> Record:
        try:
            return await self._on_thread(make)
        finally:  # nothing is left to end, unless the task was cancelled
            job.cancel()

    async def _streamed(self, chunks: Iterator[Record], end: Callable[[], None]) -> AsyncIterator[Record]:
        """The chunks, each waited for on a thread; `end` is called with the last, and where nobody wants the rest."""
        try:
            while (chunk := await self._on_thread(partial(next, chunks, None))) is not None:
                yield chunk
        finally:
            end()

    async def _on_thread(self, work: Callable[[], T]) -> T:
        import asyncio

        with self._beginning:
            if self._workers is None:
                from concurrent.futures import ThreadPoolExecutor

                self._workers = ThreadPoolExecutor(MOST_THREADS, "ggufpy-call")
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    def close(self) -> None:
        """See Llama."""
        super().close()
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.shutdown(wait=False)
