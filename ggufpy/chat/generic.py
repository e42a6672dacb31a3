"""Messages for templates that know no tools: the offer in the system message, calls and what tools gave as texts.

In: messages and an offer. Out: messages that any template writes. How calls are written is `syntax/generic.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ggufpy.chat.messages import checked
from ggufpy.chat.probe import Message
from ggufpy.chat.syntax import Syntax
from ggufpy.chat.tools import Offer


def is_about_tools(messages: object, offer: Offer | None) -> bool:
    """Whether there is an offer, or a message that calls tools or comes from one."""
    if offer is not None and offer.chosen:
        return True
    if not isinstance(messages, list | tuple):
        return False  # what is wrong with it is said elsewhere
    return any(isinstance(m, Mapping) and (m.get("role") == "tool" or m.get("tool_calls")) for m in messages)


def told(syntax: Syntax, messages: Any, offer: Offer | None) -> list[Message]:
    """`messages` with the offer and with calls and what tools gave as texts. Raises GGUFError as `checked` does."""
    made = [_said(message) for message in checked(messages)]
    text = None if offer is None else syntax.instructions(offer.chosen)
    if text is None:
        return made
    if made and made[0]["role"] in ("system", "developer"):
        return [{**made[0], "content": f"{_text(made[0]['content'])}\n\n{text}".strip()}, *made[1:]]
    return [{"role": "system", "content": text}, *made]


def _said(message: Message) -> Message:
    """A message without calls: these are written below its content, and what a tool gave is said by the user."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{_text(message['content'])}\n</tool_response>"}
    if "tool_calls" not in message:
        return message
    calls = [_written(call["function"]) for call in message["tool_calls"]]
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join([text for text in (_text(message["content"]), *calls) if text])}


def _written(function: Mapping[str, Any]) -> str:
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(function["name"])}, "arguments": {written or "{}"}}}\n</tool_call>'


def _text(content: str | list[Message] | None) -> str:
    return "\n".join(part["text"] for part in content) if isinstance(content, list) else content or ""
