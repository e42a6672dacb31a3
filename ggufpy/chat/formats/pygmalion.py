"""pygmalion: PygmalionAI's Metharme models. An answer ends with its line."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

FORMATS = [
    Turns(
        "pygmalion",
        {"user": Turn("<|user|>\n", "<|user|>\n"), "assistant": Turn("<|model|>\n", "<|model|>\n")},
        ends=("\n\n",),
        head=f"<|system|>{SYSTEM}\n\n",
        reply="<|model|>\n",
        stops=("\n",),
    )
]
