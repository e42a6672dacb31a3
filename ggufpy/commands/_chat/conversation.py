"""A conversation: instructions and messages. Changes give a new one, so that what fails changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages in OpenAI's form, and the `system` text ahead of them. None of `messages` is changed."""

    system: str | None = None
    messages: tuple[Message, ...] = ()

    @property
    def whole(self) -> list[Message]:
        """All messages, the system's first."""
        head = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*head, *self.messages]

    @property
    def exchanges(self) -> list[int]:
        """Where exchanges begin among `messages`: at those of the user."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "user"]

    def asked(self, text: str) -> Conversation:
        """With a message of the user."""
        return self._with({"role": "user", "content": text})

    def answered(self, message: Mapping[str, Any]) -> Conversation:
        """With an answer."""
        return self._with(dict(message))

    def unanswered(self) -> Conversation:
        """Up to the user's last message. Raises GGUFError without one."""
        if not self.exchanges:
            raise GGUFError("there is no message to answer yet")
        return replace(self, messages=self.messages[: self.exchanges[-1] + 1])

    def undone(self) -> tuple[Conversation, str]:
        """Without the last exchange, and what the user said in it. Raises GGUFError where there is none."""
        if not self.exchanges:
            raise GGUFError("there is nothing to take back")
        last = self.exchanges[-1]
        return replace(self, messages=self.messages[:last]), text_of(self.messages[last])

    def without_oldest(self, count: int) -> Conversation:
        """Without the first `count` exchanges, and what may stand before them."""
        starts = [*self.exchanges, len(self.messages)]
        return replace(self, messages=self.messages[starts[min(count, len(starts) - 1)] :])

    def cleared(self) -> Conversation:
        """Without messages; the instructions stay."""
        return replace(self, messages=())

    def _with(self, message: Message) -> Conversation:
        return replace(self, messages=(*self.messages, message))


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, whose parts are texts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""
