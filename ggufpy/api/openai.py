"""Completions in OpenAI's shapes: one request in, one dict or a stream of chunk dicts out.

Both kinds of completion run the same loop (`deltas`); the rest of the file is how a delta is written down.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol

from ggufpy.errors import GGUFError
from ggufpy.generate.stops import StopFilter
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ggufpy.generate.loop import Stream
    from ggufpy.generate.sampling import Sampling
    from ggufpy.tokenizers import Tokenizer

Record = dict[str, Any]


class Model(Protocol):
    """What completions need of a loaded model; `ggufpy.Llama` is one."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    def n_vocab(self) -> int: ...
    def n_known(self) -> int: ...
    def sampling(self, **options: Any) -> Sampling: ...
    def chat_tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]: ...
    def check_prompt(self, tokens: Sequence[int]) -> None: ...


@dataclass(frozen=True)
class Asked:
    """What one completion was asked for; `logprobs` None asks for none, `max_tokens` None for no limit."""

    tokens: tuple[int, ...]
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...] = ()
    echo: str = ""
    logprobs: int | None = None
    model: str = ""
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True)
class Delta:
    """One step of a completion: text that may be shown, the token behind it, and at the end the reason."""

    text: str
    token: int | None = None
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    finish: str | None = None


def text_request(llm: Model, prompt: str | Sequence[int], limit: int | None, options: Record) -> Asked:
    """The request behind `create_completion`; takes its own names out of `options`, the rest is sampling."""
    options = dict(options)
    if isinstance(prompt, str):
        tokens = llm.tokenizer.encode(prompt, add_special=True, parse_special=True)
        text = prompt
    else:
        tokens = checks.tokens("prompt", prompt, llm.n_vocab(), "a text (str) or a list of token ids")
        text = llm.tokenizer.decode(tokens)
    echo = text if checks.switch("echo", options.pop("echo", None)) else ""
    logprobs = _alternatives(llm, "logprobs", options.pop("logprobs", None))
    return _request(llm, tokens, limit, options, echo=echo, logprobs=logprobs, kind="cmpl")


def chat_request(
    llm: Model, messages: Sequence[Mapping[str, Any]], limit: int | None, options: Record
) -> Asked:
    """The request behind `create_chat_completion`."""
    options = dict(options)
    wanted = checks.switch("logprobs", options.pop("logprobs", None))
    top = _alternatives(llm, "top_logprobs", options.pop("top_logprobs", None))
    if top is not None and not wanted:
        raise GGUFError("top_logprobs needs logprobs=True")
    logprobs = (top or 0) if wanted else None
    return _request(
        llm, llm.chat_tokens(messages), limit, options, echo="", logprobs=logprobs, kind="chatcmpl"
    )


def _alternatives(llm: Model, name: str, count: object) -> int | None:
    """How many alternatives to list, if any are."""
    if count is not None and not 0 <= checks.whole(name, count) <= llm.n_vocab():
        raise GGUFError(f"{name} is {count}, and must be how many alternatives to list, 0 or more")
    return None if count is None else checks.whole(name, count)


def _request(llm: Model, tokens: list[int], limit: int | None, options: Record, **fixed: Any) -> Asked:
    """All that can be wrong with a request is said here; the seed is drawn last."""
    from uuid import uuid4

    most = None if limit is None else checks.whole("max_tokens", limit)
    stops = _stops(options.pop("stop", None))
    model = options.pop("model", None)
    if model is not None:
        checks.text("model", model)
    llm.check_prompt(tokens)
    kind = fixed.pop("kind")
    return Asked(
        tuple(tokens),
        llm.sampling(**options),
        most if most is not None and most > 0 else None,
        stop=stops,
        model=model or llm.name,
        id=f"{kind}-{uuid4()}",
        **fixed,
    )


def _stops(stop: object) -> tuple[str, ...]:
    """Stop strings, from one or some or none."""
    if stop is None or isinstance(stop, str):
        return (stop,) if stop else ()
    stops = tuple(checks.items("stop", stop, "a string or a list of strings"))
    if any(not isinstance(text, str) or not text for text in stops):
        raise GGUFError(f"stop is {checks.shown(stop)}; it must be a string or strings, none of them empty")
    return stops


def deltas(llm: Model, asked: Asked, stream: Stream) -> Iterator[Delta]:
    """Run a request: a delta for every token (its text may be empty), then one with a `finish`."""
    decoder, stop = llm.tokenizer.stream(), StopFilter(asked.stop)
    try:
        for token in stream:
            text = stop.push(decoder.push(token))
            logprob: float = 0.0
            top: list[tuple[int, float]] = []
            if asked.logprobs is not None and stream.logits is not None:
                logits = stream.logits[: llm.n_known()]  # padding has no text to be listed by
                logprob, top = top_logprobs(logits, token, asked.logprobs)
            yield Delta(text, token, logprob, tuple(top))
            if stop.hit:
                break
    finally:  # also where nobody wants the rest
        stream.close()
    rest = stop.push(decoder.flush())
    yield Delta(rest + stop.flush(), finish="stop" if stop.hit else stream.finish or "length")


def top_logprobs(logits: NDArray[np.float32], token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural-log probability of `token`, and the `count` likeliest (id, log probability), best first."""
    import numpy as np

    wide: NDArray[Any] = logits.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    best = np.argsort(-wide, kind="stable")[:count]
    return float(wide[token]), [(int(i), float(wide[i])) for i in best]


def _usage(asked: Asked, count: int) -> Record:
    prompt = len(asked.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}


def _head(asked: Asked, kind: str) -> Record:
    return {"id": asked.id, "object": kind, "created": asked.created, "model": asked.model}


# -- text completions --


def _text_logprobs(llm: Model, said: Sequence[Delta], start: int) -> Record:
    """OpenAI's `logprobs` of a text completion; `start` is the length of the text before the first delta."""

    def name(token: int) -> str:
        return llm.tokenizer.token_bytes(token).decode("utf-8", "replace")

    offsets, at = [], start
    for delta in said:
        offsets.append(at)
        at += len(delta.text)
    tokens = [(p.token, p) for p in said if p.token is not None]
    return {
        "tokens": [name(token) for token, _ in tokens],
        "text_offset": [at for at, delta in zip(offsets, said, strict=True) if delta.token is not None],
        "token_logprobs": [delta.logprob for _, delta in tokens],
        "top_logprobs": [{name(t): value for t, value in delta.top} for _, delta in tokens],
    }


def _text_choice(text: str, logprobs: Record | None, finish: str | None) -> Record:
    return {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": finish}


def text_chunks(llm: Model, asked: Asked, stream: Stream) -> Iterator[Record]:
    """Chunks of a streamed text completion; the last has a `finish_reason`."""
    at = len(asked.echo)
    if asked.echo:
        yield {**_head(asked, "text_completion"), "choices": [_text_choice(asked.echo, None, None)]}
    for delta in deltas(llm, asked, stream):
        if delta.text or delta.finish or asked.logprobs is not None:
            logprobs = None if asked.logprobs is None else _text_logprobs(llm, [delta], at)
            choice = _text_choice(delta.text, logprobs, delta.finish)
            yield {**_head(asked, "text_completion"), "choices": [choice]}
        at += len(delta.text)


def whole_text(llm: Model, asked: Asked, stream: Stream) -> Record:
    """A text completion in one dict."""
    said = list(deltas(llm, asked, stream))
    text = asked.echo + "".join(delta.text for delta in said)
    logprobs = None if asked.logprobs is None else _text_logprobs(llm, said, len(asked.echo))
    choice = _text_choice(text, logprobs, said[-1].finish)
    usage = _usage(asked, len(said) - 1)
    return {**_head(asked, "text_completion"), "choices": [choice], "usage": usage}


# -- chat completions --


def _chat_logprobs(llm: Model, said: Sequence[Delta]) -> Record:
    """OpenAI's `logprobs` of a chat completion."""

    def entry(token: int, value: float) -> Record:
        raw = llm.tokenizer.token_bytes(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": value, "bytes": list(raw)}

    return {
        "content": [
            {**entry(delta.token, delta.logprob), "top_logprobs": [entry(t, value) for t, value in delta.top]}
            for delta in said
            if delta.token is not None
        ]
    }


def _chat_delta(delta: Record, logprobs: Record | None, finish: str | None) -> Record:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def chat_chunks(llm: Model, asked: Asked, stream: Stream) -> Iterator[Record]:
    """Chunks of a streamed chat completion: the role, the text in deltas, the reason it ended."""
    head = _head(asked, "chat.completion.chunk")
    yield {**head, "choices": [_chat_delta({"role": "assistant"}, None, None)]}
    for delta in deltas(llm, asked, stream):
        if delta.text or (delta.token is not None and asked.logprobs is not None):
            logprobs = None if asked.logprobs is None else _chat_logprobs(llm, [delta])
            yield {**head, "choices": [_chat_delta({"content": delta.text}, logprobs, None)]}
        if delta.finish:
            yield {**head, "choices": [_chat_delta({}, None, delta.finish)]}


def whole_chat(llm: Model, asked: Asked, stream: Stream) -> Record:
    """A chat completion in one dict."""
    said = list(deltas(llm, asked, stream))
    message = {"role": "assistant", "content": "".join(delta.text for delta in said)}
    logprobs = None if asked.logprobs is None else _chat_logprobs(llm, said)
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": said[-1].finish}
    usage = _usage(asked, len(said) - 1)
    return {**_head(asked, "chat.completion"), "choices": [choice], "usage": usage}


# -- embeddings --


def embeddings(model: str, rows: Sequence[Sequence[float]], tokens: int) -> Record:
    """The rows as OpenAI's list of embeddings, of so many tokens together."""
    data = [{"object": "embedding", "index": i, "embedding": list(row)} for i, row in enumerate(rows)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
