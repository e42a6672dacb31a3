"""snoozy: GPT4All's Snoozy."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

FORMATS = [
    Turns(
        "snoozy",
        {"user": Turn("### Prompt: ", "### Prompt:"), "assistant": Turn("### Response: ", "### Response:")},
        ends=("\n",),
        head=SYSTEM + "\n",
        system=(
            "The prompt below is a question to answer, a task to complete, or a conversation to respond to; "
            "decide which and write an appropriate response."
        ),
        reply="### Response:",
        stops=("###",),
    )
]
