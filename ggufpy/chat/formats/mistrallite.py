"""mistrallite: Amazon's MistralLite."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

_ASSISTANT = "</s>\n<|assistant|>"

FORMATS = [
    Turns(
        "mistrallite",
        {"user": Turn("<|prompter|>", "<|prompter|>"), "assistant": Turn(_ASSISTANT, _ASSISTANT)},
        ends=(" ",),
        head=f"<|system|>{SYSTEM}</s>",
        reply=_ASSISTANT,
    )
]
