"""saiga: Ilya Gusev's Saiga models. Answers have the role "bot", also in messages."""

from __future__ import annotations

from ggufpy.chat.formats._format import Turn, Turns

_BEGINS = {role: f"<s>{role}\n" for role in ("system", "user", "bot")}

FORMATS = [
    Turns("saiga", {role: Turn(begin, begin) for role, begin in _BEGINS.items()}, ends=("</s>",), reply="<s>bot")
]
