"""Functionary 3.2: >>> and whom the text is for, "all" or a tool's name, on a line of its own. The prompt ends with the
first >>>. Version 3.1 is learned from its template.

Source: MeetKai's notes on prompts.
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.form import Calls, Form
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.parts import Name, Text
from ggufpy.chat.syntax.shown import Shown
from ggufpy.chat.syntax.written import Json

_CALLS = Calls((Text(">>>"), Name("{}\n"), Json()), lead=">>>")


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    if not any(prompt.endswith(">>>") for prompt in shown.prompts):
        return None
    return FormSyntax("functionary", Form(None, (_CALLS,), (">>>all\n",)), shown.start)
