"""gemma: Google's first Gemma models. System messages have no place."""

from __future__ import annotations

from ggufpy.chat.formats._format import Turn, Turns

_USER, _MODEL = "<start_of_turn>user\n", "<start_of_turn>model\n"

FORMATS = [
    Turns(
        "gemma",
        {"user": Turn(_USER, _USER), "assistant": Turn(_MODEL, _MODEL)},
        ends=("<end_of_turn>\n",),
        reply=_MODEL,
        stops=("<end_of_turn>\n",),
    )
]
