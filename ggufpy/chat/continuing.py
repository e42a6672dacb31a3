"""Prompts that end within the last message, for the model to go on with it.

A mark is put behind the message's text, and the prompt cut where the mark is written, as Hugging Face's
`apply_chat_template` does with `continue_final_message`.
"""

from __future__ import annotations

from typing import Any

from ggufpy.chat.limits import TemplateFailure
from ggufpy.errors import GGUFError

_WORD = "quince-goes-on-here"
_MARK = _WORD + " "  # templates that strip messages take the space off


def marked(messages: list[Any]) -> list[Any]:
    """The messages with a mark at the end of the last one's text. Raises GGUFError if that has no text."""
    last = messages[-1]
    content = last.get("content")
    if isinstance(content, str):
        content += _MARK
    elif isinstance(content, list) and any(isinstance(part.get("text"), str) for part in content):
        place = max(i for i, part in enumerate(content) if isinstance(part.get("text"), str))
        part = {**content[place], "text": content[place]["text"] + _MARK}
        content = [*content[:place], part, *content[place + 1 :]]
    else:
        raise GGUFError("the last message has no text to continue: give it a content, or leave out continue_final")
    return [*messages[:-1], {**last, "content": content}]


def cut(text: str, last: Any) -> str:
    """A prompt up to the mark; `last` is the message that has it. Raises TemplateFailure where none is written, or
    not the whole message before it."""
    content = last["content"]
    texts = [content] if isinstance(content, str) else [part.get("text") for part in content]
    final = next(one for one in reversed(texts) if isinstance(one, str) and one.endswith(_MARK))[: -len(_MARK)]
    place = text.rfind(_WORD)
    if place < 0 or final.strip() not in text:
        raise TemplateFailure("it changes the last message, which therefore cannot be continued")
    before = text[:place]
    return before if text.startswith(_MARK, place) else before.rstrip()
