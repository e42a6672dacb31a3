"""redpajama-incite: Together's RedPajama-INCITE chat models."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

FORMATS = [
    Turns(
        "redpajama-incite",
        {"user": Turn("<human>: ", "<human>:"), "assistant": Turn("<bot>: ", "<bot>:")},
        ends=("\n",),
        head=SYSTEM + "\n",
        reply="<bot>:",
        stops=("<human>",),
    )
]
