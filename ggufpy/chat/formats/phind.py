"""phind: Phind's CodeLlama. The system message is always the one that the model was trained on."""

from __future__ import annotations

from ggufpy.chat.formats._format import Turn, Turns

FORMATS = [
    Turns(
        "phind",
        {
            "user": Turn("### User Message: ", "### User Message:"),
            "assistant": Turn("### Assistant: ", "### Assistant:"),
        },
        ends=("\n\n",),
        head="### System Prompt\nYou are an intelligent programming assistant.\n\n",
        reply="### Assistant:",
    )
]
