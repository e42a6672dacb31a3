"""Chat formats: the prompts that llama-cpp-python writes, as facts in chat_format_prompts.json.

`python tools/check_llama_cpp.py --write` made them with llama-cpp-python's own
functions; `--only formats` compares many more.
"""

from __future__ import annotations

import json
import pkgutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from ggufpy.chat import formats
from ggufpy.chat.formats import UnknownFormat, _format
from ggufpy.errors import GGUFError

FACTS = json.loads(Path(__file__).with_name("chat_format_prompts.json").read_text(encoding="utf-8"))
USER = [{"role": "user", "content": "Hi"}]
TOOLS = FACTS["tools"]


def quietly(name: str, chat: Any, tools: Any = None, **options: Any) -> str:
    """A prompt, whatever it leaves out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return formats.get(name).render(chat, tools, **options)


@pytest.mark.parametrize("name", FACTS["formats"])
def test_prompts_are_those_of_llama_cpp_python(name: str) -> None:
    facts = FACTS["formats"][name]
    assert [quietly(name, chat) for chat in FACTS["chats"]] == facts["prompts"]
    assert list(formats.get(name).stops) == facts["stops"]


@pytest.mark.parametrize("name", FACTS["functions"])
def test_prompts_with_functions(name: str) -> None:
    for fact in FACTS["functions"][name]:
        assert formats.get(name).render(fact["chat"], TOOLS if fact["tools"] else None) == fact["prompt"]


def test_every_file_is_a_format_and_every_format_is_tested() -> None:
    files = [m.name for m in pkgutil.iter_modules(formats.__path__) if not m.name.startswith("_")]
    assert len(files) >= 24
    assert formats.names() == sorted([*FACTS["formats"], *FACTS["functions"]])
    for name in formats.names():
        form = formats.get(name)
        assert form.name == name
        assert isinstance(form.stops, tuple)
        assert all(form.stops)
        assert form.takes_tools == (name in FACTS["functions"])


@pytest.mark.parametrize("name", formats.names())
def test_without_an_answer_to_come(name: str) -> None:
    whole, cut = (quietly(name, USER, add_generation_prompt=wanted) for wanted in (True, False))
    assert whole.startswith(cut)
    assert whole != cut or name == "alpaca"  # in which nothing opens an answer


@pytest.mark.parametrize("name", formats.names())
def test_the_texts_of_parts_are_told(name: str) -> None:
    role = "User" if name == "open-orca" else "user"
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert quietly(name, [{"role": role, "content": parts}]) == quietly(name, [{"role": role, "content": "one\ntwo"}])


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownFormat, match=r"chat_format 'chat-ml' is not known; known: alpaca, .*chatml, .*zephyr"):
        formats.get("chat-ml")


def test_what_has_no_place_is_left_out_with_a_warning() -> None:
    chat = [{"role": "system", "content": "Be kind"}, *USER]
    with pytest.warns(UserWarning, match="'gemma' has no place for a message of role 'system'"):
        assert "Be kind" not in formats.get("gemma").render(chat)
    with pytest.warns(UserWarning, match="'vicuna' has no place for a message of role 'system'"):
        formats.get("vicuna").render(chat)
    with pytest.warns(UserWarning, match="'chatml' does not tell the model of tools: use 'chatml-function-calling'"):
        assert formats.get("chatml").render(USER, TOOLS) == formats.get("chatml").render(USER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        formats.get("chatml").render(chat)
        formats.get("llama-3").render([*chat, {"role": "developer", "content": "Be brief"}])


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("Hi", "messages must be a list"),
        ([], "messages is empty"),
        ([{"content": "Hi"}], r"messages\[0\].role is missing"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "models are given text only"),
    ],
)
def test_messages_of_another_form_are_refused(messages: Any, problem: str) -> None:
    with pytest.raises(GGUFError, match=problem):
        formats.get("chatml").render(messages)


def test_results_without_a_call_and_tools_without_a_name() -> None:
    form = formats.get("functionary-v2")
    with pytest.raises(GGUFError, match=r"messages\[1\] is the result of no call"):
        form.render([*USER, {"role": "tool", "tool_call_id": "c9", "content": "12"}], TOOLS)
    with pytest.raises(GGUFError, match=r"messages\[0\]\.(function_call|tool_calls\[0\]\.function) must be"):
        form.render([{"role": "assistant", "content": None, "function_call": "now"}], TOOLS)
    with pytest.raises(GGUFError, match=r"tools\[0\] must be"):
        form.render(USER, [{"type": "function", "function": {"parameters": {}}}])


def test_a_result_has_the_name_of_its_call() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": {"zone": "é"}}}
    chat = [*USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    result = {"role": "tool", "tool_call_id": "c1", "content": "12:00"}
    written = {name: formats.get(name).render([*chat, result], TOOLS) for name in FACTS["functions"]}
    assert "<|from|>now\n<|recipient|>all\n<|content|>12:00\n" in written["functionary-v2"]
    assert "function name=functions.now:\n12:00<|END_OF_FUNCTION_RESULT|>\n" in written["functionary-v1"]
    assert "function name=functions.now:\n12:00\n" in written["functionary"]
    assert '<|im_start|>assistant\nfunctions.now:\n{"zone": "é"}<|im_end|>\n' in written["chatml-function-calling"]
    assert "<|im_start|>tool\n12:00<|im_end|>\n" in written["chatml-function-calling"]


def test_tools_are_told_without_a_system_message_too() -> None:
    form = formats.get("chatml-function-calling")
    head = "<|im_start|>system\n\n\nYou have access to the following functions:\n\nfunctions.get_weather:"
    assert form.render(USER, TOOLS).startswith(head)
    assert '"it\'s <b>"' in form.render([{"role": "user", "content": '"it\'s <b>"'}])


def test_deep_schemas_are_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(10_000):
        schema = {"type": "array", "items": schema}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": schema}}}}
    for name in FACTS["functions"]:
        with pytest.raises(GGUFError, match=r"nested deeper than 64 levels|tools\[0\] cannot be written as JSON"):
            formats.get(name).render(USER, [tool])


def test_schemas_that_hold_themselves_are_refused() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    schema["properties"]["again"] = schema
    doubled: dict[str, Any] = {"type": "string"}
    for _ in range(60):
        doubled = {"type": "object", "properties": {"a": doubled, "b": doubled}}
    for parameters in (schema, doubled):
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        for name in FACTS["functions"]:
            with pytest.raises(GGUFError, match=r"tools\[0\] holds more than 100,000 values"):
                formats.get(name).render(USER, [tool])


def test_a_head_has_a_place_for_the_system_message_or_is_fixed() -> None:
    form = _format.Turns("t", {"user": _format.Turn("<u>", "<empty>")}, ends=("a", "b"), head="[{system}]", system="S")
    assert form.render(USER) == "[S]<u>Hia"
    assert form.render([{"role": "system", "content": "{system}"}, *USER, *USER]) == "[{system}]<u>Hia<u>Hib"
    assert form.render([*USER, {"role": "user", "content": None}]) == "[S]<u>Hia<empty>"
