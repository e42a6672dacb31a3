"""LFM2: calls of Python's in a list between two tokens. Older templates write no calls of their own.

Source: Liquid AI's notes on LFM2's use of tools.
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.form import Calls, Form, Thoughts
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.keywords import Keywords
from ggufpy.chat.syntax.learned import thoughts_of
from ggufpy.chat.syntax.parts import Name
from ggufpy.chat.syntax.shown import Shown
from ggufpy.chat.syntax.written import Wrapped

_OPENS, _CLOSES = "<|tool_call_start|>[", "]<|tool_call_end|>"
_CALLS = (
    Calls((Name(), Keywords()), opens=_OPENS, closes=_CLOSES, between=", "),
    Calls((Wrapped(),), opens=_OPENS, closes=_CLOSES, between=", "),
)


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    named = any(text in shown.source for text in ("<|tool_call_start|>", "<|tool_list_start|>"))
    if not named and not (architecture.startswith("lfm2") and "tools" in shown.source):
        return None
    thoughts = thoughts_of(shown) or Thoughts("<think>", "</think>")
    return FormSyntax("lfm2", Form(thoughts, _CALLS), shown.start)
