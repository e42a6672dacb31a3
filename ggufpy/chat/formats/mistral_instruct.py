"""mistral-instruct: Mistral AI's first instruction models. System messages have no place."""

from __future__ import annotations

from ggufpy.chat.formats._format import Turn, Turns

FORMATS = [
    Turns(
        "mistral-instruct",
        {"user": Turn("[INST] ", end=""), "assistant": Turn(" [/INST]", end="</s>")},
        reply=" [/INST]",
        stops=("</s>",),
    )
]
