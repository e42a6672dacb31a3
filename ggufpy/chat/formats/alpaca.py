"""alpaca: Stanford's Alpaca and what was trained like it. The prompt ends with the last message: nothing opens the
answer."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns

FORMATS = [
    Turns(
        "alpaca",
        {
            "user": Turn("### Instruction: ", "### Instruction:"),
            "assistant": Turn("### Response: ", "### Response:"),
        },
        ends=("\n\n", "</s>"),
        head=SYSTEM + "\n\n",
    )
]
