"""baichuan and baichuan-2: they differ in the reserved tokens that stand for roles."""

from __future__ import annotations

from ggufpy.chat.formats._format import SYSTEM, Turn, Turns


def _baichuan(name: str, user: str, assistant: str) -> Turns:
    turns = {"user": Turn(user, user), "assistant": Turn(assistant, assistant)}
    return Turns(name, turns, head=SYSTEM, reply=assistant)


FORMATS = [
    _baichuan("baichuan", "<reserved_102>", "<reserved_103>"),
    _baichuan("baichuan-2", "<reserved_106>", "<reserved_107>"),
]
