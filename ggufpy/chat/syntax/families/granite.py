"""Granite 3: <|tool_call|> and a list of JSON objects, thoughts in <think> and the answer in <response>. Its template
writes no calls of its own. Granite 4 follows Hermes.

Source: IBM's template of Granite 3.3, whose instructions name these texts.
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.form import Calls, Form, Thoughts
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.parts import Text
from ggufpy.chat.syntax.shown import Shown
from ggufpy.chat.syntax.written import Wrapped

_CALLS = (
    Calls((Wrapped(),), opens="<|tool_call|>[", closes="]", between=", "),
    Calls((Text("<tool_call>"), Wrapped(), Text("</tool_call>", optional=True))),
)


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    if "<|tool_call|>" not in shown.source or "<|start_of_role|>" not in shown.source:
        return None
    thinks = "<think>" in shown.source
    thoughts = Thoughts("<think>", "</think>") if thinks else None
    wraps = ("<response>", "</response>") if thinks and "<response>" in shown.source else ()
    return FormSyntax("granite", Form(thoughts, _CALLS, wraps), shown.start)
