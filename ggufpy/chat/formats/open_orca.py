"""open-orca: Open-Orca's models on Mistral, with the system message that they were trained on. Roles in messages are
"User" and "Assistant", as in llama-cpp-python; OpenAI's names have no place."""

from __future__ import annotations

from ggufpy.chat.formats._format import Turn, Turns

_HEAD = (
    "You are a helpful assistant. Please answer truthfully and write out your thinking step by step to be sure"
    " you get the right answer. If you make a mistake or encounter an error in your thinking, say so out loud "
    "and attempt to correct it. If you don't know or aren't sure about something, say so clearly. You will act"
    " as a professional logician, mathematician, and physicist. You will also act as the most appropriate type"
    " of expert to answer any particular question or solve the relevant problem; state which expert type your "
    "are, if so. Also think of any particular named expert that would be ideal to answer the relevant question"
    " or solve the relevant problem; name and act as them, if appropriate.<|end_of_turn|>\n"
)

FORMATS = [
    Turns(
        "open-orca",
        {role: Turn(f"{role}: ", f"{role}: ") for role in ("User", "Assistant")},
        ends=("<|end_of_turn|>\n",),
        head=_HEAD,
        reply="Assistant: ",
        stops=("User",),
    )
]
