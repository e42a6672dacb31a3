"""vicuna: LMSYS's Vicuna 1.1 and later. The system message is always the one that the models were trained on."""

from __future__ import annotations

from ggufpy.chat.formats._format import Turn, Turns

_HEAD = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)

FORMATS = [
    Turns(
        "vicuna",
        {"user": Turn("USER: ", "USER:"), "assistant": Turn("ASSISTANT: ", "ASSISTANT:")},
        ends=(" ", "</s>"),
        head=_HEAD,
        reply="ASSISTANT:",
    )
]
