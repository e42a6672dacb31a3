"""Text completions, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.api.openai.asked import Asked, Prompt
from ggufpy.api.openai.model import Model, Record
from ggufpy.api.openai.shapes import Clock, Last, chunk_head, head, timings, token_text
from ggufpy.api.openai.texts import Delta
from ggufpy.api.shape import Spent

KIND = "text_completion"


class TextShape:
    """How a text completion is told."""

    def __init__(self, llm: Model, asked: Asked, timed: bool = False) -> None:
        self._llm, self._asked, self.clock = llm, asked, Clock(timed)
        self._head = chunk_head(asked, KIND)
        self._last = Last(asked, KIND)
        # Characters before each choice's next token
        self._at = [asked.prompt(number).start for number in range(len(asked.samplings))]
        self._of_prompts: list[Record] = []

    def prepare(self) -> None:
        """Logprobs of prompts that are echoed with them."""
        asked = self._asked
        if asked.logprobs is not None and any(prompt.echo for prompt in asked.prompts):
            self._of_prompts = [_of_prompt(self._llm, asked, prompt) for prompt in asked.prompts]

    def _of_prompt(self, number: int) -> Record | None:
        return self._of_prompts[number // self._asked.per_prompt] if self._of_prompts else None

    def begin(self) -> Iterator[Record]:
        """The prompts, where they are echoed."""
        for number in range(len(self._at)):
            if echo := self._asked.prompt(number).echo:
                yield {**self._head, "choices": [_choice(number, echo, self._of_prompt(number), None)]}

    def delta(self, number: int, delta: Delta) -> Iterator[Record]:
        """What is said; the last of each choice has a `finish_reason`."""
        asked, at = self._asked, self._at
        text = delta.text + (asked.suffix if delta.finish and asked.echo else "")
        if text or delta.finish or (asked.logprobs is not None and delta.token is not None):
            logprobs = None if asked.logprobs is None else _logprobs(self._llm, [delta], at[number])
            chunk = {**self._head, **self.clock.now(number), "choices": [_choice(number, text, logprobs, delta.finish)]}
            yield from self._last.finished(chunk) if delta.finish else (chunk,)
        at[number] += delta.length

    def end(self, spent: Spent) -> Iterator[Record]:
        """The last chunk, with what it took where that is wanted."""
        yield from self._last.end(spent)

    def whole(self, said: Sequence[Sequence[Delta]], spent: Spent) -> Record:
        """A completion in one dict."""
        asked, llm = self._asked, self._llm
        choices = []
        for number, deltas in enumerate(said):
            prompt, known = asked.prompt(number), self._of_prompt(number)
            text = prompt.echo + "".join(delta.text for delta in deltas) + (asked.suffix if asked.echo else "")
            logprobs = None if asked.logprobs is None else _logprobs(llm, deltas, prompt.start)
            if known is not None and logprobs is not None:
                logprobs = {name: [*known[name], *logprobs[name]] for name in logprobs}
            choices.append(_choice(number, text, logprobs, deltas[-1].finish))
        return {**head(asked, KIND), "choices": choices, "usage": spent.usage, **timings(spent)}


def _choice(number: int, text: str, logprobs: Record | None, finish: str | None) -> Record:
    return {"text": text, "index": number, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(llm: Model, said: Sequence[Delta], start: int) -> Record:
    """OpenAI's `logprobs`; `start` is the length of the text before the first delta."""
    offsets, at = [], start
    for delta in said:
        offsets.append(at)
        at += delta.length
    tokens = [(p.token, p) for p in said if p.token is not None]
    return {
        "tokens": [token_text(llm, token) for token, _ in tokens],
        "text_offset": [at for at, delta in zip(offsets, said, strict=True) if delta.token is not None],
        "token_logprobs": [delta.logprob for _, delta in tokens],
        "top_logprobs": [_top(llm, token, delta.logprob, delta.top) for token, delta in tokens],
    }


def _top(llm: Model, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> dict[str, float]:
    """The likeliest tokens by their texts, and the one that came; of several with one text the likeliest counts."""
    named: dict[str, float] = {}
    for other, value in top:
        named.setdefault(token_text(llm, other), value)
    named.setdefault(token_text(llm, token), logprob)
    return named


def _of_prompt(llm: Model, asked: Asked, prompt: Prompt) -> Record:
    """`logprobs` of the prompt's tokens, but for a beginning token; nothing comes before the first, so it has none."""
    tokens = list(prompt.tokens)
    values = llm.prompt_logprobs(tokens, asked.logprobs or 0)
    made: Record = {"tokens": [], "text_offset": [], "token_logprobs": [], "top_logprobs": []}
    decoder, at = llm.tokenizer.stream(), 0
    for i, token in enumerate(tokens):
        text = decoder.push(token)
        if i == 0 and token == llm.tokenizer.bos:
            continue
        made["tokens"].append(token_text(llm, token))
        made["text_offset"].append(min(at, len(prompt.echo)))
        known = None if i == 0 else values[i - 1]
        made["token_logprobs"].append(None if known is None else known[0])
        made["top_logprobs"].append(None if known is None else _top(llm, token, known[0], known[1]))
        at += len(text)
    return made
