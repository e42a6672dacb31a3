"""Templates as families of models have them: what chats of every kind become, and what transformers makes of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from chat_families import CHANNELS, CHATML, FAMILIES, HEADERS, INST, TURNS
from chat_renderer import render, renderer

from ggufpy.chat import ChatTemplate
from ggufpy.errors import GGUFError


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def system(text: Any) -> dict[str, Any]:
    return {"role": "system", "content": text}


TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "Gets <x> & y.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Zürich", "Rome"]},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["city"],
        },
    },
}
TOOL_JSON = (
    '{"type": "function", "function": {"name": "get", "description": "Gets <x> & y.", "parameters": {"type": "object", '
    '"properties": {"city": {"type": "string", "enum": ["Zürich", "Rome"]}, "days": {"type": "array", "items": '
    '{"type": "integer"}}}, "required": ["city"]}}}'
)
# as clients send it: arguments are JSON texts, and there is no content
CALL = {"id": "call00001", "type": "function", "function": {"name": "get", "arguments": '{"city": "Z\\u00fcrich"}'}}
CALLED = [
    user("Go"),
    assistant(None, tool_calls=[CALL]),
    {"role": "tool", "tool_call_id": "call00001", "content": "21"},
]
PLAIN = [user("Hi ")]
TURNS_OF_ALL = [system("Be."), user("a"), assistant("b"), user("c")]
THOUGHT = [user("a"), assistant("b", reasoning_content="t"), user("c")]


@pytest.mark.parametrize(
    ("source", "messages", "extra", "right"),
    [
        (CHATML, PLAIN, {}, "<|im_start|>user\nHi <|im_end|>\n<|im_start|>assistant\n"),
        (
            CHATML,
            TURNS_OF_ALL,
            {"enable_thinking": False},
            "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
            "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        (
            CHATML,
            CALLED,
            {"tools": [TOOL]},
            f"<|im_start|>system\n# Tools\n\n<tools>\n{TOOL_JSON}\n</tools><|im_end|>\n<|im_start|>user\nGo<|im_end|>\n"
            '<|im_start|>assistant\n<tool_call>\n{"name": "get", "arguments": {"city": "Zürich"}}\n</tool_call>'
            "<|im_end|>\n<|im_start|>user\n<tool_response>\n21\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            CHATML,
            [user("a"), assistant("<think>\nt\n</think>\n\nb")],
            {"add_generation_prompt": False},
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\nt\n</think>\n\nb<|im_end|>\n",
        ),
        (
            HEADERS,
            PLAIN,
            {},
            "<s><|head|>system<|/head|>\n\nToday: 4\n</s><|head|>user<|/head|>\n\nHi<|eot|>"
            "<|head|>assistant<|/head|>\n\n",
        ),
        (
            HEADERS,
            CALLED,
            {"add_generation_prompt": False, "date_string": "1 May 2000"},
            "<s><|head|>system<|/head|>\n\nToday: 4\n</s><|head|>user<|/head|>\n\nGo<|eot|>"
            '<|head|>assistant<|/head|>\n\n{"name": "get", "parameters": {"city": "Zürich"}}'
            '<|eot|><|head|>ipython<|/head|>\n\n"21"<|eot|>',
        ),
        (INST, TURNS_OF_ALL, {}, "<s>[INST]a[/INST]b</s>[INST]Be.\n\nc[/INST]"),
        (INST, [user("a"), user("b")], {}, "<s>[INST]a\nb[/INST]"),
        (
            INST,
            CALLED,
            {"tools": [TOOL]},
            f"<s>[AVAILABLE_TOOLS][{TOOL_JSON}][/AVAILABLE_TOOLS][INST]Go[/INST][TOOL_CALLS]["
            '{"name": "get", "arguments": {"city": "Zürich"}, "id": "call00001"}]</s>'
            '[TOOL_RESULTS]{"content": 21, "call_id": "call00001"}',
        ),
        (
            TURNS,
            TURNS_OF_ALL,
            {},
            "<s><turn>user\nBe.\n\na</turn>\n<turn>model\nb</turn>\n<turn>user\nc</turn>\n<turn>model\n",
        ),
        (TURNS, [system("S"), system("T"), user("a")], {}, "<s><turn>user\nS\nT\n\na</turn>\n<turn>model\n"),
        (
            CHANNELS,
            THOUGHT,
            {"reasoning_effort": "high"},
            "<|start|>system<|message|>Reasoning: high\n<|end|><|start|>user<|message|>a<|end|><|start|>assistant"
            "<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|message|>b<|end|><|start|>user<|message|>c"
            "<|end|><|start|>assistant",
        ),
        (
            CHANNELS,
            CALLED,
            {"tools": [TOOL]},
            '<|start|>system<|message|>Reasoning: medium\n// Gets <x> and y.\ntype get = {\ncity: "Zürich" | "Rome", '
            "days?: number[]\n}\n<|end|><|start|>user<|message|>Go<|end|><|start|>assistant to=functions.get<|message|>"
            '{"city": "Zürich"}<|call|><|start|>functions.get<|message|>"21"<|end|><|start|>assistant',
        ),
    ],
)  # fmt: skip
def test_families(source: str, messages: Any, extra: Any, right: str) -> None:
    assert render(source, messages, **extra) == right


@pytest.mark.parametrize(
    ("source", "messages", "message"),
    [
        (HEADERS, [user("a"), assistant("", tool_calls=[CALL, CALL])], "only supports single tool-calls"),
        (INST, [user("a"), {"role": "critic", "content": "b"}], "Only user and assistant roles"),
        (TURNS, [assistant("a"), user("b")], "roles must alternate"),
        (CHANNELS, [user("a"), {"role": "tool", "content": "x"}], "no previous assistant message"),
    ],
)
def test_what_families_refuse_is_one_line(source: str, messages: Any, message: str) -> None:
    with pytest.raises(GGUFError, match=message) as caught:
        render(source, messages)
    assert "\n" not in str(caught.value)


def test_ids_of_calls_as_a_template_takes_them() -> None:
    """Mistral's templates want nine letters and digits."""
    call, answer = dict(CALL), {"role": "tool", "content": "21"}
    for one in ("call_0123456789", "", None):
        messages = [user("Go"), assistant(None, tool_calls=[call | {"id": one}]), answer | {"tool_call_id": one}]
        assert render(INST, messages).endswith(
            '"id": "call00001"}]</s>[TOOL_RESULTS]{"content": 21, "call_id": "call00001"}'
        )
    two = assistant(None, tool_calls=[call | {"id": "a"}, call | {"id": "b"}])
    answers = [answer | {"tool_call_id": "b"}, answer, answer | {"tool_call_id": "c"}]
    text = render(INST, [user("Go"), two, *answers])
    assert [text[i + 12 : i + 21] for i in range(len(text)) if text.startswith('"call_id": "', i)] == [
        "call00002",
        "call00001",
        "call00000",
    ]
    shown = "{% for m in messages %}{{ m.tool_call_id }}{% for c in m.tool_calls %}{{ c.id }},{% endfor %}{% endfor %}"
    assert render(shown, [user("Go"), two, *answers]) == "a,b,bc"


def test_messages_in_openais_older_shape() -> None:
    old = {"role": "assistant", "content": None, "function_call": {"name": "get", "arguments": '{"a": 1}'}}
    text = render(CHATML, [user("Go"), old, {"role": "function", "name": "get", "content": "21"}])
    assert '<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>' in text
    assert "<tool_response>\n21\n</tool_response>" in text


# -- continuing the last message --


@pytest.mark.parametrize(
    ("source", "messages", "right"),
    [
        (
            CHATML,
            [user("a"), assistant("One, ")],
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nOne, ",
        ),
        (TURNS, [user("a"), assistant("One, ")], "<s><turn>user\na</turn>\n<turn>model\nOne,"),
        (TURNS, [user("a"), assistant([{"type": "text", "text": "1,"}])], "<s><turn>user\na</turn>\n<turn>model\n1,"),
        (TURNS, [system("S"), user("Say ")], "<s><turn>user\nS\n\nSay"),
        (INST, [user("a"), assistant("")], "<s>[INST]a[/INST]"),
        (
            INST,
            [user("quince"), assistant("a"), user("b"), assistant("a")],
            "<s>[INST]quince[/INST]a</s>[INST]b[/INST]a",
        ),
    ],
)  # fmt: skip
def test_continuing_the_last_message(source: str, messages: Any, right: str) -> None:
    assert render(source, messages, continue_final=True) == right


@pytest.mark.parametrize(
    ("source", "messages", "message"),
    [
        (CHATML, [user("a"), assistant(None, tool_calls=[CALL])], "has no text to continue"),
        ("{{ messages[0].content }}", [user("a"), assistant("b")], "changes the last message"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", [user("a")], "changes the last message"),
        ("{% for m in messages %}{{ m.content[-5:] }}{% endfor %}", [user("abcdefgh")], "changes the last message"),
    ],
)
def test_messages_that_cannot_be_continued(source: str, messages: Any, message: str) -> None:
    with pytest.raises(GGUFError, match=message):
        render(source, messages, continue_final=True)


# -- special tokens --


def test_special_tokens_that_a_model_lacks() -> None:
    """Undefined, as transformers has them, but nothing where they are added to a text, as in llama.cpp."""
    source = "{{ bos_token }}{{ bos_token is defined }}{{ bos_token + 'a' + eos_token }}{{ 'b' ~ pad_token }}"
    chat = ChatTemplate(source, "", "</s>", renderer=renderer(), tokens={"pad_token": "<pad>"})
    assert chat.render(PLAIN) == "Falsea</s>b<pad>"
    assert chat.render(PLAIN, bos_token="<x>") == "<x>True<x>a</s>b<pad>"


# -- against transformers --


def checker() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "tools" / "check_templates.py"
    spec = importlib.util.spec_from_file_location("check_templates", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_templates"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.oracle
@pytest.mark.parametrize("name", FAMILIES)
def test_families_against_transformers(name: str) -> None:
    pytest.importorskip("transformers")
    found = checker().check(FAMILIES[name], renderer())
    assert not found.wrong
    assert found.same > 30
    assert found.adapted > 10


@pytest.mark.oracle
def test_templates_of_vocabularies_against_transformers(shared: Path) -> None:
    pytest.importorskip("transformers")
    assert checker().main([str(shared / "vocab")]) == 0


@pytest.mark.oracle
def test_named_templates_against_transformers() -> None:
    pytest.importorskip("transformers")
    found = checker().check({"default": INST, "tool_use": CHATML}, renderer())
    assert not found.wrong
    assert found.adapted > 10
