"""chatglm3: Zhipu's ChatGLM3."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

FORMATS = [
    Turns(
        "chatglm3",
        {"user": Turn("<|user|>\n ", "<|user|>"), "assistant": Turn("<|assistant|>\n ", "<|assistant|>")},
        head=f"<|system|>\n{SYSTEM}",
        reply="<|assistant|>",
        stops=("</s>",),
    )
]
