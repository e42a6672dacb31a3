"""Chat templates: what they render, what they refuse, and that hostile ones are stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import chat_renderer
import numpy as np
import pytest
from test_tokenizers import bpe_metadata

from ggufpy.chat import ChatTemplate, limits
from ggufpy.errors import GGUFError
from ggufpy.format import open as open_gguf
from ggufpy.format import write
from ggufpy.tokenizers import load_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
USER = [{"role": "user", "content": "Hi <b>"}]


def render(source: str, messages: Any = USER, **extra: Any) -> str:
    return chat_renderer.render(source, messages, **extra)


def test_chatml() -> None:
    start = "<|im_start|>user\nHi <b><|im_end|>\n"
    assert render(CHATML) == start + "<|im_start|>assistant\n"
    assert render(CHATML, add_generation_prompt=False) == start


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>Hi <b></s>"),
        ("{{ messages[0]['content'] | tojson }}", '"Hi <b>"'),
        ("{{ {'b': 'é', 'a': [1]} | tojson }}", '{"b": "é", "a": [1]}'),
        ("{{ [1, 2] | tojson(indent=2) }}", "[\n  1,\n  2\n]"),
        ("{% if tools %}tools{% else %}none{% endif %}", "none"),
        ("  {% if true %}\n  a\n  {% endif %}\n b", "  a\n b"),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% continue %}{% endif %}{{ m }}{% endfor %}", "13"),
        (
            "{% for m in [1, 2] %}{{ loop.index0 }}{{ loop.last }}{{ loop.length }}{% endfor %}",
            "0False21True2",
        ),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
        (
            "{% set ns = namespace(n=1) %}{% for m in [1] %}{% set ns.n = 2 %}{% endfor %}{{ ns.n }}",
            "2",
        ),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('a') ~ m('b') }}", "[a][b]"),
        ("{{ messages[0].role.upper() }}{{ 'a-b'.split('-')[1] }}{{ 'abc'[1:] }}", "USERbbc"),
        ("{{ messages | map(attribute='role') | join(', ') }}{{ messages | length }}", "user1"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | count }}", "1"),
        ("{{ '%s is %d' | format('x', 3) }}{{ ' x ' | trim }}{{ 'ab' | replace('a', 'c') }}", "x is 3xcb"),
        (
            "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ ['b', 'a'] | sort | first }}",
            "a1a",
        ),
        ("{% set a, b = 1, 2 %}{{ a + b }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ '-' * 3 }}", "338---"),
        ("{{ strftime_now('%Y') | length }}{{ missing }}{{ missing is defined }}", "4False"),
        ("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", "Hi <b>"),
        (
            "{% for m in [1, 2] -%}\n  {%- generation -%}\n {% if m == 2 %}{% break %}{% endif %}{{ m }}\n"
            "  {%- endgeneration %}\n.{% endfor %}",
            "1.",
        ),
        (
            "{% for m in [{'n': 1, 'c': [{'n': 2, 'c': []}]}] recursive %}<{{ m.n }}{{ loop(m.c) }}>{% endfor %}",
            "<1<2>>",
        ),
        ("{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x is defined }}", "1False"),
        ("{{ [3, 1] | pprint }}{{ 'a b' | wordwrap(1) }}{{ '<b>x</b>' | striptags }}", "[3, 1]a\nbx"),
        ("{{ 1763000000 | tojson }}{{ 1763000000 | string | length }}", "176300000010"),
        ("{{ raise_exception is defined }}{{ range(3) | list }}{{ dict(a=1).a }}", "True[0, 1, 2]1"),
    ],
)
def test_what_templates_use(source: str, text: str) -> None:
    assert render(source) == text


def test_further_variables() -> None:
    assert render("{{ tools[0].name }}{{ enable_thinking }}", tools=[{"name": "f"}], enable_thinking=True) == "fTrue"


def test_from_metadata(tmp_path: Path) -> None:
    chat = {
        "tokenizer.chat_template": "{{ bos_token }}" + CHATML,
        "tokenizer.chat_template.tool_use": "T{{ eos_token }}",
    }
    write(tmp_path / "m.gguf", bpe_metadata() | chat, {})
    with open_gguf(tmp_path / "m.gguf") as file:
        tokenizer = load_tokenizer(file)
        plain = ChatTemplate.from_metadata(file, tokenizer)
        tools = ChatTemplate.from_metadata(file, tokenizer, "tool_use")
        assert ChatTemplate.from_metadata(file, tokenizer, "rag") is None
    assert plain is not None
    assert tools is not None
    assert plain.render(USER).startswith("<s><|im_start|>user\nHi")
    assert plain.render(USER, tools=[{"name": "f"}]) == "T</s>"
    plain.close()
    with pytest.raises(GGUFError, match="closed"):
        plain.render(USER, tools=[{"name": "f"}])
    assert tools.render(USER) == "T</s>"


def test_special_tokens_of_a_file(tmp_path: Path) -> None:
    names = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
    source = "".join(f"{{{{ {name}_token is defined }}}}{{{{ {name}_token }}}} " for name in names)
    ids = {"tokenizer.ggml.padding_token_id": np.uint32(2), "tokenizer.ggml.mask_token_id": np.uint32(10**6)}
    write(tmp_path / "m.gguf", bpe_metadata() | ids | {"tokenizer.chat_template": source}, {})
    with open_gguf(tmp_path / "m.gguf") as file:
        tokenizer = load_tokenizer(file)
        chat = ChatTemplate.from_metadata(file, tokenizer, renderer=chat_renderer.renderer())
    assert chat is not None
    padding = tokenizer.decode([2], special=True)
    assert chat.render(USER) == f"True<s> True</s> False False True{padding} False False "


@pytest.mark.parametrize("tools", ["f", {"name": "f"}, 5, [5], ["f"]])
def test_tools_that_are_none(tools: Any) -> None:
    with pytest.raises(GGUFError, match=r"tools(\[0\])? must be a (list|mapping)") as caught:
        render(CHATML, tools=tools)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("chat", "right"),
    [
        ({}, None),
        ({"": ""}, None),
        ({"": "A", ".tool_use": "T"}, "A"),
        ({"": "", ".tool_use": "T"}, "T"),
        ({".tool_use": "T"}, "T"),
        ({"": "", ".tool_use": "", ".rag": "R"}, None),
    ],
)
def test_which_template_of_a_file_is_taken(tmp_path: Path, chat: dict[str, str], right: str | None) -> None:
    """As llama.cpp takes it (common/chat.cpp), but that a file without one is continued as it stands."""
    keys = {f"tokenizer.chat_template{name}": source for name, source in chat.items()}
    write(tmp_path / "m.gguf", bpe_metadata() | keys, {})
    with open_gguf(tmp_path / "m.gguf") as file:
        found = ChatTemplate.from_metadata(file, load_tokenizer(file))
    assert (None if found is None else found.render(USER)) == right


def test_templates_of_files(shared: Path) -> None:
    for name, start in (
        ("phi-3", "<s><|user|>\nHi <b><|end|>\n<|assistant|>\n"),
        ("qwen2", "<|im_start|>system\n"),
    ):
        with open_gguf(shared / "vocab" / f"ggml-vocab-{name}.gguf") as file:
            chat = ChatTemplate.from_metadata(file, load_tokenizer(file))
        assert chat is not None
        assert chat.render(USER).startswith(start)


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", bpe_metadata() | {"tokenizer.chat_template": np.uint32(1)}, {})
    with (
        open_gguf(tmp_path / "m.gguf") as file,
        pytest.raises(GGUFError, match="chat_template must be a text"),
    ):
        ChatTemplate.from_metadata(file, load_tokenizer(file))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", r"not a valid jinja2 template: .* \(line 1\)"),
        ("{% generation %}x", "not a valid"),
        ("{% endgeneration %}", "unknown tag 'endgeneration'"),
        ("{{ 'x' | nothing }}", "No filter named 'nothing'"),
        ("x" * (limits.MAX_SOURCE + 1), "too many for a template"),
        ("{{ " + "(" * 50_000 + " }}", "recursion"),
        ("{% if a %}" * 2000 + "{% endif %}" * 2000, "not a valid"),
    ],
)
def test_no_templates(source: str, message: str) -> None:
    with pytest.raises(GGUFError, match=message) as caught:
        ChatTemplate(source, renderer=chat_renderer.renderer())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('no system\nrole') }}", "no system role"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ (messages | attr('__class__')).mro() }}", "__class__"),
        ("{{ '{0.__class__}'.format(1).x.y }}", "."),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].update(a=1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ missing.x.y }}", "undefined"),
        ("{{ 'a' + 1 }}", "."),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_what_templates_may_not(source: str, message: str) -> None:
    with pytest.raises(GGUFError, match=message) as caught:
        render(source)
    assert "\n" not in str(caught.value)


GROW = "{% set ns = namespace(x='a', l=[1], d={'k': 1}) %}{% for i in range(60) %}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10 ** 10 }}",
        "{{ [1] * 10 ** 9 }}",
        "{{ 10 ** 99999999 }}",
        "{{ 3 ** 9999 * 3 ** 99999 }}",
        "{{ range(10 ** 9) }}",
        "{{ 'x' | center(999999999) }}",
        "{{ 'x'.ljust(999999999) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' | format(999999999, 1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ (5).to_bytes(999999999, 'big') }}",
        "{{ 'x' | indent(999999999) }}",
        "{{ ('a' * 999999).replace('a', 'b' * 99999) }}",
        "{{ ('a' * 99999) | list | join('x' * 99999) }}",
        "{{ messages | batch(1, [1]) | sum(start=[]) }}",
        GROW + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        GROW + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        GROW + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        GROW + "{% set ns.l = (ns.l, ns.l) %}{% endfor %}{{ ns.l }}",
        GROW + "{% set ns.d = {'a': ns.d.items(), 'b': ns.d.items()} %}{% endfor %}{{ ns.d }}",
        "{% for i in range(99999) %}" + "y" * 100_000 + "{% endfor %}",
        "{% set x %}{% for i in range(99999) %}" + "y" * 100_000 + "{% endfor %}{% endset %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% set x = 'a' * 9999999 %}" + "".join(f"{{% set x{i} = x[1:] %}}" for i in range(2000)),
    ],
)
@pytest.mark.usefixtures("deadline")
def test_templates_that_do_too_much(source: str) -> None:
    begun = time.monotonic()
    with pytest.raises(GGUFError):
        render(source)
    assert time.monotonic() - begun < 2 * limits.START_SECONDS  # a bound for machines that are busy


def test_namespaces_are_not_written_out() -> None:
    nested = "{% for i in range(50) %}{% set ns.a = namespace(x=[ns.a, ns.a]) %}{% endfor %}"
    assert render("{% set ns = namespace(a=1) %}" + nested + "{{ ns.a }}") == "<namespace>"


def test_jinja2_is_imported_only_for_a_template() -> None:
    code = "import sys, ggufpy.chat, ggufpy.generate.sampling; sys.exit('jinja2' in sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=env).returncode == 0
