"""Arguments and methods of llama-cpp-python's Llama, facts in llama_cpp_interface.json, and what ours does with them.

`python tools/check_llama_cpp.py --write` made the facts, and the table of spec/llama_cpp.md, which is held to the code.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from llm_fakes import fake_llama

import ggufpy
from ggufpy.api import arguments

ROOT = Path(__file__).resolve().parent.parent
FACTS = json.loads((ROOT / "tests" / "llama_cpp_interface.json").read_text(encoding="utf-8"))
SPEC = (ROOT / "spec" / "llama_cpp.md").read_text(encoding="utf-8")
COMPLETION = FACTS["methods"]["create_completion"]
CHAT = FACTS["methods"]["create_chat_completion"]


@pytest.fixture
def interface(monkeypatch: pytest.MonkeyPatch) -> Any:
    """tools/llama_cpp_interface.py."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    yield __import__("llama_cpp_interface")
    sys.modules.pop("llama_cpp_interface")


def test_the_table_says_what_the_code_does(interface: Any) -> None:
    assert interface.table(FACTS) == re.split("<!-- .* -->\n?", SPEC)[1]


def test_every_argument_of_the_constructor_has_its_line() -> None:
    taken = {*inspect.signature(ggufpy.Llama.__init__).parameters, *arguments.KNOWN}
    assert [name for name in FACTS["constructor"] if name not in taken] == []
    assert len(FACTS["constructor"]) == 45


def test_defaults_of_the_constructor_warn_of_nothing() -> None:
    given = {
        name: value for name, value in FACTS["constructor"].items() if name in arguments.KNOWN and value is not None
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arguments.check_names(given, frozenset())
        arguments.warn(given)
        assert arguments.metadata_changes(given, None) == {}


def test_every_method_is_named_and_there() -> None:
    for name in (*FACTS["methods"], *FACTS["properties"]):
        assert f"`{name}`" in SPEC
        assert inspect.getattr_static(ggufpy.Llama, name) is not None


@pytest.mark.parametrize("name", [name for name, value in COMPLETION.items() if value != "required"])
def test_completions_take_every_argument(name: str) -> None:
    made: Any = fake_llama().create_completion("ab", **{"max_tokens": 1, name: COMPLETION[name]})
    if COMPLETION[name] is not False or name != "stream":
        assert made["choices"][0]["text"]


@pytest.mark.parametrize("name", [name for name, value in CHAT.items() if value != "required"])
def test_chats_take_every_argument(name: str) -> None:
    messages = [{"role": "user", "content": "a"}]
    made: Any = fake_llama().create_chat_completion(messages, **{"max_tokens": 1, name: CHAT[name]})
    assert made["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize("name", ["sample", "generate"])
def test_tokens_are_drawn_with_every_argument(name: str) -> None:
    llm = fake_llama()
    given = {argument: value for argument, value in FACTS["methods"][name].items() if value != "required"}
    if name == "generate":
        assert next(iter(llm.generate([97, 98], **given))) == 99
    else:
        llm.eval([97, 98])
        assert llm.sample(**given) in range(256)


@pytest.mark.parametrize("name", ["tokenize", "detokenize", "embed", "create_embedding", "from_pretrained", "eval"])
def test_other_methods_have_the_same_arguments(name: str) -> None:
    ours = inspect.signature(getattr(ggufpy.Llama, name)).parameters
    assert [argument for argument in FACTS["methods"][name] if argument not in ours] == []
