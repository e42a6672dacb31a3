"""chatml-function-calling: ChatML with functions, for models that were not trained on a format of their own.

The system message lists the functions. An answer is "message:\n" and a text, or one call or more, each
"functions.NAME:\n" and arguments. llama-cpp-python writes tools only where a chat has a system message, escapes text
for HTML, and has no place for results; here tools are always told, text is as it is, and results are turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ggufpy.chat.formats._calls import Told, functions, json_text, told
from ggufpy.chat.formats._format import Format, Message

if TYPE_CHECKING:
    from ggufpy.chat.syntax import Syntax

END = "<|im_end|>"
_HOW = (
    "\n\nYou can respond to users messages with either a single message or one or more function calls."
    "\n\nTo respond with a message begin the message with 'message:', use the following format:"
    "\n\nmessage:\n<message>"
    "\n\nTo respond with one or more function calls begin the message with 'functions.<function_name>:', "
    "use the following format:"
    '\n\nfunctions.<function_name>:\n{ "arg1": "value1", "arg2": "value2" }'
    '\nfunctions.<function_name>:\n{ "arg1": "value1", "arg2": "value2" }'
)
_ROLES = ("system", "user", "assistant", "tool")


class ChatmlFunctionCalling(Format):
    """Messages say that they are messages only where there are tools."""

    name = "chatml-function-calling"
    stops = (END,)
    takes_tools = True

    @property
    def syntax(self) -> Syntax:
        """See Format."""
        from ggufpy.chat.formats._syntax import Heads, HeadsSyntax

        return HeadsSyntax(self.name, Heads("functions.", ":\n", text="message:\n", more="\n"))

    def _written(self, chat: list[Message], tools: Sequence[Mapping[str, Any]], reply: bool) -> str:
        messages = [message for message in told(chat) if message.role in _ROLES]
        if tools and all(message.role != "system" for message in messages):
            messages = [Told("system", ""), *messages]
        listed = _listed(functions(tools)) if tools else ""
        self._left_out([message["role"] for message in chat if message["role"] not in _ROLES])
        made = [_message(message, listed) for message in messages]
        return "".join(made) + "<|im_start|>assistant\n" * reply


def _listed(functions: Sequence[Mapping[str, Any]]) -> str:
    """What a system message says of functions."""
    made = []
    for i, function in enumerate(functions):
        parameters = json_text(function.get("parameters", {}), f"tools[{i}]", sort_keys=True)
        made.append(f"\nfunctions.{function['name']}:\n{parameters}\n")
    return "\n\nYou have access to the following functions:\n" + "".join(made) + _HOW


def _message(message: Told, listed: str) -> str:
    begin = f"<|im_start|>{message.role}\n"
    if message.role == "system":
        return f"{begin}{message.text}{listed}{END}\n"
    if message.role != "assistant":
        return f"{begin}{message.text}{END}\n"
    said = f"{'message:' + chr(10) if listed else ''}{message.text}{END}\n" if message.text else ""
    calls = "".join(f"functions.{call.name}:\n{call.arguments}" for call in message.calls)
    return begin + said + (f"{calls}{END}\n" if calls else "")


FORMATS = [ChatmlFunctionCalling()]
