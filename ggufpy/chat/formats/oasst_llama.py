"""oasst_llama: Open Assistant's models on Llama."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

FORMATS = [
    Turns(
        "oasst_llama",
        {"user": Turn("<|prompter|>", "<|prompter|>"), "assistant": Turn("<|assistant|>", "<|assistant|>")},
        ends=("</s>",),
        head=f"[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n",
        reply="<|assistant|>",
    )
]
