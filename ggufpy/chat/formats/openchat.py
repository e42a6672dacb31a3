"""openchat: OpenChat 3.5."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

_USER, _ASSISTANT = "GPT4 Correct User: \n", "<|end_of_turn|>GPT4 Correct Assistant: \n"

FORMATS = [
    Turns(
        "openchat",
        {"user": Turn(_USER, _USER), "assistant": Turn(_ASSISTANT, _ASSISTANT)},
        ends=("<|end_of_turn|>\n",),
        head=f"{SYSTEM}<|end_of_turn|><|end_of_turn|>\n",
        reply=_ASSISTANT,
        stops=("<|end_of_turn|>",),
    )
]
