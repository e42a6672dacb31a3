"""chatml: OpenAI's ChatML, the format of many models. A chat without a system message has an empty one."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

_BEGINS = {role: f"<|im_start|>{role}\n" for role in ("user", "assistant")}

FORMATS = [
    Turns(
        "chatml",
        {role: Turn(begin, begin) for role, begin in _BEGINS.items()},
        ends=("<|im_end|>\n",),
        head=f"<|im_start|>system\n{SYSTEM}<|im_end|>\n",
        reply=_BEGINS["assistant"],
        stops=("<|im_end|>",),
    )
]
