"""Keywords of strings, numbers and listed values, rewritten as llguidance holds to them.

In: the keywords of one schema, and what makes an error of its place. Out: those that say the same to the library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.grammar import formats
from ggufpy.grammar.patterns import MOST_REPEATS, whole_string
from ggufpy.support import checks

Error = Callable[[str], GGUFError]

MOST_WHOLE = 2**53 - 1  # whole numbers that every reader of JSON keeps exactly (RFC 8259, 6)
MOST_STEP = 100_000  # a state of the library's automaton for each remainder: half a second
_LEAST_REAL, _MOST_REAL = 1e-15, 1e22  # of which the library writes all digits


def canonical(value: Any) -> str:
    """A text that equal values of JSON share: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return json.dumps(value)


def listed_values(schema: Any) -> list[Any]:
    """The values that a schema of `const` or `enum` lists, none for any other."""
    if not isinstance(schema, dict) or "$ref" in schema or "nullable" in schema:
        return []
    if "const" in schema:
        return [schema["const"]]
    values: Any = schema.get("enum")
    return values if isinstance(values, list) else []


def values(key: str, value: Any, error: Error) -> Any:
    """`enum` or `const` with numbers in a form that comes back as they are."""
    if key == "const":
        return _value(value, error)
    if not isinstance(value, list):
        raise error(f"enum is {checks.shown(value)}; it must be a list of values")
    if not value:
        raise error("enum is empty: nothing could be written")
    return [_value(item, error) for item in value]


def _value(value: Any, error: Error) -> Any:
    if isinstance(value, dict):
        return {key: _value(item, error) for key, item in value.items()}
    if isinstance(value, list):
        return [_value(item, error) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return _real("a value", value, error)


def _real(what: str, value: Any, error: Error) -> int | float:
    """A number that the library reads and writes exactly."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise error(f"{what} is {checks.shown(value)}; it must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise error(f"{what} is {value}; it must be finite")
    if isinstance(value, int) or value.is_integer():
        if abs(value) > MOST_WHOLE:
            told = f"whole numbers are exact up to {MOST_WHOLE} (write it as a string)"
            raise error(f"{what} is {checks.shown(value)}; {told}")
        return int(value)
    if not _LEAST_REAL <= abs(value) <= _MOST_REAL:
        raise error(f"{what} is {value}; only numbers from {_LEAST_REAL} on can be held to")
    return float(value)


def string(node: dict[str, Any], error: Error) -> dict[str, Any]:
    """Lengths, in characters, and what the whole string looks like."""
    made: dict[str, Any] = {}
    for key in ("minLength", "maxLength"):
        if key in node:
            value = node[key]
            whole = int(value) if isinstance(value, float) and value.is_integer() else value
            if isinstance(whole, bool) or not isinstance(whole, int) or not 0 <= whole <= MOST_REPEATS:
                raise error(f"{key} is {checks.shown(value)}; it must be a whole number from 0 to {MOST_REPEATS:,}")
            made[key] = whole
    looks = [_pattern(node["pattern"], error)] if "pattern" in node else []
    if (shape := _format(node, error)) is not None:
        looks.append(shape)
    if looks:
        made["pattern"] = f"^(?:{looks[0]})$"
    if len(looks) > 1:
        made["allOf"] = [{"pattern": f"^(?:{looks[1]})$"}]
    return made


def _pattern(value: Any, error: Error) -> str:
    if not isinstance(value, str):
        raise error(f"pattern is {checks.shown(value)}; it must be a text")
    try:
        return whole_string(value)
    except GGUFError as reason:
        raise error(f"pattern {value!r:.80} cannot be enforced: {reason}") from None


def _format(node: dict[str, Any], error: Error) -> str | None:
    """What a string of this format looks like; None where any will do."""
    name = node.get("format")
    if name is None and "format" not in node:
        return None
    if not isinstance(name, str):
        raise error(f"format is {checks.shown(name)}; it must be a text")
    if name in formats.STRINGS:
        return formats.STRINGS[name]
    if name in formats.HINTS or name in formats.NUMBERS or not name:
        return None
    known = ", ".join(sorted(formats.STRINGS))
    raise error(f"format {name!r:.40} cannot be enforced; remove it, write a pattern, or take one of {known}")


def numbers(node: dict[str, Any], types: Sequence[str], error: Error) -> dict[str, Any]:
    """Bounds and steps."""
    low, high = _bound(node, "minimum", "exclusiveMinimum", error), _bound(node, "maximum", "exclusiveMaximum", error)
    made: dict[str, Any] = {**low, **high}
    if "multipleOf" in node:
        made["multipleOf"] = _step(node["multipleOf"], error)
    given = node.get("format")
    sized = formats.NUMBERS.get(given) if isinstance(given, str) else None
    if "integer" in types or sized is not None:
        least, most = sized or (-MOST_WHOLE, MOST_WHOLE)
        if "exclusiveMinimum" not in made:
            made["minimum"] = max(made.get("minimum", least), least)
        if "exclusiveMaximum" not in made:
            made["maximum"] = min(made.get("maximum", most), most)
    return made


def _bound(node: dict[str, Any], key: str, exclusive: str, error: Error) -> dict[str, Any]:
    """A bound of either draft: draft 4 says with a bool whether it is exclusive.

    One beyond what is written anyhow (those of 64 bits, say) becomes the last number that is.
    """
    sign = -1 if key == "minimum" else 1
    made: dict[str, Any] = {}
    for name in (key, exclusive):
        value = node.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and sign * value > MOST_WHOLE:
            made.setdefault(key, sign * MOST_WHOLE)
        elif name in node and not (name == exclusive and isinstance(value, bool)):
            made[name] = _real(name, value, error)
    if node.get(exclusive) is True:
        if key not in made:
            raise error(f"{exclusive} is true, and there is no {key}; write the number as {exclusive}")
        made[exclusive] = made.pop(key)
    return made


def _step(value: Any, error: Error) -> int | float:
    step = _real("multipleOf", value, error)
    if step <= 0:
        raise error(f"multipleOf is {value}; it must be above 0")
    if common_step([step]) > MOST_STEP:
        raise error(f"multipleOf is {value}; up to {MOST_STEP:,} and five digits can be held to")
    return step


def common_step(steps: Sequence[int | float]) -> int:
    """What is a multiple of all of `steps`, in units of the last digit that any of them has."""
    exact = [Decimal(repr(step)) for step in steps]
    last = min((int(number.as_tuple().exponent) for number in exact), default=0)
    return math.lcm(*(int(number.scaleb(-min(last, 0))) for number in exact))
