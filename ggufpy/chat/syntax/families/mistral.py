"""Mistral: [TOOL_CALLS], then a list of JSON objects, or from the tokeniser's version 11 on each call's name and
arguments. Ids have nine letters or digits, and templates refuse others.

Source: mistral_common's tokenisers; the templates of Mistral Nemo, Small 3.2 and Ministral 3. Where the id stands
behind the arguments it is made here: the call has been said by then.
"""

from __future__ import annotations

from ggufpy.chat.syntax.base import Syntax
from ggufpy.chat.syntax.form import Calls, Form, Thoughts
from ggufpy.chat.syntax.form_syntax import FormSyntax
from ggufpy.chat.syntax.learned import thoughts_of
from ggufpy.chat.syntax.output import nine_letters
from ggufpy.chat.syntax.parts import Id, Name, Text
from ggufpy.chat.syntax.shown import Shown
from ggufpy.chat.syntax.written import Json, Wrapped

_MARK = "[TOOL_CALLS]"
_LIST = Calls((Wrapped(id_key="id", id_pattern="[a-zA-Z0-9]{9}"),), opens=f"{_MARK}[", closes="]", between=", ")
_NAMED = Calls((Text(_MARK), Name(), Text("[ARGS]", optional=True), Json()))
_WITH_ID = Calls((Text(_MARK), Name(), Text("[CALL_ID]"), Id(), Text("[ARGS]"), Json()))


def syntax(shown: Shown, architecture: str) -> Syntax | None:
    if _MARK not in shown.source:
        return None
    written = shown.calls(1) or shown.source
    thoughts = thoughts_of(shown)
    if thoughts is None and "[THINK]" in shown.source:
        thoughts = Thoughts("[THINK]", "[/THINK]")
    calls = (_WITH_ID, _LIST) if "[CALL_ID]" in written else (_NAMED, _LIST)
    if "[ARGS]" not in written:
        calls = (_LIST, _NAMED)
    return FormSyntax("mistral", Form(thoughts, calls, make_id=nine_letters), shown.start)
