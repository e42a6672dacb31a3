"""What a chat format is: messages in, the prompt out, and the texts that end an answer.

In: messages in OpenAI's shape. Out: exactly the prompt that llama-cpp-python writes under the same name (facts of every
format: llama_cpp/llama_chat_format.py of llama-cpp-python 0.3.36). Most formats are data, `Turns`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.chat.messages import checked
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.chat.syntax import Syntax

Message = dict[str, Any]
SYSTEM = "{system}"  # where a head has the system message


class Format(ABC):
    """A chat format. `stops` end an answer beside the model's end tokens, `added_special` says that prompts begin with
    the beginning token themselves, `takes_tools` that they tell the model of tools. Safe to share between threads."""

    name: str
    stops: tuple[str, ...]
    added_special: bool = False
    takes_tools: bool = False

    @property
    def syntax(self) -> Syntax:
        """How answers of this format hold calls."""
        from ggufpy.chat.formats._syntax import PlainSyntax

        return PlainSyntax(self.name)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt for `messages`, with what opens the answer unless `add_generation_prompt` is False.

        What the format has no place for (messages of other roles, tools) is left out, with a warning. Raises GGUFError
        for messages of another form.
        """
        chat = [_renamed(message) for message in checked(messages)]
        if tools and not self.takes_tools:
            _warn(f"chat format {self.name!r} does not tell the model of tools: use 'chatml-function-calling', or the "
                  "model's own template (chat_format=None)")  # fmt: skip
            tools = None
        return self._written(chat, tools or (), add_generation_prompt)

    @abstractmethod
    def _written(self, chat: list[Message], tools: Sequence[Mapping[str, Any]], reply: bool) -> str: ...

    def _left_out(self, roles: Sequence[str]) -> None:
        """Warns of messages that have no place."""
        for role in dict.fromkeys(roles):
            _warn(f"chat format {self.name!r} has no place for a message of role {role!r}: it is left out")


@dataclass(frozen=True)
class Turn:
    """How a message of one role is written: `begin`, its text, an end (`end`, else that of the format).

    A message without text, and the answer that is asked for, is `bare` alone. Where `bare` is None an empty text is
    written as any other, and a message that has no content at all is not written.
    """

    begin: str
    bare: str | None = None
    end: str | None = None


@dataclass(frozen=True)
class Turns(Format):
    """A format that is data: a head with or without the system message, then turns, then what opens the answer.

    `turns` are by role. `ends` follow the texts of turns in turn: the first after turns 0, 2, ..., the second, if there
    is one, after the others. In `head`, `SYSTEM` stands for the first system message, or `system` where there is none.
    """

    name: str
    turns: Mapping[str, Turn]
    ends: tuple[str, ...] = ("",)
    head: str = ""
    system: str = ""
    reply: str = ""
    stops: tuple[str, ...] = ()

    def _written(self, chat: list[Message], tools: Sequence[Mapping[str, Any]], reply: bool) -> str:
        made, rest = [], list(chat)
        if SYSTEM in self.head:
            first, rest = first_system(chat)
            made.append(self.head.replace(SYSTEM, first or self.system))
        else:
            made.append(self.head)
        told = [message for message in rest if message["role"] in self.turns]
        for i, message in enumerate(told):
            turn, content = self.turns[message["role"]], text(message["content"])
            if content or (turn.bare is None and message["content"] is not None):
                made += (turn.begin, content, self.ends[i % len(self.ends)] if turn.end is None else turn.end)
            else:
                made.append(turn.bare or "")
        self._left_out([message["role"] for message in rest if message["role"] not in self.turns])
        return "".join(made) + self.reply * reply


def text(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    """A checked content as one text: parts one below the other."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] for part in content)


def first_system(chat: list[Message]) -> tuple[str, list[Message]]:
    """The text of the first system message ("" without one), and the messages without it."""
    at = next((i for i, message in enumerate(chat) if message["role"] == "system"), None)
    return ("", chat) if at is None else (text(chat[at]["content"]), chat[:at] + chat[at + 1 :])


def _renamed(message: Message) -> Message:
    """OpenAI's newer name for the system role is the old one here."""
    return {**message, "role": "system"} if message["role"] == "developer" else message


def _warn(line: str) -> None:
    warnings.warn(line, UserWarning, stacklevel=4)
