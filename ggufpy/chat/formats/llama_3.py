"""llama-3: Meta's Llama 3 instruction models."""

from __future__ import annotations

from ggufpy.chat.formats._format import Turn, Turns

_ROLES = {role: f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("system", "user", "assistant")}

FORMATS = [
    Turns(
        "llama-3",
        {role: Turn(begin, begin) for role, begin in _ROLES.items()},
        ends=("<|eot_id|>",),
        reply=_ROLES["assistant"],
        stops=("<|eot_id|>",),
    )
]
