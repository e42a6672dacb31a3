"""Tools for models whose template knows none: a system message tells of them, and calls are as Hermes writes them."""

from __future__ import annotations

import json

from ggufpy.chat.syntax.base import Tools
from ggufpy.chat.syntax.families.hermes import JSON
from ggufpy.chat.syntax.form import Form
from ggufpy.chat.syntax.form_syntax import FormSyntax

NAME = "generic"
_TEXT = """You may call tools. Each line is one, with a JSON schema of its arguments:
{tools}
To call a tool, write this, with its name and a JSON object of arguments, and wait for the result:
<tool_call>
{{"name": "...", "arguments": {{...}}}}
</tool_call>"""


class Generic(FormSyntax):
    """`form` with calls as Hermes writes them."""

    def __init__(self, form: Form, header: str) -> None:
        super().__init__(NAME, Form(form.thoughts, (JSON,), form.wraps), header)

    def instructions(self, tools: Tools) -> str | None:
        lines = (json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        return _TEXT.format(tools="\n".join(lines)) if tools else None
