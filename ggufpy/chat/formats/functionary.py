"""functionary: MeetKai's first Functionary models, without special tokens.

An answer goes on behind "assistant": ":\n" and a text, or " to=functions.NAME:\n" and arguments; both end with </s>.
Where a message has several calls each is a turn of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.chat.formats._calls import Told, functions, told
from ggufpy.chat.formats._format import Format, Message
from ggufpy.chat.formats._functionary import SYSTEM_MESSAGE, declarations

if TYPE_CHECKING:
    from ggufpy.chat.syntax import Syntax


class Functionary(Format):
    """Without tools the prompt also opens a text: the answer can be nothing else."""

    name = "functionary"
    stops = ("user:", "</s>")
    takes_tools = True

    @property
    def syntax(self) -> Syntax:
        """See Format."""
        from ggufpy.chat.formats._syntax import Heads, HeadsSyntax

        return HeadsSyntax(self.name, Heads(" to=functions.", ":\n", text=":\n"))

    def _written(self, chat: list[Message], tools: Sequence[Mapping[str, Any]], reply: bool) -> str:
        system = [f"{declarations(functions(tools), indent=True)}\n"] if tools else []
        made = [f"system:\n{text}\n" for text in (*system, SYSTEM_MESSAGE)]
        made += [_message(message) for message in told(chat) if message.role in _ROLES]
        self._left_out([message["role"] for message in chat if message["role"] not in _ROLES])
        return "".join(made) + ("assistant" + ("" if tools else ":\n")) * reply


_ROLES = ("system", "user", "assistant", "tool")


def _message(message: Told) -> str:
    if message.role == "system":
        return f"system:\n{message.text}\n"
    if message.role == "user":
        return f"user:\n</s>{message.text}</s>\n"
    if message.role == "tool":
        return f"function name=functions.{message.name}:\n{message.text}\n"
    said = f"assistant:\n{message.text}\n" if message.text or not message.calls else ""
    return said + "".join(f"assistant to=functions.{call.name}:\n{call.arguments}</s>\n" for call in message.calls)


FORMATS = [Functionary()]
