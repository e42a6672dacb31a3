"""Text completions in the shape of chat completions, whole and streamed.

Where the text is the arguments of a function, the message calls it, in OpenAI's form and in the older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Record = dict[str, Any]


def whole(completion: Mapping[str, Any], function: str | None) -> Record:
    """A text completion as a chat completion."""
    head = _head(completion, "chat.completion")
    choices = []
    for choice in completion["choices"]:
        finish = choice["finish_reason"]
        if function is not None and finish == "stop":
            finish = "tool_calls"
        choices.append({
            "index": choice["index"],
            "message": {"role": "assistant", **_said(head["id"], choice["text"], function, None)},
            "logprobs": _logprobs(choice["logprobs"]),
            "finish_reason": finish,
        })  # fmt: skip
    return {**head, "choices": choices, "usage": completion["usage"]}


def chunks(completion: Iterable[Mapping[str, Any]], function: str | None) -> Iterator[Record]:
    """Chunks of a text completion as those of a chat completion: of each choice the role, what is said, and why it
    ended."""
    begun: set[int] = set()
    for chunk in completion:
        head = _head(chunk, "chat.completion.chunk")
        if not chunk["choices"]:  # what the call took, at the end
            yield {**head, "choices": [], "usage": chunk["usage"]}
        for choice in chunk["choices"]:
            index, finish = choice["index"], choice["finish_reason"]
            if index not in begun:
                begun.add(index)
                yield {**head, "choices": [_delta(index, {"role": "assistant"}, None, None)]}
            if choice["text"] or choice["logprobs"] is not None:
                said = _said(head["id"], choice["text"], function, 0)
                yield {**head, "choices": [_delta(index, said, _logprobs(choice["logprobs"]), None)]}
            if finish is not None:
                ended = "tool_calls" if function is not None and finish == "stop" else finish
                yield {**head, "choices": [_delta(index, {}, None, ended)]}


def _head(completion: Mapping[str, Any], kind: str) -> Record:
    head = {name: completion[name] for name in ("created", "model")}
    return {"id": "chat" + completion["id"], "object": kind, **head}


def _said(id: str, text: str, function: str | None, index: int | None) -> Record:
    """The text as content, or as the arguments of a call; `index` is that of the call in a stream."""
    if function is None:
        return {"content": text}
    made = {"name": function, "arguments": text}
    call: Record = {"id": f"call_{id}", "type": "function", "function": made}
    if index is not None:
        call = {"index": index, **call}
    return {"content": None, "function_call": made, "tool_calls": [call]}


def _delta(index: int, delta: Record, logprobs: Record | None, finish: str | None) -> Record:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(logprobs: Mapping[str, Any] | None) -> Record | None:
    """`logprobs` of a text as those of a chat. Bytes are not known: a token's text may be part of a character."""
    if logprobs is None:
        return None
    content = []
    for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        likeliest = [{"token": text, "logprob": at, "bytes": None} for text, at in (top or {}).items()]
        content.append({"token": token, "logprob": value, "bytes": None, "top_logprobs": likeliest})
    return {"content": content, "refusal": None}
