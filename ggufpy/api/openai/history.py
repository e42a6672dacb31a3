"""The messages of a request: checked, and calls of tools with their answers.

As OpenAI's API has it, an answer (role "tool") follows the message that has its call, and every call has one before
anybody else speaks. Taken beyond that, because clients send it: an answer without `tool_call_id` where a single call
waits for one, and calls that have no ids. Arguments that are no JSON are a matter of the template (`chat/messages.py`):
taken where it writes them as a text, as a model's own broken call is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.api.openai.kinds import FieldError
from ggufpy.chat.messages import checked
from ggufpy.support import checks

Record = dict[str, Any]
MOST_MESSAGES = 1 << 14
BAD = "invalid_value"


def messages_of(given: Any) -> list[Record]:
    """Checked messages. Raises GGUFError that names the message and what is wrong with it."""
    if isinstance(given, list) and len(given) > MOST_MESSAGES:
        raise FieldError(f"messages has {len(given):,} of them, and may have {MOST_MESSAGES:,}", "messages", BAD)
    if isinstance(given, list):
        given = [_spoken(message) if isinstance(message, Mapping) else message for message in given]
    made = checked(given)
    _check_answers(made)
    return made


def _spoken(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message whose refusal is its text: that is what the model said."""
    content, refusal = message.get("content"), message.get("refusal")
    if message.get("role") != "assistant":
        return message
    if isinstance(content, list):
        content = [
            {"type": "text", "text": part.get("refusal")}
            if isinstance(part, Mapping) and part.get("type") == "refusal"
            else part
            for part in content
        ]
        return {**message, "content": content}
    if content is None and isinstance(refusal, str):
        return {**message, "content": refusal}
    return message


class _Waiting:
    """The calls of the newest message that has any, as far as no answer has come."""

    def __init__(self) -> None:
        self._ids: list[str | None] = []
        self._of = ""  # the message that has them

    def calls(self, name: str, calls: list[Record]) -> None:
        """A message calls tools."""
        for i, call in enumerate(calls):
            known = call.get("id")
            if known is not None and checks.text(f"{name}.tool_calls[{i}].id", known) and known in self._ids:
                raise _bad(f"{name}.tool_calls[{i}].id", f"is {known[:80]!r}, which another call has")
            self._ids.append(known or None)
        self._of = name

    def answer(self, name: str, message: Record) -> None:
        """A message answers a call."""
        if not self._ids:
            raise _bad(name, "is the answer of a tool, and no message before it has a call that waits for one")
        known = message.get("tool_call_id")
        if known is not None:
            checks.text(f"{name}.tool_call_id", known)
        if known in self._ids:
            self._ids.remove(known)
        elif None in self._ids:  # calls without ids are answered in their order
            self._ids.remove(None)
        elif known or len(self._ids) > 1:
            what = f"is {known[:80]!r}" if known else "is missing"
            listed = ", ".join(map(str, self._ids))[:200]
            raise _bad(f"{name}.tool_call_id", f"{what}; calls of {self._of} that wait for an answer: {listed}")
        else:
            self._ids.clear()

    def check_done(self, name: str) -> None:
        """Somebody else speaks, or the messages end."""
        if self._ids:
            listed = ", ".join(str(one) for one in self._ids)[:200]
            raise _bad(f"{self._of}.tool_calls", f"has calls without an answer before {name}: {listed}")


def _check_answers(messages: list[Record]) -> None:
    waiting = _Waiting()
    for i, message in enumerate(messages):
        name = f"messages[{i}]"
        if message["role"] == "tool":
            waiting.answer(name, message)
            continue
        waiting.check_done(name)
        if "tool_calls" in message:
            if message["role"] != "assistant":
                raise _bad(f"{name}.tool_calls", 'goes with the role "assistant"')
            waiting.calls(name, message["tool_calls"])
    waiting.check_done("the end")


def _bad(name: str, what: str) -> FieldError:
    return FieldError(f"{name} {what}", name, BAD)
