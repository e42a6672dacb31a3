"""Filters, tests, operators, methods and blocks of templates on values of every kind, as transformers has them."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest

from ggufpy.chat.limits import TemplateFailure
from ggufpy.chat.rendering import Rendering, packed, request, text_of

pytestmark = pytest.mark.oracle

VALUES = (
    "'a b <c> é'", "''", "'12'", "12", "-3.5", "[3, 1, 2]", "[]", "['b', 'A', 'c']", "{'b': 1, 'a': [1, 2]}", "none",
    "true", "missing", "messages", "messages[0]", "(1, 'x')", "'x\\ny\\n'", "[{'a': 1}, {'a': 2}, {'a': 1}]",
    "'%s-%s'", "10 ** 20",
)  # fmt: skip
ARGUMENTS = ("", "2", "'a'", "'a', 'z'", "attribute='a'", "indent=2", "true")
OPERATORS = ("+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in", "and", "or")
METHODS = (
    "split", "strip", "lstrip", "rstrip", "replace", "startswith", "endswith", "join", "upper", "lower", "title",
    "capitalize", "find", "count", "index", "format", "partition", "rsplit", "splitlines", "ljust", "zfill", "isdigit",
    "items", "keys", "values", "get", "copy", "removeprefix", "removesuffix", "encode", "translate", "bit_length",
)  # fmt: skip
BLOCKS = (
    "{% for x in @ %}{{ loop.index }}{{ loop.length }}{{ loop.last }}{{ x }}{% else %}none{% endfor %}",
    "{% for x in @ %}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.revindex }}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in @ %}{% if loop.first %}{% continue %}{% endif %}{{ loop.cycle('a', 'b') }}{{ x }}{% endfor %}",
    "{% for x in @ %}{% generation %}{% set y = x %}{{ y }}{% endgeneration %}{{ y }}{% endfor %}",
    "{% for k, w in @ %}{{ k }}{{ w }}{% endfor %}",
    "{% for x in @ recursive %}{{ x }}{{ loop.depth }}{% if x is iterable and x is not string %}{{ loop(x) }}"
    "{% endif %}{% endfor %}",
    "{% set a, b = @ %}{{ a }}{{ b }}",
    "{% set ns = namespace(a=@) %}{% set ns.b = ns.a %}{{ ns.b }}",
    "{% macro m(x, y=@, *z, **k) %}{{ x }}{{ y }}{{ z }}{{ k }}{{ caller }}{% endmacro %}{{ m(@) }}"
    "{{ m(1, 2, 3, q=4) }}",
    "{% macro m() %}{{ caller(@) }}{% endmacro %}{% call(u) m() %}{{ u }}{% endcall %}",
    "{% filter upper %}{{ @ }}{% endfilter %}{% set q %}{{ @ }}{% endset %}{{ q | trim }}",
    "{% with z = @ %}{{ z }}{% endwith %}{{ 'a' if @ else 'b' }}{{ 'x' if @ }}",
    "{{ dict(a=@) }}{{ cycler(@).next() }}{{ joiner(@)() }}",
)
MESSAGES = [{"role": "user", "content": "Hi é"}, {"role": "assistant", "content": "x", "n": [1, 2.5, None, True]}]
VARIABLES = {"messages": MESSAGES, "tools": None, "bos_token": "<s>"}


def sources(kind: str, names: Any) -> list[str]:
    if kind == "operators":
        return [f"{{{{ {a} {name} {b} }}}}" for name, a, b in product(OPERATORS, VALUES, VALUES)]
    if kind == "methods":
        found = product(METHODS, VALUES, ("", "'a'", "'a', 'b'", "['x', 'y']"))
        return [f"{{{{ ({value}).{name}({given}) }}}}" for name, value, given in found]
    if kind == "blocks":
        return [block.replace("@", value) for block, value in product(BLOCKS, VALUES)]
    if kind == "tests":
        return [
            f"{{{{ {value} is {name}({given}) }}}}" for name, value, given in product(names.tests, VALUES, ARGUMENTS)
        ]
    filters = [name for name in names.filters if name != "random"]
    return [f"{{{{ {value} | {name}({given}) }}}}" for name, value, given in product(filters, VALUES, ARGUMENTS)]


@pytest.mark.parametrize("kind", ["filters", "tests", "operators", "methods", "blocks"])
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_what_transformers_renders_is_the_same(kind: str) -> None:
    """Where it raises an error ours may have one or not."""
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    environment = utilities._compile_jinja_template("").environment
    ours, checked, different = Rendering(killable=True), 0, []
    for source in sources(kind, environment):
        try:
            right = utilities._compile_jinja_template(source).render(json.loads(json.dumps(VARIABLES)))
        except Exception:  # whatever jinja2 and Python's operators raise
            continue
        try:
            text = text_of(ours.answer(request(source, packed(VARIABLES), (), 60.0)))
        except TemplateFailure as failure:
            text = f"failed: {failure}"
        checked += 1
        if text != right and " at 0x" not in right:
            different.append((source, text, right))
    assert not different
    assert checked > 100
