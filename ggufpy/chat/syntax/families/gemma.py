"""Gemma 4, and FunctionGemma before it: call:NAME{key:value}, with a token for the quotes of strings.

Source: Google's notes on Gemma 4's prompts; the templates of both.
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.braced import Braced
from ggufpy.chat.syntax.form import Calls, Form, Thoughts
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.parts import Name, Text
from ggufpy.chat.syntax.shown import Shown

_THOUGHTS = Thoughts("<|channel>thought\n", "\n<channel|>")
_GEMMA4 = Calls((Text("<|tool_call>"), Text("call:"), Name(), Braced('<|"|>'), Text("<tool_call|>")))
_FUNCTION = Calls(
    (
        Text("<start_function_call>"),
        Text("call:"),
        Name(),
        Braced("<escape>"),
        Text("<end_function_call>"),
    )
)


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    if "<|tool_call>" in shown.source and "<tool_call|>" in shown.source:
        return FormSyntax("gemma", Form(_THOUGHTS, (_GEMMA4,)), shown.start)
    if "<start_function_call>" in shown.source:
        return FormSyntax("gemma", Form(None, (_FUNCTION,)), shown.start)
    return None
