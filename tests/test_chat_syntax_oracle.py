"""Templates of public models: what they write for calls and thoughts is read back.

GGUFPY_TEMPLATES names a folder of *.jinja, such as llama.cpp's models/templates; none of them is kept here.
"""

from __future__ import annotations

import os
import random
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from chat_syntax_templates import call, joined, parsed, tool, values

from ggufpy.chat import ChatTemplate
from ggufpy.chat.syntax import Syntax, syntax_of
from ggufpy.errors import GGUFError

pytestmark = pytest.mark.oracle

FOLDER = os.environ.get("GGUFPY_TEMPLATES", "")
FILES = sorted(Path(FOLDER).glob("*.jinja")) if FOLDER else []
USER = {"role": "user", "content": "Hello?"}
PROPERTIES = {"city": {"type": "string"}, "count": {"type": "integer"}, "tags": {"type": "array"}}
SCHEMA = {"type": "object", "properties": {k: {**v, "description": "d"} for k, v in PROPERTIES.items()}}
TOOLS = [tool("get_weather", SCHEMA), tool("get_time", SCHEMA)]
CALLS = [
    call("get_weather", {"city": 'Par is, "é" {x}', "count": 3, "tags": ["x", "y]}"]}),
    call("get_time", {"city": "Rome"}, 2),
]
MESSAGES: dict[str, dict[str, Any]] = {
    "content": {"content": "Answer."},
    "call": {"content": "", "tool_calls": CALLS[:1]},
    "calls": {"content": "", "tool_calls": CALLS},
    "content and call": {"content": "Look.", "tool_calls": CALLS[1:]},
    "thought": {"content": "Answer.", "thought": "Ponder."},
    "thought and call": {"content": "", "thought": "Ponder.", "tool_calls": CALLS[1:]},
}
# What is not read back, and why.
KNOWN = {
    ("MiniMax-M3", "call"): "its tags are named by the keys",
    ("MiniMax-M3", "calls"): "its tags are named by the keys",
    ("MiniMax-M3", "content and call"): "its tags are named by the keys",
    ("MiniMax-M3", "thought and call"): "its tags are named by the keys",
    ("NVIDIA-Nemotron-Nano-v2", "content"): "it opens a thought before each answer and ends none",
    ("NVIDIA-Nemotron-Nano-v2", "content and call"): "it opens a thought before each answer and ends none",
    ("openai-gpt-oss-120b", "content and call"): "it writes content beside a call as a thought",
}


def prompts_of(made: ChatTemplate) -> list[str]:
    """Prompts as they are and with thinking asked for or not, the longest first."""
    found = []
    for extra in ({}, {"enable_thinking": True}, {"thinking": True}, {"enable_thinking": False}):
        try:
            found.append(made.render([USER], add_generation_prompt=True, tools=TOOLS, **extra))
        except GGUFError:
            continue
    return sorted(set(found), key=len, reverse=True)


def written(made: ChatTemplate, message: dict[str, Any]) -> str | None:
    """The chat with this message; None where the template does not show all of it."""
    wanted = [one["function"]["name"] for one in message.get("tool_calls", [])] + [message.get("thought", "")]
    for field in ("reasoning_content", "thinking"):
        fields = {field if key == "thought" else key: value for key, value in message.items()}
        try:
            text = made.render([USER, {"role": "assistant", **fields}], add_generation_prompt=False, tools=TOOLS)
        except GGUFError:
            continue
        if all(word in text.rpartition(USER["content"])[2] for word in wanted):
            return text
    return None


def start_of(one: str, other: str) -> str:
    """What both begin with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(a for a, _ in same)


def parts(text: str, prompts: list[str], end: str) -> tuple[str, str]:
    """A text cut into a prompt and what follows it, without what ends a turn."""
    shared = start_of(text[::-1], end[::-1])[::-1]
    if shared and (shared == end or text.removesuffix(shared).endswith((">", "]", "}"))):
        text = text.removesuffix(shared)
    for prompt in prompts:
        if text.startswith(prompt):
            return prompt, text[len(prompt) :]
    start = max((start_of(text, prompt) for prompt in prompts), key=len)
    start = re.sub(r"(<[^<>\s]*|\[/?[A-Z_]*)$", "", start)
    return start, text[len(start) :]


def result(syntax: Syntax, pieces: list[str], prompt: str) -> tuple[str, str, list[tuple[str, str]]]:
    content, thought, calls = joined(parsed(syntax, pieces, prompt, TOOLS))
    return content.strip(), thought.strip(), calls


@pytest.mark.skipif(not FILES, reason="GGUFPY_TEMPLATES names no folder of templates")
@pytest.mark.parametrize("case", MESSAGES)
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_what_public_templates_write_is_read_back(path: Path, case: str) -> None:
    if (path.stem, case) in KNOWN:
        pytest.skip(KNOWN[path.stem, case])
    made, message = ChatTemplate(path.read_text("utf-8"), "<BOS>", "<EOS>"), MESSAGES[case]
    whole, plain = written(made, message), written(made, {"content": "plainword"})
    prompts = prompts_of(made)
    if whole is None or plain is None or not prompts:
        pytest.skip("the template does not show it")
    syntax = syntax_of(made)
    prompt, text = parts(whole, prompts, plain.rpartition("plainword")[2])
    wanted = [(one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", [])]
    # what follows a message's header follows each prompt, whose end may have begun the thought
    found = [result(syntax, [text], one) for one in (prompt, *prompts)]
    whole_result = next((one for one in found if one[1] == message.get("thought", "")), found[0])
    assert values(whole_result[2]) == wanted, text
    assert whole_result[1] == message.get("thought", ""), text
    if message["content"] in text:
        assert message["content"] in whole_result[0], text
    rng = random.Random(1)
    for one in (prompt, *prompts):
        cuts = sorted(rng.choices(range(len(text) + 1), k=20))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert result(syntax, pieces, one) == result(syntax, [text], one)
