"""Tools for models whose template knows none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from llm_fakes import parts
from test_completions_chat import ASK, CALL, TOOL, saying

import ggufpy
from ggufpy.chat import ChatTemplate
from ggufpy.chat.syntax import syntax_of
from ggufpy.chat.syntax.generic import NAME
from ggufpy.chat.tools import offered
from ggufpy.generate.loading import Later
from ggufpy.llm import Llama

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HISTORY: list[dict[str, Any]] = [
    *ASK,
    {"role": "assistant", "content": "Hm.", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
    {"role": "tool", "tool_call_id": "a", "content": "rain"},
]  # fmt: skip


def plain(text: str) -> Llama:
    """`saying`, by a template that knows no tools."""
    template: Any = Later(lambda: ChatTemplate(PLAIN))
    llm = saying(text)
    return Llama.from_parts(replace(llm._parts, template=template))


def test_which_templates_want_it() -> None:
    assert syntax_of(ChatTemplate(PLAIN)).name == NAME
    assert syntax_of(ChatTemplate("{{ tools }}" + PLAIN)).name != NAME


def test_tools_are_told_and_calls_read_back() -> None:
    with plain(CALL) as llm:
        prompt = llm.chat_prompt(ASK, offered([TOOL])).text
        assert json.dumps(TOOL["function"]) in prompt
        out: Any = llm.create_chat_completion(ASK, tools=[TOOL], temperature=0.0)
        (call,) = out["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}


def test_history_is_told_in_the_same_form() -> None:
    with plain("Rain.") as llm:
        text = llm.chat_prompt(HISTORY, offered([TOOL])).text
        assert "Hm.\n" + CALL in text
        assert "<tool_response>\nrain\n</tool_response>" in text
        assert "Hm.\n" + CALL in llm.chat_prompt(HISTORY).text
        system = [{"role": "system", "content": "Be brief."}, *ASK]
        assert "Be brief.\n\nYou may call" in llm.chat_prompt(system, offered([TOOL])).text
        assert "You may call" not in llm.chat_prompt(system).text
        assert "You may call" not in llm.chat_prompt(system, offered([TOOL], "none")).text


def test_a_call_can_be_required() -> None:
    with plain("No.") as llm:  # what it would say is not allowed
        out: Any = llm.create_chat_completion(ASK, 400, tools=[TOOL], tool_choice="required", temperature=0.0)
    assert out["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_messages_are_checked_first() -> None:
    template: Any = Later(lambda: ChatTemplate(PLAIN))
    llm = Llama.from_parts(replace(parts(n_ctx=512), template=template))
    with llm, pytest.raises(ggufpy.GGUFError, match="role"):
        llm.create_chat_completion([{"content": "a"}], tools=[TOOL])
