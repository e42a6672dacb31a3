"""zephyr: Hugging Face's Zephyr. Roles are followed by two line ends, as llama-cpp-python writes them."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

_BEGINS = {role: f"<|{role}|>\n\n" for role in ("user", "assistant")}

FORMATS = [
    Turns(
        "zephyr",
        {role: Turn(begin, begin) for role, begin in _BEGINS.items()},
        ends=("</s>\n",),
        head=f"<|system|>\n{SYSTEM}</s>\n",
        reply=_BEGINS["assistant"],
        stops=("</s>",),
    )
]
