"""Chat formatters, handlers and their registry, as llama-cpp-python has them, on a model small enough to follow."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine import write_model
from llm_fakes import fake_llama

import ggufpy
from ggufpy.chat import formats
from ggufpy.errors import GGUFError
from ggufpy.llama_cpp import llama_chat_format
from ggufpy.llama_cpp.llama_chat_format import (
    ChatFormatterResponse,
    Jinja2ChatFormatter,
    LlamaChatCompletionHandlerNotFoundException,
    LlamaChatCompletionHandlerRegistry,
    chat_formatter_to_chat_completion_handler,
    get_chat_completion_handler,
    hf_autotokenizer_to_chat_formatter,
    hf_tokenizer_config_to_chat_completion_handler,
    hf_tokenizer_config_to_chat_formatter,
    register_chat_completion_handler,
    register_chat_format,
)

USER: list[Any] = [{"role": "user", "content": "Hi"}]
WEATHER = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": WEATHER}]
CHOICE = {"type": "function", "function": {"name": "get_weather"}}
MISTRAL = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}" \
    "{{ m.content + eos_token }}{% endif %}{% endfor %}"  # fmt: skip


@pytest.fixture
def registry() -> Iterator[LlamaChatCompletionHandlerRegistry]:
    """The registry, which is empty again afterwards."""
    yield LlamaChatCompletionHandlerRegistry()
    for name in formats.handlers.names():
        formats.handlers.remove(name)


def vwxyz(*, messages: Any, **_: Any) -> ChatFormatterResponse:
    """A format whose prompts the model goes on with `wxyz`."""
    return ChatFormatterResponse(messages[-1]["content"] + "v", stop=["yz"])


class Recorder:
    """A model that records what it is asked for, and says `text`."""

    def __init__(self, text: str = "{}") -> None:
        self.text = text
        self.asked: dict[str, Any] = {}

    def tokenize(self, text: bytes, add_bos: bool, special: bool) -> list[int]:
        assert special
        return [1] * add_bos + list(text)

    def create_completion(self, prompt: list[int], **asked: Any) -> Any:
        self.asked = {"prompt": prompt, **asked}
        head = {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "m"}
        if not asked["stream"]:
            choice = {"index": 0, "text": self.text, "logprobs": None, "finish_reason": "stop"}
            return {**head, "choices": [choice], "usage": {"total_tokens": 3}}
        ends: list[Any] = [None] * len(self.text) + ["stop"]
        return iter([
            {**head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": end}]}
            for text, end in zip([*self.text, ""], ends, strict=True)
        ])  # fmt: skip


def ask(formatter: Any, llama: Any, **options: Any) -> Any:
    return chat_formatter_to_chat_completion_handler(formatter)(llama=llama, messages=USER, **options)


# -- handlers of formatters --


def test_a_formatter_answers() -> None:
    answer = ask(vwxyz, fake_llama(), temperature=0.0, model="mine")
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "mine"
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "wx"}, "logprobs": None, "finish_reason": "stop"}
    ]
    assert answer["usage"]["prompt_tokens"] == 4  # with the beginning token


def test_a_stream_says_the_same() -> None:
    chunks = list(ask(vwxyz, fake_llama(), temperature=0.0, stream=True))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant"}
    assert "".join(delta.get("content", "") for delta in deltas) == "wx"
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"][0]["finish_reason"]] == [
        "stop"
    ]


def test_logprobs_have_the_chat_s_shape() -> None:
    answer = ask(vwxyz, fake_llama(), temperature=0.0, logprobs=True, top_logprobs=2, max_tokens=2)
    content = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["w", "x"]
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in content)
    assert answer["choices"][0]["finish_reason"] == "length"


def test_what_a_completion_is_asked_for() -> None:
    llama = Recorder()
    ask(vwxyz, llama, stop="!", top_k=3, seed=None, logprobs=True)
    asked = llama.asked
    assert asked == {
        "prompt": [1, *b"Hiv"], "stream": False, "stop": ["!", "yz"], "top_k": 3, "logprobs": 0, "temperature": 0.2,
    }  # fmt: skip
    ask(lambda **_: ChatFormatterResponse("x", stop="", added_special=True), llama, stop=None)
    assert (llama.asked["prompt"], llama.asked["stop"]) == ([*b"x"], [])


def test_formatters_get_what_completions_do_not_take() -> None:
    seen: dict[str, Any] = {}

    def formatter(*, messages: Any, **given: Any) -> ChatFormatterResponse:
        seen.update(given)
        return ChatFormatterResponse("x")

    ask(formatter, Recorder(), tools=TOOLS, enable_thinking=False, top_p=0.5)
    none = {"functions": None, "function_call": None, "tool_choice": None}
    assert seen == {"tools": TOOLS, "enable_thinking": False, **none}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "offer",
    [{"tools": TOOLS, "tool_choice": CHOICE}, {"functions": [WEATHER], "function_call": {"name": "get_weather"}}],
)
def test_a_function_that_is_named_is_called(offer: dict[str, Any], stream: bool) -> None:
    llama = Recorder('{"city": "a"}')
    made = ask(vwxyz, llama, stream=stream, **offer)
    assert llama.asked["grammar"].about == "json_schema"
    if stream:
        chunks = list(made)
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        calls = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in chunks[1:-1]]
        assert {(call["index"], call["id"], call["function"]["name"]) for call in calls} == {
            (0, "call_chatcmpl-1", "get_weather")
        }
        assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "a"}'
        return
    choice = made["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "a"}'}
    assert choice["message"]["function_call"] == {"name": "get_weather", "arguments": '{"city": "a"}'}


def test_a_function_that_is_not_offered_is_refused() -> None:
    with pytest.raises(GGUFError, match=r"tool_choice names 'other', which is not among the tools \['get_weather'\]"):
        ask(vwxyz, Recorder(), tools=TOOLS, tool_choice={"type": "function", "function": {"name": "other"}})
    assert "grammar" not in ask_for(Recorder(), tools=TOOLS, tool_choice="auto")


def ask_for(llama: Recorder, **options: Any) -> dict[str, Any]:
    ask(vwxyz, llama, **options)
    return llama.asked


# -- formatters --


def test_jinja2_formatters() -> None:
    formatter = Jinja2ChatFormatter(MISTRAL, "</s>", "<s>", stop_token_ids=[7])
    made = formatter(messages=USER)
    assert (made.prompt, made.stop, made.added_special) == ("<s>[INST] Hi [/INST]", ["</s>"], True)
    assert made.stopping_criteria is not None
    assert made.stopping_criteria(np.array([1, 7]), np.zeros(9))
    assert not made.stopping_criteria(np.array([7, 1]), np.zeros(9))
    assert Jinja2ChatFormatter("{{ x }}{{ tools }}", "", "")(messages=USER, x="1").prompt == "1None"
    asked = ask_for_prompt(formatter)
    assert (asked["prompt"], asked["stop"]) == ([*b"<s>[INST] Hi [/INST]"], ["</s>"])
    with pytest.raises(GGUFError, match="template is not a valid jinja2 template"):
        Jinja2ChatFormatter("{% if %}", "", "")


def ask_for_prompt(formatter: Jinja2ChatFormatter) -> dict[str, Any]:
    llama: Any = Recorder()
    formatter.to_chat_handler()(llama=llama, messages=USER)
    asked: dict[str, Any] = llama.asked
    return asked


def test_templates_run_in_the_sandbox() -> None:
    formatter = Jinja2ChatFormatter("{{ ''.__class__.__mro__ }}{{ messages[0].content * 10 ** 9 }}", "", "")
    with pytest.raises(GGUFError, match="cannot render"):
        formatter(messages=USER)


def test_a_tokenizer_config_is_a_formatter() -> None:
    config = {"chat_template": MISTRAL, "bos_token": "<s>", "eos_token": "</s>"}
    made = hf_tokenizer_config_to_chat_formatter(config)(messages=USER)
    assert (made.prompt, made.stop, made.added_special) == ("<s>[INST] Hi [/INST]</s>", ["</s>", "<s>"], True)
    assert hf_tokenizer_config_to_chat_formatter(config, False)(messages=USER).prompt == "<s>[INST] Hi [/INST]"
    llama: Any = Recorder()
    hf_tokenizer_config_to_chat_completion_handler(config)(llama=llama, messages=USER)
    assert bytes(llama.asked["prompt"]) == b"<s>[INST] Hi [/INST]</s>"
    with pytest.raises(GGUFError, match=r"tokenizer_config\.eos_token is None; a text is wanted"):
        hf_tokenizer_config_to_chat_formatter({**config, "eos_token": None})
    with pytest.raises(GGUFError, match="tokenizer_config"):
        hf_tokenizer_config_to_chat_formatter(json.dumps(config))  # type: ignore[arg-type]


def test_a_checkpoint_s_tokenizer_is_a_formatter(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(messages: Any, tokenize: bool, **more: Any) -> str:
        assert not tokenize
        return f"{messages[0]['content']}{more}"

    loaded = SimpleNamespace(apply_chat_template=apply, eos_token="</s>")
    auto = SimpleNamespace(from_pretrained=lambda name: loaded)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=auto))
    made = hf_autotokenizer_to_chat_formatter("a/b")(messages=USER, tools=None)
    assert (made.prompt, made.stop, made.added_special) == ("Hi{'tools': None}", "</s>", True)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(GGUFError, match="needs transformers: pip install transformers"):
        hf_autotokenizer_to_chat_formatter("a/b")


def test_formats_are_functions_too() -> None:
    made = llama_chat_format.format_chatml(USER)
    assert made.prompt == formats.get("chatml").render(USER)
    assert (made.stop, made.added_special) == ("<|im_end|>", False)
    assert llama_chat_format.format_llama2(messages=USER, other=1).stop is None
    assert llama_chat_format.format(messages=USER).prompt == formats.get("vicuna").render(USER)


@pytest.mark.parametrize("stream", [False, True])
def test_formats_answer_for_any_model(stream: bool) -> None:
    for name in ("chatml", "chatml-function-calling", "functionary-v2"):
        llama = fake_llama(n_ctx=4096)
        options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 2, "stream": stream}
        made: Any = get_chat_completion_handler(name)(llama=llama, messages=USER, **options)
        if stream:
            text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in made)
        else:
            text = made["choices"][0]["message"]["content"]
        prompt = formats.get(name).render(USER)
        after = ord(prompt[-1])
        assert text == chr(after + 1) + chr(after + 2)
        assert bytes(llama.engine.log[0][1:]).decode() == prompt  # type: ignore[attr-defined]


# -- the registry --


def test_what_is_registered_is_found(registry: LlamaChatCompletionHandlerRegistry) -> None:
    @register_chat_format("mine")
    def mine(*, messages: Any, **_: Any) -> ChatFormatterResponse:
        return vwxyz(messages=messages)

    @register_chat_completion_handler("whole")
    def whole(*, llama: Any, **_: Any) -> Any:
        return {"by": llama}

    assert mine(messages=USER).prompt == "Hiv"
    answer: Any = get_chat_completion_handler("mine")(llama=fake_llama(), messages=USER, temperature=0.0)
    assert answer["choices"][0]["message"]["content"] == "wx"
    assert get_chat_completion_handler("whole") is whole
    assert formats.handlers.get("whole") is whole
    with pytest.raises(GGUFError, match=r"known: alpaca, .*mine, .*whole"):
        formats.get("another")
    with pytest.raises(GGUFError, match="'mine' is registered already; overwrite=True"):
        register_chat_format("mine")(mine)
    registry.register_chat_completion_handler("mine", whole, overwrite=True)
    assert get_chat_completion_handler("mine") is whole
    registry.unregister_chat_handler("mine")
    with pytest.raises(GGUFError, match="no chat handler is registered under the name 'mine'"):
        registry.unregister_chat_handler("mine")


def test_names_of_formats_are_taken(registry: LlamaChatCompletionHandlerRegistry) -> None:
    with pytest.raises(GGUFError, match="'chatml' is a chat format already; overwrite=True"):
        register_chat_format("chatml")(vwxyz)
    registry.register_chat_completion_handler("chatml", lambda **_: 1, overwrite=True)  # type: ignore[arg-type]
    assert get_chat_completion_handler("chatml")(llama=fake_llama(), messages=USER) == 1
    with pytest.raises(GGUFError, match="must be callable, not int"):
        registry.register_chat_completion_handler("x", 1)  # type: ignore[arg-type]
    with pytest.raises(LlamaChatCompletionHandlerNotFoundException, match="'nothing' is not known"):
        get_chat_completion_handler("nothing")


# -- images --


IMAGES = [name for name in llama_chat_format.__all__ if name.endswith(("ChatHandler", "Alpha"))]


@pytest.mark.parametrize("name", IMAGES)
def test_handlers_of_images_say_that_they_cannot_be(name: str) -> None:
    assert len(IMAGES) == 11
    kind = getattr(llama_chat_format, name)
    with pytest.raises(GGUFError, match=r"^\w+ChatHandler: image input is not supported"):
        kind(clip_model_path="mmproj.gguf")
    with pytest.raises(GGUFError, match="image input is not supported"):
        kind.from_pretrained("a/b", "*mmproj*")


def test_a_model_takes_what_is_registered(registry: LlamaChatCompletionHandlerRegistry, tmp_path: Path) -> None:
    def whole(*, llama: Any, messages: Any, **_: Any) -> Any:
        return {"by": llama, "of": messages}

    registry.register_chat_completion_handler("whole", whole)
    path = write_model(tmp_path / "m.gguf")
    with ggufpy.Llama(path, n_threads=1, chat_format="whole") as llm:
        assert llm.create_chat_completion(USER) == {"by": llm, "of": USER}
    other: Any = lambda **_: {"by": "the handler"}  # noqa: E731
    with ggufpy.Llama(path, n_threads=1, chat_format="whole", chat_handler=other) as llm:
        assert llm.create_chat_completion(USER) == {"by": "the handler"}
    with pytest.raises(GGUFError, match="chat_format 'wholes' is not known"):
        ggufpy.Llama(path, n_threads=1, chat_format="wholes")
