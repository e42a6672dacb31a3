"""A jinja2 environment for templates that come with model files, which anyone may have written.

jinja2's immutable sandbox keeps a template from reaching Python's internals. What it leaves open is how much
a template may do, so every loop, call, filter, operator and literal here is charged to a `Meter`. What one call of C
code may do is bounded from outside: templates run in a process that is killed (`renderer.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import wraps
from typing import Any, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from ggufpy.chat import growth
from ggufpy.chat.meter import meter

_PREFIX = "ggufpy "  # filters that templates cannot name begin with it
_CHARGE, _CHARGE_PART, _LOOP = "charge_value", "charge_part", "charge_loop"
_PARTS = ("attr", "d", "default", "first", "last", "max", "min", "random")  # filters that give what is there already
SLOW_FILTERS = ("pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr")  # on some texts, in one call of C


class BlankToken(Undefined):
    """A special token that the model does not have: undefined, as Hugging Face has it, and nothing where it is added
    to a text, as llama.cpp has it (common/chat.cpp)."""

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __add__


class _Namespace(Namespace):
    """A namespace that is not written out with all it holds, and whose names are no part of Python's protocols.

    jinja2's `Context.call` follows `__call__` of what it calls, which a namespace could answer.
    """

    def __init__(*args: Any, **kwargs: Any) -> None:
        names = dict(*args[1:], **kwargs)
        for name in names:
            _check_name(name)
        Namespace.__init__(args[0], names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no names that begin with an underscore, such as {name!r}")


class _Dict:
    """`dict` as a function, not the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what a model is trained to say (Hugging Face:
    apply_chat_template's assistant masks): here it is the content between the two, in a scope of its own."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates: trim_blocks, lstrip_blocks, break and continue, generation marks,
    `tojson` without HTML escapes, `raise_exception`, `strftime_now`; every template metered.

    Without `killable`, for a process that must not be killed, SLOW_FILTERS are not there. jinja2's `lipsum` never is.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, killable: bool) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            optimized=False,
            finalize=_finalize,
        )
        self.filters["tojson"] = _to_json
        names = [name for name in self.filters if killable or name not in SLOW_FILTERS]
        self.filters = {name: _metered_filter(name, self.filters[name]) for name in names}
        self.filters[_PREFIX + _CHARGE] = pass_context(lambda _, value: meter().made(value))
        self.filters[_PREFIX + _CHARGE_PART] = pass_context(_part)
        self.filters[_PREFIX + _LOOP] = pass_context(_counted)
        del self.globals["lipsum"]
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.constant_text = 0

    def compile_metered(self, source: str) -> Any:
        """A template whose loops, literals and slices are metered too. Raises jinja2's TemplateError."""
        tree = self.parse(source)
        self.constant_text = _text_in(tree)
        code = self.compile(_Metering().visit(tree))
        return self.template_class.from_code(self, code, self.make_globals(None))

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        """A call, with its arguments checked where they decide the size of the result."""
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(function, LoopContext) and args:  # a recursive loop goes one level down
            args = (_counted(context, args[0], self.constant_text), *args[1:])
        elif isinstance(function, (Macro, BlockReference)):
            meter().charge(1 + self.constant_text)
        elif isinstance(owner, (str, bytes, int, float)):
            growth.check(getattr(method, "__name__", ""), (owner, *args), kwargs)
        elif isinstance(function, type):  # a cycler holds what it is given, and shows it
            meter().made((args, kwargs))
        return meter().made(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, checked before and charged after."""
        growth.check_operator(operator, left, right)
        return meter().made(super().call_binop(context, operator, left, right))


class _Metering(NodeTransformer):
    """Puts the charging filters around what makes values, and around what loops run over."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        text = nodes.Const(sum(_text_in(part) for part in (*node.body, *node.else_)), lineno=node.lineno)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _LOOP, [text])
        return node

    def _charged(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _CHARGE, [])

    visit_Concat = visit_List = visit_Dict = _charged

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._charged(node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _CHARGE_PART, []) if isinstance(node.arg, nodes.Slice) else node


def _filtered(node: nodes.Node, name: str, args: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), _PREFIX + name, args, [], None, None, lineno=node.lineno)


def _text_in(node: nodes.Node) -> int:
    own = [node] if isinstance(node, nodes.TemplateData) else []
    return sum(len(text.data) for text in (*own, *node.find_all(nodes.TemplateData)))


@pass_context
def _finalize(_: Context, value: Any) -> Any:
    """Every value that is written."""
    return meter().made(value)


def _part(_: Context, value: Any) -> Any:
    """A part of a value that was weighed, charged by its own length: what it holds is not made anew."""
    meter().charge(len(value) if isinstance(value, Sized) else 1)
    return value


def _counted(_: Context, items: Iterable[Any], text: int) -> Iterator[Any]:
    for item in items:
        meter().charge(1 + text)
        yield item


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments checked and its result charged; always called with the context, so that
    nothing is computed while a template is compiled."""
    passed = str(getattr(function, "jinja_pass_arg", ""))

    @pass_context
    @wraps(function, updated=())
    def filtered(context: Context, *args: Any, **kwargs: Any) -> Any:
        if name == "join" and args and not isinstance(args[0], Sized):
            args = (list(_counted(context, args[0], 0)), *args[1:])
        growth.check(name, args, kwargs)
        first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        head = [value for key, value in first.items() if passed.lower().endswith("." + key)]
        made = function(*head, *args, **kwargs)
        return _part(context, made) if name in _PARTS else meter().made(made)

    return filtered


def _raise_exception(message: Any = "") -> None:
    raise TemplateError(str(message))


def _strftime_now(form: str) -> str:
    growth.check("strftime_now", (form,), {})
    return meter().now.strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Hugging Face's templates expect it: no HTML escapes, not only ASCII."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def blank_tokens(names: Iterable[str]) -> Mapping[str, BlankToken]:
    """Variables for special tokens that a model does not have."""
    return {name: BlankToken(name=name) for name in names}
