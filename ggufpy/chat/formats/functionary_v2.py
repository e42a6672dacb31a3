"""functionary-v2: MeetKai's Functionary 2.x: every message says from whom and to whom it is.

An answer is a recipient ("all", or a function), <|content|> and a text or arguments, and perhaps further messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.chat.formats._calls import Told, functions, told
from ggufpy.chat.formats._format import Format, Message
from ggufpy.chat.formats._functionary import SYSTEM_MESSAGE, declarations

if TYPE_CHECKING:
    from ggufpy.chat.syntax import Syntax

FROM, TO, CONTENT, STOP = "<|from|>", "<|recipient|>", "<|content|>", "<|stop|>"


class FunctionaryV2(Format):
    """Without tools the prompt also names the recipient: the answer can only be for all."""

    name = "functionary-v2"
    stops = (STOP,)
    takes_tools = True

    @property
    def syntax(self) -> Syntax:
        """See Format."""
        from ggufpy.chat.formats._syntax import Heads, HeadsSyntax

        heads = Heads("", f"\n{CONTENT}", text=f"all\n{CONTENT}", again=f"\n{FROM}assistant\n{TO}")
        return HeadsSyntax(self.name, heads)

    def _written(self, chat: list[Message], tools: Sequence[Mapping[str, Any]], reply: bool) -> str:
        system = [declarations(functions(tools), indent=False)] if tools else []
        made = [_line("system", "all", text) + "\n" for text in (*system, SYSTEM_MESSAGE)]
        made += [_message(message) for message in told(chat) if message.role in _ROLES]
        self._left_out([message["role"] for message in chat if message["role"] not in _ROLES])
        opening = f"{FROM}assistant\n{TO}" + ("" if tools else f"all\n{CONTENT}")
        return "".join(made) + opening * reply


_ROLES = ("system", "user", "assistant", "tool")


def _message(message: Told) -> str:
    if message.role != "assistant":
        return _line(message.name or message.role, "all", message.text) + "\n"
    said = [_line("assistant", "all", message.text)] if message.text or not message.calls else []
    said += [_line("assistant", call.name, call.arguments) for call in message.calls]
    return "\n".join(said) + f"{STOP}\n"


def _line(sender: str, recipient: str, text: str) -> str:
    return f"{FROM}{sender}\n{TO}{recipient}\n{CONTENT}{text}"


FORMATS = [FunctionaryV2()]
