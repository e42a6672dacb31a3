"""DeepSeek: V3 and R1 with a fenced block of JSON, V3.1 with JSON, V3.2 and V4 with tags of DSML.

Source: DeepSeek's templates and its notes on prompts. R1's distillations leave out the text that opens all calls.
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.form import Calls, Form, Thoughts
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.learned import thoughts_of
from ggufpy.chat.syntax.parts import Name, Text
from ggufpy.chat.syntax.shown import Shown
from ggufpy.chat.syntax.tagged import Tagged
from ggufpy.chat.syntax.written import Json

_BEGIN, _SEP, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_OPENS, _CLOSES = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_FENCED = Calls(
    (Text(_BEGIN), Text(f"function{_SEP}"), Name(), Text("\n```json\n"), Json(), Text("\n```"), Text(_END)),
    opens=_OPENS,
    closes=_CLOSES,
    between="\n",
)
_PLAIN = Calls((Text(_BEGIN), Name(), Text(_SEP), Json(), Text(_END)), opens=_OPENS, closes=_CLOSES)


def _dsml(section: str) -> Calls:
    values = Tagged(
        '<｜DSML｜parameter name="', '">', "</｜DSML｜parameter>\n", attribute=('" string="', "true", "false")
    )
    parts = (Text('<｜DSML｜invoke name="'), Name(), Text('">\n'), values, Text("</｜DSML｜invoke>\n"))
    return Calls(parts, opens=f"\n\n<｜DSML｜{section}>\n", closes=f"</｜DSML｜{section}>")


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    source = shown.source
    if "｜DSML｜" in source:
        names = ("tool_calls", "function_calls")
        section = next((name for name in names if name in (shown.calls(1) or source)), names[0])
        calls = (_dsml(section), *(_dsml(name) for name in names if name != section))
    elif "tool▁calls▁begin" in source or "tool▁sep" in source:
        calls = (_FENCED, _PLAIN) if "```json" in source else (_PLAIN, _FENCED)
    else:
        return None
    thoughts = thoughts_of(shown)
    if thoughts is None or not thoughts.opens.strip():
        thoughts = Thoughts("<think>", "</think>")
    return FormSyntax("deepseek", Form(thoughts, calls), shown.start)
