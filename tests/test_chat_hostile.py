"""Templates that would take for ever are stopped within their seconds, wherever they spend them."""

from __future__ import annotations

import time

import pytest
from chat_renderer import render, renderer

from ggufpy.chat import limits, template
from ggufpy.chat.rendering import Rendering, packed, request, text_of
from ggufpy.errors import GGUFError

SLACK = 4.0  # seconds beside those of a template, for machines that are busy; by itself a machine needs 0.3
USER = [{"role": "user", "content": "Hi"}]
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROW = "{% set ns = namespace(x='a', l=[]) %}{% for i in range(99) %}"

IN_RENDERING = {
    "numbers": "{{ 10 ** (10 ** 8) }}",
    "loops": LOOPS,
    "doubling": GROW + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "words": "{{ ('a ' * 6000000) | title | wordcount }}",
    "wrapping": "{{ ('a-' * 3000000) | wordwrap(3) }}",
    "quoting": "{{ ('é' * 8000000) | urlencode | urlencode }}",
    "names of hosts": "{{ ('é' * 8000000).encode('idna') }}",
    "sorting": "{{ ('ab' * 4000000) | sort | length }}",
    "translating": "{{ ('a' * 999999).translate({97: 'b' * 999999}) }}",
    "joining": "{{ ('ab' * 5000000) | map('upper') | join('x' * 999) | length }}",
    "keeping": GROW + "{% set ns.l = [ns.l, ('😀' ~ i) * 4000000] %}{% endfor %}",
    "nesting": "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}",
    "callers": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 40
    + "x"
    + "{% endcall %}" * 40,
    "recursive loop": "{% for x in [1, 1, 1] recursive %}{{ loop([1, 1, 1]) }}{% endfor %}",
    "dates": "{{ strftime_now('%Y' * 4000000) ~ strftime_now('%Y' * 4000000) }}",
    "wide dates": "{{ strftime_now('%999999999d') }}",
    "indents": "{{ range(99999) | list | tojson(indent=9999) }}",
    "output": "{% for i in range(99999) %}" + "y" * 100_000 + "{% endfor %}",
    "fills": "{{ [1] | batch(99999999, 1) | list }}",
    "precision": "{{ 1.5 | round(99999999, 'floor') }}",
    "widths": "{{ '{0:{1}}'.format('a', '>99999999') }}",
    "probes": "{% if messages | length != 1 %}" + LOOPS + "{% endif %}" + "{# text #}" + LOOPS,
}
IN_COMPILING = {
    "branches": "".join(f"{{% set v{i} = 1 %}}" for i in range(2500)) + "{% if a %}{% endif %}" * 3000,
    "sets": "".join(f"{{% if a %}}{{% set v{i} = 1 %}}{{% endif %}}" for i in range(3000)),
    "loops": "{% for x in y %}{% endfor %}" * 4000,
    "sums": "{{ 1" + "+1" * 60000 + " }}",
    "calls": "{{ x" + "()" * 60000 + " }}",
    "items": "{{ [" + "1," * 60000 + "] }}",
    "parentheses": "{{ " + "(" * 60000 + " }}",
    "signs": "{{ " + "-" * 100000 + "1 }}",
    "digits": "{{ " + "9" * 130000 + " }}",
    "comments": "{#" * 60000,
}


def check_that_it_ends(source: str, seconds: float) -> None:
    """It is refused in one line. What only takes long to compile may be done in time where a machine is quick."""
    assert render("{{ messages[0].content }}", USER) == "Hi"  # the process is there
    begun = time.monotonic()
    refused = ""
    try:
        render(source, [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
    except GGUFError as error:
        refused = str(error)
    assert time.monotonic() - begun < seconds + SLACK
    assert "\n" not in refused
    assert refused or source in IN_COMPILING.values()


ALL = pytest.mark.parametrize(
    "source", [*IN_RENDERING.values(), *IN_COMPILING.values()], ids=[*IN_RENDERING, *IN_COMPILING]
)


@ALL
@pytest.mark.usefixtures("deadline")
def test_hostile_templates(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "SECONDS", 0.3)
    check_that_it_ends(source, 0.3)


@pytest.mark.slow
@ALL
@pytest.mark.usefixtures("deadline")
def test_hostile_templates_with_all_their_seconds(source: str) -> None:
    check_that_it_ends(source, limits.SECONDS)


@pytest.mark.parametrize(
    "name", ["loops", "doubling", "sorting", "names of hosts", "translating", "joining", "indents"]
)
@pytest.mark.usefixtures("deadline")
def test_hostile_templates_without_a_process(name: str) -> None:
    answer = Rendering(killable=False).answer(request(IN_RENDERING[name], packed({"messages": USER}), (), 0.5))
    with pytest.raises(limits.TooMuch):
        text_of(answer)


def test_long_templates_without_a_process() -> None:
    source = "x" * (limits.MAX_SOURCE_HERE + 1)
    assert render(source, USER) == source
    with pytest.raises(limits.TooMuch, match="too many for a process"):
        text_of(Rendering(killable=False).answer(request(source, packed(None), (), 0.5)))


def test_slow_filters_are_for_a_process_of_their_own() -> None:
    here = Rendering(killable=False)
    for name in ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr"):
        source = f"{{{{ {{'a': 1}} | {name} }}}}" if name == "xmlattr" else f"{{{{ 'a' | {name} }}}}"
        assert "a" in render(source, USER)
        with pytest.raises(limits.TemplateFailure, match=f"No filter named '{name}'"):
            text_of(here.answer(request(source, packed({}), (), 1.0)))


def test_memory_is_limited() -> None:
    """Values of which each is small enough: the system stops the process, or Python within it."""
    source = (
        GROW.replace("99", "999") + "{% set ns.l = [ns.l, 'a' ~ i ~ 'b' * 10000000] %}{% endfor %}{{ ns.l | length }}"
    )
    with pytest.raises(GGUFError):
        render(source, USER)
    assert renderer().isolated
    assert render("{{ messages[0].content }}", USER) == "Hi"
