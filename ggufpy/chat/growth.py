"""Filters and methods whose result may be far larger than what they are given: refused before they run.

A meter counts what was made; what is looked at here would take memory or minutes to make. Results that are at most as
large as the arguments together need no entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ggufpy.chat.limits import MAX_BITS, MAX_ITEMS, MAX_VALUE, TooMuch
from ggufpy.chat.meter import weigh

Arguments = tuple[Any, ...]
_WIDTH = re.compile(r"\d{4,}|\*")
_CODECS = ("utf-8", "utf8", "ascii", "latin-1", "utf-16", "utf-32")
_REPEATED = (str, bytes, list, tuple)
_MAX_PRECISION = 400  # digits behind the point: a float has no more


def check(name: str, args: Arguments, kwargs: Mapping[str, Any]) -> None:
    """Raises TooMuch for a filter or method `name`, its value first in `args`, whose result would be too large.

    No argument is larger than any value may be: each was weighed when it was made.
    """
    size = _SIZES.get(name)
    if size is not None and size(args, kwargs) > MAX_VALUE:
        raise TooMuch(f"{name} would make too large a value")


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raises TooMuch for `*`, `**` and `%` whose result would be too large."""
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_BITS:
            raise TooMuch("a number grows beyond every limit")
    elif operator == "*" and isinstance(left if isinstance(right, int) else right, _REPEATED):
        check("repeat", (left, right), {})
    elif operator == "%" and isinstance(left, (str, bytes)):
        check("format", (left, right), {})


# -- sizes: characters of a result from above, infinity for what is refused in any case --

_NEVER = float("inf")


def _numbers(values: Iterable[Any]) -> int:
    return max((abs(value) for value in values if isinstance(value, int)), default=0)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple, Mapping)) else 1


def _argument(args: Arguments, kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _padded(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    """A text of a width that is given."""
    return _numbers((*args[1:], *kwargs.values()))


def _items(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    """A list of the characters, words or lines of a text."""
    return _NEVER if isinstance(args[0], (str, bytes)) and len(args[0]) > MAX_ITEMS else 0


def _encoded(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    """Codecs of names of hosts take quadratic time."""
    name = str(_argument(args, kwargs, 1, "encoding", "utf-8")).lower().replace("_", "-")
    return 0 if name in _CODECS else _NEVER


def _filled(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    """A list of a length that is given."""
    return _NEVER if _padded(args, kwargs) > MAX_ITEMS else 0


def _repeated(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    return _numbers(args) * max(map(_length, args))


def _expanded(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    return _length(args[0]) * max(_numbers((*args[1:], *kwargs.values())), 1)


def _replaced(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    text, old, new = (str(_argument(args, kwargs, i, name, "")) for i, name in enumerate(("s", "old", "new")))
    return text.count(old) * len(new)


def _joined(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    """A filter's items come first, a method's between."""
    first, second = args[0], _argument(args, kwargs, 1, "d", "")
    if isinstance(first, (str, bytes)) and not isinstance(second, (str, bytes)):
        first, second = second, first
    return _length(first) * _length(second)


def _translated(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    table = args[1] if len(args) > 1 and isinstance(args[1], Mapping) else {}
    return _length(args[0]) * max(map(_length, table.values()), default=1)


def _indented(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    width = _argument(args, kwargs, 1, "width", 4)
    return (str(args[0]).count("\n") + 1) * (abs(width) if isinstance(width, int) else _length(width))


def _wrapped(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    return _length(args[0]) * max(map(_length, (*args[1:], *kwargs.values())), default=1)


def _json(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    indent = _argument(args, kwargs, 2, "indent")
    if indent is None:
        return 0
    return weigh(args[0]) * _depth(args[0]) * (abs(indent) if isinstance(indent, int) else _length(indent))


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = [item.values() if isinstance(item, Mapping) else item for item in level]
        level = [item for items in inner if isinstance(items, Iterable) for item in items if _holds(item)]
    return depth


def _holds(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _formatted(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    """No width of four digits, nor one from an argument; a format may come as an argument of a format."""
    return _NEVER if any(isinstance(value, (str, bytes)) and _wide(value) for value in args) else 0


def _wide(text: str | bytes) -> bool:
    return _WIDTH.search(text if isinstance(text, str) else text.decode("latin-1")) is not None


def _rounded(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    return _NEVER if _numbers((*args[1:], *kwargs.values())) > _MAX_PRECISION else 0


def _summed(args: Arguments, kwargs: Mapping[str, Any]) -> float:
    """Numbers only: texts and lists are copied at every step."""
    start = _argument(args, kwargs, 2, "start", 0)
    return _NEVER if isinstance(start, (str, list, tuple)) else 0


_SIZES: Mapping[str, Callable[[Arguments, Mapping[str, Any]], float]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill", "to_bytes"), _padded),
    **dict.fromkeys(("batch", "slice"), _filled),
    **dict.fromkeys(("format", "format_map", "strftime_now"), _formatted),
    **dict.fromkeys(("sort", "list", "unique", "groupby", "split", "rsplit", "splitlines"), _items),
    **dict.fromkeys(("encode", "decode"), _encoded),
    "repeat": _repeated,
    "expandtabs": _expanded,
    "replace": _replaced,
    "join": _joined,
    "translate": _translated,
    "indent": _indented,
    "wordwrap": _wrapped,
    "tojson": _json,
    "round": _rounded,
    "sum": _summed,
}
