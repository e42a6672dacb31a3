"""qwen: the first Qwen chat models."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

_BEGINS = {role: f"<|im_start|>{role}\n" for role in ("user", "assistant")}

FORMATS = [
    Turns(
        "qwen",
        {role: Turn(begin, begin) for role, begin in _BEGINS.items()},
        ends=("<|im_end|>\n",),
        head=f"<|im_start|>system\n{SYSTEM}<|im_end|>\n",
        system="You are a helpful assistant.",
        reply=_BEGINS["assistant"],
        stops=("<|endoftext|>",),
    )
]
