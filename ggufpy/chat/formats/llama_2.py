"""llama-2: Meta's Llama 2 chat models. The system message is within the first turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ggufpy.chat.formats._format import Format, Message, first_system, text

_BEGINS = {"user": "<s>[INST]", "assistant": "[/INST]"}
_ENDS = (" ", "</s>")


class Llama2(Format):
    """Behind a system message the first turn is its text alone; others are framed. The prompt ends with [/INST]."""

    name = "llama-2"
    stops = ()

    def _written(self, chat: list[Message], tools: Sequence[Mapping[str, Any]], reply: bool) -> str:
        system, rest = first_system(chat)
        made = [f"[INST] <<SYS>>\n{system}\n<</SYS>> " if system else " "]
        told = [message for message in rest if message["role"] in _BEGINS]
        for i, message in enumerate(told):
            begin, content = _BEGINS[message["role"]], text(message["content"])
            if system and i == 0:
                made.append(content + _ENDS[0])
            elif content:
                made.append(f"{begin}{content} {_ENDS[i % 2]}")
            else:
                made.append(begin + " ")
        self._left_out([message["role"] for message in rest if message["role"] not in _BEGINS])
        return "".join(made) + "[/INST]" * reply


FORMATS = [Llama2()]
