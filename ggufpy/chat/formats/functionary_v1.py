"""functionary-v1: MeetKai's Functionary 1.x, with a token behind each kind of message.

An answer is a text, a call, or a text with a call behind: <|START_OF_FUNCTION_CALL|>NAME:\n and arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.chat.formats._calls import Told, functions, told
from ggufpy.chat.formats._format import Format, Message
from ggufpy.chat.formats._functionary import SYSTEM_MESSAGE, declarations

if TYPE_CHECKING:
    from ggufpy.chat.syntax import Syntax

_ENDS = {
    "system": "<|END_OF_SYSTEM|>",
    "user": "<|END_OF_USER|>",
    "assistant": "<|END_OF_ASSISTANT|>",
    "tool": "<|END_OF_FUNCTION_RESULT|>",
}
CALL, END_CALL = "<|START_OF_FUNCTION_CALL|>", "<|END_OF_FUNCTION_CALL|>"


class FunctionaryV1(Format):
    """Results and calls have names within the namespace "functions"; calls that are asked for have not."""

    name = "functionary-v1"
    stops = (_ENDS["assistant"], END_CALL)
    takes_tools = True

    @property
    def syntax(self) -> Syntax:
        """See Format."""
        from ggufpy.chat.formats._syntax import Heads, HeadsSyntax

        return HeadsSyntax(self.name, Heads(CALL, ":\n", within=True))

    def _written(self, chat: list[Message], tools: Sequence[Mapping[str, Any]], reply: bool) -> str:
        system = [declarations(functions(tools), indent=False)] if tools else []
        made = [_message(Told("system", text)) for text in (*system, SYSTEM_MESSAGE)]
        made += [_message(message) for message in told(chat) if message.role in _ENDS]
        self._left_out([message["role"] for message in chat if message["role"] not in _ENDS])
        return "".join(made) + "assistant:\n" * reply


def _message(message: Told) -> str:
    name = f"function name=functions.{message.name}" if message.role == "tool" else message.role
    if not message.calls:
        return f"{name}:\n{message.text}{_ENDS[message.role]}\n"
    said = f"{message.text}\n" if message.text else ""
    calls = [f"{CALL}functions.{call.name}:\n{call.arguments}{END_CALL}\n" for call in message.calls]
    return f"{name}:\n{said}" + f"{name}:\n".join(calls)


FORMATS = [FunctionaryV1()]
