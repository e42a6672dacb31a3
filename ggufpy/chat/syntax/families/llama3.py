"""Llama 3.1 to 3.3: a JSON object that is the whole message, with the key "parameters"; also behind <|python_tag|>.

Source: Meta's prompt format of Llama 3.1. Models also write several, with semicolons between them, a list of them, or
"type": "function" within (https://github.com/ggml-org/llama.cpp/pull/24329).
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.form import Calls, Form
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.learned import learned
from ggufpy.chat.syntax.parts import Text
from ggufpy.chat.syntax.shown import NAMES, Shown
from ggufpy.chat.syntax.written import Wrapped

_OBJECT = Wrapped("name", "parameters")
_CALLS = (
    Calls((_OBJECT,), bare=True, between="; "),
    Calls((Text("<|python_tag|>"), _OBJECT), between="; "),
)


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    written = (shown.calls(1) or "").strip()
    if not written.startswith(f'{{"name": "{NAMES[0]}", "parameters": ') and not (
        not written and "<|python_tag|>" in shown.source
    ):
        return None
    form, header = learned(shown)
    return FormSyntax("llama3", Form(form.thoughts, _CALLS), header)
