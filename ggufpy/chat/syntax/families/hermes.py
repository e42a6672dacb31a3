"""Hermes, Qwen and those that follow them: JSON or Qwen's tags within <tool_call>.

Source: the templates of NousResearch's Hermes 2 Pro, Qwen 2.5 and Qwen3-Coder. Models of either kind also write the
other, and Qwen3-Coder leaves <tool_call> out at times (llama.cpp, common/parsers/qwen3-coder.cpp).
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.form import Calls, Form
from ggufpy.chat.syntax.form_parser import leading
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.learned import learned
from ggufpy.chat.syntax.parts import Name, Text
from ggufpy.chat.syntax.shown import Shown
from ggufpy.chat.syntax.tagged import Tagged
from ggufpy.chat.syntax.written import Wrapped

_OPENS = "<tool_call>"
JSON = Calls((Text("<tool_call>\n"), Wrapped(), Text("\n</tool_call>")), between="\n")
_LIST = Calls((Wrapped(),), opens="<tool_call>[", closes="]</tool_call>", between=", ")
_VALUES = Tagged("<parameter=", ">\n", "\n</parameter>\n", lines=True)
_FUNCTION = (Text("<function="), Name(), Text(">\n"), _VALUES, Text("</function>\n"), Text("</tool_call>"))
TAGS = Calls((Text("<tool_call>\n"), *_FUNCTION), between="\n")
_BARE_TAGS = Calls(_FUNCTION, between="\n")


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    form, header = learned(shown)
    if form.calls:
        calls = form.calls[0]
        own = [part for part in calls.parts if isinstance(part, (Wrapped, Tagged))]
        if leading(calls) != _OPENS or not own or (isinstance(own[0], Tagged) and "=" not in own[0].opens):
            return None
        return FormSyntax("hermes", Form(form.thoughts, (calls, *_others(own[0])), form.wraps), header)
    if (
        not shown.calls(1)
        and _OPENS in shown.source
        and "</tool_call>" in shown.source
        and "arg_key" not in shown.source
    ):
        first = TAGS if "<function=" in shown.source else JSON
        return FormSyntax("hermes", Form(form.thoughts, (first, JSON, _LIST, TAGS, _BARE_TAGS), form.wraps), header)
    return None


def _others(own: Wrapped | Tagged) -> tuple[Calls, ...]:
    """What models of this kind also write."""
    return (TAGS, _LIST) if isinstance(own, Wrapped) else (JSON, _LIST, _BARE_TAGS)
