"""Text completions, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.api.openai.model import Model, Record
from ggufpy.api.openai.shapes import head, token_text, usage_chunk
from ggufpy.api.openai.texts import Delta, Job

KIND = "text_completion"


def chunks(job: Job) -> Iterator[Record]:
    """Chunks of a streamed completion; the last of each choice has a `finish_reason`."""
    asked, llm = job.asked, job.llm
    first = head(asked, KIND)
    at = [asked.start] * len(asked.samplings)
    if asked.echo:
        logprobs = _of_prompt(llm, job) if asked.logprobs is not None else None
        for number in range(len(at)):
            yield {**first, "choices": [_choice(number, asked.echo, logprobs, None)]}
    for number, delta in job.deltas():
        text = delta.text + (asked.suffix if delta.finish and asked.echo else "")
        if text or delta.finish or asked.logprobs is not None:
            logprobs = None if asked.logprobs is None else _logprobs(llm, [delta], at[number])
            yield {**first, "choices": [_choice(number, text, logprobs, delta.finish)]}
        at[number] += delta.length
    if asked.include_usage:
        yield usage_chunk(asked, KIND, job.usage)


def whole(job: Job) -> Record:
    """A completion in one dict."""
    asked, llm = job.asked, job.llm
    said: list[list[Delta]] = [[] for _ in asked.samplings]
    for number, delta in job.deltas():
        said[number].append(delta)
    prompt = _of_prompt(llm, job) if asked.echo and asked.logprobs is not None else None
    choices = []
    for number, deltas in enumerate(said):
        text = asked.echo + "".join(delta.text for delta in deltas) + (asked.suffix if asked.echo else "")
        logprobs = None if asked.logprobs is None else _logprobs(llm, deltas, asked.start)
        if prompt is not None and logprobs is not None:
            logprobs = {name: [*prompt[name], *logprobs[name]] for name in logprobs}
        choices.append(_choice(number, text, logprobs, deltas[-1].finish))
    return {**head(asked, KIND), "choices": choices, "usage": job.usage}


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


def _of_prompt(llm: Model, job: Job) -> Record:
    """`logprobs` of the prompt's tokens, but for a beginning token; nothing comes before the first, so it has none."""
    asked = job.asked
    values = llm.prompt_logprobs(asked.tokens, asked.logprobs or 0)
    tokens = list(asked.tokens)
    made: Record = {"tokens": [], "text_offset": [], "token_logprobs": [], "top_logprobs": []}
    decoder, at = llm.tokenizer.stream(), 0
    for i, token in enumerate(tokens):
        text = decoder.push(token)
        if i == 0 and token == llm.tokenizer.bos:
            continue
        made["tokens"].append(token_text(llm, token))
        made["text_offset"].append(min(at, len(asked.echo)))
        known = None if i == 0 else values[i - 1]
        made["token_logprobs"].append(None if known is None else known[0])
        made["top_logprobs"].append(None if known is None else _top(llm, token, known[0], known[1]))
        at += len(text)
    return made
