"""GLM 4.5 and later, and those that follow it: <tool_call>NAME, then <arg_key> and <arg_value> for each argument.

Source: the templates of GLM 4.5 to 4.7.
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.form import Calls, Form, Thoughts
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.learned import learned
from ggufpy.chat.syntax.parts import Name, Text
from ggufpy.chat.syntax.shown import Shown
from ggufpy.chat.syntax.tagged import Tagged

_VALUES = Tagged("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")
_CALLS = Calls((Text("\n<tool_call>"), Name("{}\n"), _VALUES, Text("</tool_call>")))


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    if "<arg_key>" not in shown.source or "<tool_call>" not in shown.source:
        return None
    form, header = learned(shown)
    thoughts = form.thoughts or Thoughts("<think>", "</think>")
    return FormSyntax("glm", Form(thoughts, form.calls or (_CALLS,), form.wraps), header)
