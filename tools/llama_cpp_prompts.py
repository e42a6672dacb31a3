"""What llama-cpp-python's own formatters write, as the truth that ours are held against.

In: the unpacked source distribution. Its llama_chat_format.py is loaded with nothing behind its native library, which
formatters do not use; handlers get a model that records the prompt and goes no further.
"""

from __future__ import annotations

import copy
import importlib
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

Message = dict[str, Any]

_TEXTS = ("Hello", "a b\n", " lead", "{x} {system}", "é — 你好", "", None, "<|im_end|>")
_ROLES = ("system", "user", "assistant", "user", "assistant", "tool", "bot", "User", "Assistant")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a place",
            "parameters": {
                "type": "object",
                "$defs": {"Unit": {"enum": ["c", "f"]}, "Span": {"type": "object", "properties": {"n": {}}}},
                "properties": {
                    "city": {"type": "string", "description": "where"},
                    "unit": {"$ref": "#/$defs/Unit"},
                    "days": {"type": "array", "items": {"type": "object", "properties": {"day": {"enum": ["1"]}}}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
# The templates of the tokenizers that these handlers ask for: of functionary/prompt_template/prompt_template_v1.py in
# github.com/MeetKai/functionary, and of huggingface.co/meetkai/functionary-7b-v2, both cut to what is written here.
_V1 = (
    "{% for m in messages %}{% if m.role == 'function' %}function name={{ m.name }}:\n{{ m.content }}"
    "<|END_OF_FUNCTION_RESULT|>\n{% elif m.function_call %}assistant:\n{% if m.content %}{{ m.content }}\n{% endif %}"
    "<|START_OF_FUNCTION_CALL|>{{ m.function_call.name }}:\n{{ m.function_call.arguments }}<|END_OF_FUNCTION_CALL|>\n"
    "{% else %}{{ m.role }}:\n{{ m.content }}<|END_OF_{{ m.role | upper }}|>\n{% endif %}{% endfor %}"
)
_V2 = (
    "{% for m in messages %}{% set from = m.name if m.role == 'tool' else m.role %}"
    "{% if m.content is not none %}<|from|>{{ from }}\n<|recipient|>all\n<|content|>{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{% if m.content is not none or not loop.first %}\n{% endif %}"
    "<|from|>assistant\n<|recipient|>{{ c.function.name }}\n<|content|>{{ c.function.arguments }}{% endfor %}"
    "{% if m.role == 'assistant' %}<|stop|>{% endif %}\n{% endfor %}"
)


@contextmanager
def formatters(sdist: Path) -> Iterator[ModuleType]:
    """llama-cpp-python's llama_chat_format, as long as it is used."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "llama_cpp"}
    for name in before:
        del sys.modules[name]
    package = ModuleType("llama_cpp")
    package.__path__ = [str(sdist / "llama_cpp")]
    single = type("Singleton", (), {})
    stubs: dict[str, dict[str, Any]] = {
        "llama_cpp": {},
        "llama": {"Llama": object, "StoppingCriteriaList": list, "LogitsProcessorList": list, "LlamaGrammar": object},
        "_logger": {"logger": SimpleNamespace(debug=lambda *_: None)},
        "_utils": {"suppress_stdout_stderr": lambda **_: nullcontext(), "Singleton": single},
    }
    sys.modules["llama_cpp"] = package
    for name, values in stubs.items():
        module = ModuleType(f"llama_cpp.{name}")
        vars(module).update(values)
        sys.modules[f"llama_cpp.{name}"] = module
        setattr(package, name, module)
    try:
        yield importlib.import_module("llama_cpp.llama_chat_format")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cpp"]:
            del sys.modules[name]
        sys.modules.update(before)


def functions(module: ModuleType) -> dict[str, str]:
    """The formats that are functions of the module: names of functions by names of formats."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    return dict(re.findall(r'@register_chat_format\("([^"]+)"\)\ndef (\w+)', source))


def written(module: ModuleType, name: str, messages: Sequence[Message]) -> tuple[str, tuple[str, ...], bool]:
    """A format's prompt, its stop strings and whether it begins with the beginning token."""
    made = getattr(module, functions(module)[name])(messages=copy.deepcopy(list(messages)))
    stops = (made.stop,) if isinstance(made.stop, str) else tuple(made.stop or ())
    return made.prompt, stops, made.added_special


class _Asked(Exception):
    """What a handler asks its model for."""


class _Recorder:
    """A model for handlers."""

    verbose = False

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer_ = tokenizer

    def create_completion(self, **asked: Any) -> Any:
        raise _Asked(asked["prompt"])


def handler_prompt(
    module: ModuleType, name: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None
) -> str:
    """The first prompt of a handler with functions."""
    handler = {
        "functionary": module.functionary_chat_handler,
        "functionary-v1": module.functionary_v1_v2_chat_handler,
        "functionary-v2": module.functionary_v1_v2_chat_handler,
        "chatml-function-calling": module.chatml_function_calling,
    }[name]
    given: dict[str, Any] = {}
    if tools and name == "functionary":  # tools it tells twice
        given["functions"] = [tool["function"] for tool in tools]
    elif tools:
        given["tools"] = list(tools)
        given["tool_choice"] = "auto"
    try:
        handler(_Recorder(_tokenizer(name)), copy.deepcopy(list(messages)), **given)
    except _Asked as asked:
        return str(asked.args[0])
    raise AssertionError(f"{name} asked for nothing")


def _tokenizer(name: str) -> Any:
    import jinja2

    first = name == "functionary-v1"
    template = jinja2.Environment(keep_trailing_newline=True).from_string(_V1 if first else _V2)
    tokens = ["<|START_OF_FUNCTION_CALL|>" if first else "<|recipient|>"]
    hf = SimpleNamespace(
        additional_special_tokens=tokens,
        apply_chat_template=lambda messages, tokenize: template.render(messages=messages),
    )
    return SimpleNamespace(hf_tokenizer=hf)


def conversations(count: int, seed: int) -> Iterator[list[Message]]:
    """Chats of all roles with texts that are easily mistaken."""
    rng = random.Random(seed)
    for _ in range(count):
        yield [{"role": rng.choice(_ROLES), "content": rng.choice(_TEXTS)} for _ in range(rng.randint(1, 6))]
