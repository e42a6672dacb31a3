"""A jinja2 environment for templates that come with model files, which anyone may have written.

jinja2's immutable sandbox keeps a template from reaching Python's internals. What it leaves open is how much
a template may do, so every loop, call, filter, operator and literal here is charged to a Meter: work
(characters and items made, iterations), the size of one value, and seconds.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Collection, ItemsView, Iterable, Iterator, Mapping, ValuesView
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from itertools import islice
from typing import Any, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

MAX_WORK = 1 << 28  # characters, items and iterations of one rendering
MAX_VALUE = 1 << 25  # characters of one value
MAX_ITEMS = 1 << 19  # items of one value
MAX_SECONDS = 5.0
_MAX_BITS = 1 << 16  # of a whole number
_MAX_INDENT = 16
_CHARGE, _LOOP = (
    "charge_value",
    "charge_loop",
)  # filters that templates cannot name: they are called with a prefix
_PREFIX = "ggufpy "
_NO_FILTERS = (
    "pprint",
    "random",
    "striptags",
    "urlize",
    "wordwrap",
    "xmlattr",
)  # slow on some texts, or not repeatable
_WIDTH = re.compile(r"\d{4,}|\*")


class TooMuch(SecurityError):
    """One rendering has used all the work, time or text that it may."""


class Meter:
    """What one rendering has used. Raises TooMuch when it is too much."""

    def __init__(self) -> None:
        self._left = MAX_WORK
        self._end = time.monotonic() + MAX_SECONDS

    def charge(self, work: float) -> None:
        """Counts work that is done or about to be."""
        self._left -= math.ceil(work)
        if self._left < 0:
            raise TooMuch("it does more work than any chat needs")
        if time.monotonic() > self._end:
            raise TooMuch(f"it takes longer than {MAX_SECONDS:g} seconds")

    def made(self, value: Any) -> Any:
        """`value`, charged by its size."""
        self.charge(weigh(value))
        return value


_METER: ContextVar[Meter] = ContextVar("meter")


def metered(render: Callable[[], Iterable[str]], max_output: int) -> str:
    """The joined chunks of `render` under a new meter. Raises SecurityError beyond a limit."""
    token = _METER.set(Meter())
    chunks: list[str] = []
    left = max_output
    try:
        for chunk in render():
            left -= len(chunk)
            if left < 0:
                raise TooMuch(f"it writes more than {max_output:,} characters")
            _METER.get().charge(1)
            chunks.append(chunk)
    finally:
        _METER.reset(token)
    return "".join(chunks)


def weigh(value: Any) -> int:
    """Characters and items in `value` and all it holds. Raises SecurityError above MAX_VALUE or MAX_ITEMS."""
    characters = items = 0
    stack = [value]
    while stack and characters <= MAX_VALUE and items <= MAX_ITEMS:
        item = stack.pop()
        items += 1
        if isinstance(item, (str, bytes)):
            characters += len(item)
        elif isinstance(item, (Mapping, ItemsView)):
            stack += _some(item.items() if isinstance(item, Mapping) else item)
        elif isinstance(item, (list, tuple, AbstractSet, ValuesView)):
            stack += _some(item)
        elif isinstance(item, int) and item.bit_length() > _MAX_BITS:
            items = MAX_ITEMS + 1
    if characters > MAX_VALUE or items > MAX_ITEMS:
        raise SecurityError("a value grows beyond every limit")
    return characters + items


def _some(items: Collection[Any]) -> Iterable[Any]:
    """`items`, or enough of them to be too many."""
    return items if len(items) <= MAX_ITEMS else islice(items, MAX_ITEMS + 1)


class _PlainNamespace(Namespace):
    """A namespace that is not written out with all it holds."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what a model is trained to say (Hugging Face:
    apply_chat_template's assistant masks): here it is the plain content between the two."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates: trim_blocks, lstrip_blocks, break and continue, generation marks,
    `tojson` without HTML escapes, `raise_exception`, `strftime_now`; every template metered."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            optimized=False,
            finalize=_finalize,
        )
        for name in _NO_FILTERS:
            del self.filters[name]
        self.filters["tojson"] = _to_json
        self.filters = {name: _metered_filter(name, function) for name, function in self.filters.items()}
        self.filters[_PREFIX + _CHARGE] = pass_context(lambda _, value: _METER.get().made(value))
        self.filters[_PREFIX + _LOOP] = pass_context(_counted)
        del self.globals["lipsum"]
        self.globals["namespace"] = _PlainNamespace
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
        if isinstance(function, (Macro, BlockReference)):
            _METER.get().charge(1 + self.constant_text)
        elif isinstance(owner, (str, bytes, int, float)):
            _check_arguments(getattr(method, "__name__", ""), (owner, *args), kwargs)
        return _METER.get().made(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, checked before and charged after."""
        if operator == "**" or (operator == "*" and isinstance(left, int) and isinstance(right, int)):
            _check_number(operator, left, right)
        elif operator == "*":
            _check_arguments("repeat", (left, right), {})
        elif operator == "%" and isinstance(left, (str, bytes)):
            _check_arguments("format", (left, right), {})
        return _METER.get().made(super().call_binop(context, operator, left, right))


class _Metering(NodeTransformer):
    """Puts the charging filters around what makes values, and around what loops run over."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise TemplateError("recursive loops are not supported")
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
        return _filtered(node, _CHARGE, []) if isinstance(node.arg, nodes.Slice) else node


def _filtered(node: nodes.Node, name: str, args: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), _PREFIX + name, args, [], None, None, lineno=node.lineno)


def _text_in(node: nodes.Node) -> int:
    own = [node] if isinstance(node, nodes.TemplateData) else []
    return sum(len(text.data) for text in (*own, *node.find_all(nodes.TemplateData)))


@pass_context
def _finalize(_: Context, value: Any) -> Any:
    """Every value that is written; None writes nothing new."""
    return _METER.get().made(value)


def _counted(_: Context, items: Iterable[Any], text: int) -> Iterator[Any]:
    for item in items:
        _METER.get().charge(1 + text)
        yield item


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments checked and its result charged; always called with the context, so that
    nothing is computed while a template is compiled."""
    passed = str(getattr(function, "jinja_pass_arg", ""))

    @pass_context
    @wraps(function, updated=())
    def filtered(context: Context, *args: Any, **kwargs: Any) -> Any:
        _check_arguments(name, args, kwargs)
        first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        head = [value for key, value in first.items() if passed.lower().endswith("." + key)]
        return _METER.get().made(function(*head, *args, **kwargs))

    return filtered


def _check_arguments(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuses arguments whose result could be far larger than they are."""
    values = [*args, *kwargs.values()]
    size = sum(weigh(value) for value in values)
    largest = max((abs(value) for value in values if isinstance(value, int)), default=0)
    if name == "replace" and len(values) > 2 and all(isinstance(value, str) for value in values[:3]):
        largest = values[0].count(values[1]) * len(values[2]) // max(size, 1) + 1
    elif name == "join":
        joined = [len(value) for value in values if isinstance(value, (str, list, tuple))]
        largest = max(largest, math.prod(joined[:2]) // max(size, 1))
    elif name in ("format", "format_map") and any(isinstance(v, (str, bytes)) and _wide(v) for v in values):
        raise SecurityError("a format asks for too wide a field")
    elif name == "sum" and any(
        isinstance(value, (str, list, tuple)) for value in (*args[2:], kwargs.get("start"))
    ):
        raise SecurityError("sum is for numbers")
    if largest > 1 and largest * size > MAX_VALUE:
        raise SecurityError(f"{name} would make too large a value")


def _wide(text: str | bytes) -> bool:
    return _WIDTH.search(text if isinstance(text, str) else text.decode("latin-1")) is not None


def _check_number(operator: str, left: Any, right: Any) -> None:
    if not isinstance(left, int) or not isinstance(right, int):
        return
    bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
    if bits > _MAX_BITS:
        raise SecurityError("a number grows beyond every limit")


def _raise_exception(message: Any = "") -> None:
    raise TemplateError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Hugging Face's templates expect it: no HTML escapes, not only ASCII."""
    if isinstance(indent, int):
        indent = min(indent, _MAX_INDENT)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
