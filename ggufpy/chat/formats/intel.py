"""intel: Intel's Neural Chat, as llama-cpp-python writes it: it has the name of the place where the system message
would go, and a second colon after roles."""

from __future__ import annotations

from ggufpy.chat.formats._format import Turn, Turns

FORMATS = [
    Turns(
        "intel",
        {
            "user": Turn("### User:: ", "### User::"),
            "assistant": Turn("### Assistant:: ", "### Assistant::"),
        },
        ends=("\n",),
        head="### System:\n{system_message}\n",
        reply="### Assistant::",
    )
]
