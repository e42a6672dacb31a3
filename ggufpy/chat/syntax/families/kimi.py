"""Kimi K2: sections of calls, each with an id such as functions.NAME:0 that holds the name.

Source: Moonshot's guide to Kimi K2's calls of tools. Its templates write the id back as it came.
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.form import Calls, Form, Thoughts
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.learned import thoughts_of
from ggufpy.chat.syntax.parts import Name, Text
from ggufpy.chat.syntax.shown import Shown
from ggufpy.chat.syntax.written import Json

_CALLS = Calls(
    (
        Text("<|tool_call_begin|>"),
        Name("functions.{}:{n}"),
        Text("<|tool_call_argument_begin|>"),
        Json(),
        Text("<|tool_call_end|>"),
    ),
    opens="<|tool_calls_section_begin|>",
    closes="<|tool_calls_section_end|>",
)


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    if "<|tool_calls_section_begin|>" not in shown.source:
        return None
    thoughts = thoughts_of(shown)
    if thoughts is None and "<think>" in shown.source:
        thoughts = Thoughts("<think>", "</think>")
    return FormSyntax("kimi", Form(thoughts, (_CALLS,)), shown.start)
