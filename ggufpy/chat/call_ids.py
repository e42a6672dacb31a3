"""Ids of calls, for templates that take only their own kind: Mistral's want nine letters and digits, and OpenAI's
clients send longer ones; some old messages have none."""

from __future__ import annotations

import re
from typing import Any

from ggufpy.chat.probe import Message, Probe

_PLAIN = re.compile(r"[A-Za-z0-9]{9}")  # what every template takes


def with_ids(messages: list[Message], probe: Probe) -> list[Message]:
    """The messages with ids that the template takes; as they are where it takes these."""
    given = [call.get("id") for message in messages for call in message.get("tool_calls", ())]
    given += [message.get("tool_call_id") for message in messages if message["role"] == "tool"]
    if all(_is_plain(one) for one in given):
        return messages
    odd = any(one not in (None, "") and not _is_plain(one) for one in given)
    missing = any(one in (None, "") for one in given)
    if not ((odd and not probe.takes_id("odd")) or (missing and not probe.takes_id("none"))):
        return messages
    return _renumbered(messages)


def _is_plain(one: Any) -> bool:
    return isinstance(one, str) and _PLAIN.fullmatch(one) is not None


def _renumbered(messages: list[Message]) -> list[Message]:
    """New ids by the order of calls. An answer has that of its call, or of the first that no answer was for."""
    new: dict[Any, str] = {}
    waiting: list[str] = []
    count = 0
    made = []
    for message in messages:
        if "tool_calls" in message:
            calls = []
            for call in message["tool_calls"]:
                count += 1
                one = f"call{count:05}"
                new[call.get("id")] = one
                waiting.append(one)
                calls.append({**call, "id": one})
            message = {**message, "tool_calls": calls}
        elif message["role"] == "tool":
            known = new.get(message.get("tool_call_id"))
            one = known if known in waiting else next(iter(waiting), "call00000")
            waiting = [other for other in waiting if other != one]
            message = {**message, "tool_call_id": one}
        made.append(message)
    return made
