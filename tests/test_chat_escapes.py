"""Known ways out of jinja2's sandbox, and what becomes of them: an error, or nothing that matters.

From jinja2's advisories and changelog (CVE-2014-0012, CVE-2016-10745, CVE-2019-10906, CVE-2024-22195, CVE-2024-34064,
CVE-2024-56201, CVE-2024-56326, CVE-2025-27516) and the payloads that lists of template injections have.
"""

from __future__ import annotations

import re

import pytest
from chat_renderer import renderer

from ggufpy.chat.limits import SECONDS, TOO_SLOW, Allowance, TemplateFailure
from ggufpy.chat.rendering import Rendering, packed, request, text_of

REFUSED = None
UNSAFE = "unsafe"
MESSAGES = [{"role": "user", "content": "Hi"}]

# sources, and the text that they write, or a part of the error
ATTRIBUTES = {
    "{{ ''.__class__ }}": "",
    "{{ ''['__class__'] }}": "",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": UNSAFE,
    "{{ ().__class__.__bases__[0] }}": UNSAFE,
    "{{ messages[0]['role'].__class__.__base__ }}": UNSAFE,
    "{{ messages.__len__.__self__ }}": UNSAFE,
    "{{ [].__iter__() }}": UNSAFE,
    "{{ {}['__class__'] }}": "",
    "{{ missing.__class__ }}{{ missing._fail_with_undefined_error }}": "",
    "{{ ''.__reduce_ex__ }}{{ ''.__doc__ }}": "",
    "{{ ''.join.__self__ }}{{ {}.get.__self__ }}": "",
    "{{ x.__class__ }}{{ x['__class__'] is defined }}": "False",
    "{% for k in [1] if k.__class__ %}{{ k }}{% endfor %}": "",
    "{% with a = ''.__class__ %}{{ a }}{% endwith %}": "",
    "{% set a %}{{ ''.__class__ }}{% endset %}{{ a }}": "",
    "{{ dict(a=1).__class__ }}{{ dict(__class__=1).__class__ }}": "",
}
FILTERS = {
    "{{ '' | attr('__class__') }}": "",
    "{{ '' | attr('\\x5f\\x5fclass\\x5f\\x5f') }}": "",
    "{{ '' | attr(['__cl', 'ass__'] | join) }}": "",
    "{{ cycler | attr('__init__') | attr('__globals__') }}": "",
    "{{ joiner | attr('mro') }}": "",
    "{{ self | attr('_TemplateReference__context') }}": "",
    "{{ [''] | map(attribute='__class__') | list }}": "[Undefined]",
    "{{ [''] | map('attr', '__class__') | map('string') | list }}": "['']",
    "{{ [''] | groupby('__class__') }}": "[(Undefined, [''])]",
    "{{ ['a'] | sort(attribute='__class__.__name__') }}": UNSAFE,
    "{{ ['a', 'b'] | unique(attribute='__class__') | list }}": "['a']",
    "{{ ['a'] | selectattr('__class__') | list }}": "[]",
    "{{ ['a'] | max(attribute='__class__.__name__') }}": UNSAFE,
    "{{ [1] | sum(attribute='__class__') }}": UNSAFE,
    "{{ ['a'] | join(attribute='__class__') }}": "",
    "{% filter upper %}{{ ''.__class__ }}{% endfilter %}": "",
    "{{ messages | tojson(default=raise_exception) }}": "unexpected keyword",
    "{{ messages | tojson(cls=cycler) }}": "unexpected keyword",
    "{{ messages | attr('append') }}": "",
}
FORMATS = {
    "{{ '{0.__class__.__mro__}'.format('') }}": UNSAFE,
    "{{ '{0.__class__}'.format('') }}": "",
    "{{ '{x.__class__}'.format_map({'x': ''}) }}": "",
    "{{ '{x.__class__.__mro__}'.format_map({'x': ''}) }}": UNSAFE,
    "{{ ('{0.__class__.__mro__}' | attr('format'))('') }}": UNSAFE,
    "{{ ('{x.__class__.__mro__}' | attr('format_map'))({'x': ''}) }}": UNSAFE,
    "{% set f = '{0.__class__.__mro__}'.format %}{{ f('') }}": UNSAFE,
    "{% set f = namespace(a='{0.__class__.__mro__}'.format) %}{{ f.a('') }}": UNSAFE,
    "{% for f in ['{0.__class__.__mro__}'] | map(attribute='format') %}{{ f('') }}{% endfor %}": UNSAFE,
    "{{ [''] | map('{0.__class__}'.format) | list }}": "No filter named",
    "{{ '{0[__class__]}'.format(namespace(a=1)) }}": "",
    "{{ ('{0.__class__.__mro__}' | safe).format('') }}": UNSAFE,
    "{{ ('{0.__class__.__mro__}' | e).format('') }}": UNSAFE,
    "{{ '%s' % ''.__class__ }}{{ '%(x)s' | format(x=''.__class__) }}": "",
}
GLOBALS = {
    "{{ lipsum.__globals__['os'].popen('id').read() }}": "'lipsum' is undefined",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}": UNSAFE,
    "{{ joiner.__init__.__globals__ }}": UNSAFE,
    "{{ namespace.__init__.__globals__.os }}": UNSAFE,
    "{{ range.__globals__ }}{{ raise_exception.__globals__ }}{{ strftime_now.__globals__ }}": "",
    "{{ cycler.mro() }}": UNSAFE,
    "{{ namespace.mro() }}": UNSAFE,
    "{{ dict.mro() }}": "has no attribute 'mro'",
    "{{ dict.__base__.__subclasses__() }}": "has no attribute",
    "{{ namespace(__call__=raise_exception)() }}": "begin with an underscore",
    "{{ namespace({'__init__': 1}) }}": "begin with an underscore",
    "{{ namespace(_Namespace__attrs={}) }}": "begin with an underscore",
    "{% set ns = namespace() %}{% set ns.__call__ = 1 %}": "begin with an underscore",
    "{{ namespace(a=1)._Namespace__attrs }}{{ namespace(a=1) | attr('__dict__') }}": "",
    "{{ namespace(unsafe_callable=false, alters_data=false)() }}": "not callable",
    "{{ self.__init__.__globals__ }}": UNSAFE,
    "{{ self._TemplateReference__context.environment }}": UNSAFE,
    "{{ config }}{{ request }}{{ environment }}{{ context }}{{ __builtins__ }}{{ __import__ }}{{ caller }}": "",
    "{{ url_for.__globals__ }}": "undefined",
    "{{ environment.from_string('x') }}": "undefined",
    "{{ debug() }}": "undefined",
    "{% set context = 1 %}{% set environment = 2 %}{{ context }}": "1",
    "{{ 1 | ggufpy charge_value }}": "expected token",
}
OBJECTS = {
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._environment }}": "",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}": UNSAFE,
    "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}": "",
    "{% for x in [1] %}{{ loop._iterator }}{% endfor %}": "",
    "{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}": UNSAFE,
    "{% for x in [1] %}{{ loop.cycle.__func__.__globals__ }}{% endfor %}": UNSAFE,
    "{% set g = [1] | map('string') %}{{ g.gi_frame }}{{ g.gi_code }}": "",
    "{% set g = [1] | map('string') %}{{ g.gi_frame.f_globals }}": UNSAFE,
    "{% set g = [1] | select %}{{ g | attr('gi_frame') }}": "",
    "{% set g = [1] | select %}{{ g.throw(1) }}": "BaseException",
    "{% block a %}{{ super.__class__ }}{{ self.a.__globals__ }}{% endblock %}": "",
    "{{ cycler('a').reset.__func__ }}": "",
    "{{ 'a'.encode('rot13') }}": REFUSED,
    "{{ 'a'.encode('idna') }}": "too large",
}
CHANGES = {
    "{{ messages.append(1) }}": UNSAFE,
    "{{ messages.clear() }}": UNSAFE,
    "{{ messages[0].pop('role') }}": UNSAFE,
    "{{ messages[0].update({'role': 'x'}) }}": UNSAFE,
    "{{ messages[0].setdefault('a', 1) }}": UNSAFE,
    "{{ (messages | list | first).popitem() }}": UNSAFE,
    "{% do messages.append(1) %}": "unknown tag 'do'",
}
FILES = {
    "{% import 'os' as os %}{{ os }}": "no loader",
    "{% from 'os' import system %}": "no loader",
    "{% from '{bad}' import a as b %}": "no loader",
    "{% include '/etc/passwd' %}": "no loader",
    "{% include ['a', '/etc/passwd'] ignore missing %}": "no loader",
    "{% extends '/etc/passwd' %}": "no loader",
    "{% trans %}x{% endtrans %}": "unknown tag 'trans'",
    "{% debug %}": "unknown tag 'debug'",
}
ALL = {**ATTRIBUTES, **FILTERS, **FORMATS, **GLOBALS, **OBJECTS, **CHANGES, **FILES}


def outcome(source: str, here: Rendering | None) -> str:
    """What a source writes, or the error of it, in a process of its own or in this one."""
    variables = {"messages": MESSAGES, "x": 1}
    try:
        if here is None:
            return renderer().render(source, variables, (), Allowance(SECONDS))
        return text_of(here.answer(request(source, packed(variables), (), SECONDS)))
    except TemplateFailure as failure:
        return f"failed: {failure}"


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("source", ALL)
def test_ways_out_of_the_sandbox(source: str, isolated: bool) -> None:
    text = outcome(source, None if isolated else Rendering(killable=False))
    right = ALL[source]
    if text.startswith("failed: "):
        assert right is REFUSED or (right and right in text)
        assert TOO_SLOW not in text
        assert "\n" not in text
    else:
        assert text == right
    assert not re.search(r"<(class|module|frame|code)|subclasses|root:|uid=", text)


def test_the_callers_messages_are_another_processes() -> None:
    messages = [{"role": "user", "content": ["a"]}]
    renderer().render("{{ messages[0].content }}", {"messages": messages}, (), Allowance(SECONDS))
    assert messages == [{"role": "user", "content": ["a"]}]
