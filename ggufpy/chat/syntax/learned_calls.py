"""Finds a call in what a template wrote: where name, id and arguments are, and how they are written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from ggufpy.chat.syntax.form import Part
from ggufpy.chat.syntax.keywords import Keywords
from ggufpy.chat.syntax.parts import Id, Name, Number, Text
from ggufpy.chat.syntax.shown import (
    ARGUMENTS,
    IDS,
    NAMES,
    NUMBER,
    NUMBER_KEY,
    TEXT_KEY,
    common_end,
    common_start,
    shared_end,
)
from ggufpy.chat.syntax.tagged import Tagged
from ggufpy.chat.syntax.written import Json, Wrapped
from ggufpy.support.records import dataclass

_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Written:
    """A call within a text: its parts, and where the first begins and the last ends."""

    parts: tuple[Part, ...]
    start: int
    end: int


def find(text: str, number: int) -> Written | None:
    """The call of this number (0 or 1); None where it is not written in a way that is known."""
    return _wrapped(text, number) or _named_json(text, number) or _keywords(text, number) or _tagged(text, number)


# -- JSON --


def _values(text: str, start: int, stop: int) -> list[tuple[int, int, Any]]:
    """The JSON objects that begin within a part of a text: where each begins and ends, and what it is."""
    found = []
    for match in re.compile(r"\{").finditer(text, start, stop):
        try:
            value, end = _DECODER.raw_decode(text, match.start())
        except ValueError:
            continue
        found.append((match.start(), end, value))
    return found


def _wrapped(text: str, number: int) -> Written | None:
    """An object that has the name, or has it for a key."""
    name, arguments = NAMES[number], ARGUMENTS[number]
    for start, end, value in _values(text, 0, len(text)):
        inner = value.get("function") if isinstance(value.get("function"), dict) else value
        if inner == {name: arguments}:
            return Written((Wrapped(keyed=True),), start, end)
        keys = {key for key, held in inner.items() if _is_arguments(held, arguments)}
        names = [key for key, held in inner.items() if held == name]
        if keys and names:
            ids = [key for key, held in value.items() if isinstance(held, str) and (held in IDS or held.isdigit())]
            first = bool(ids) and list(value).index(ids[0]) < list(value).index(next(iter(keys)))
            part = Wrapped(names[0], min(keys), ids[0] if ids else "", first)
            counts = bool(ids) and value[ids[0]].isdigit()
            return Written((replace(part, id_pattern="[0-9]{1,3}") if counts else part,), start, end)
    return None


def _is_arguments(held: Any, arguments: Any) -> bool:
    if not isinstance(held, str):
        return bool(held == arguments)
    try:
        return bool(json.loads(held) == arguments)
    except ValueError:
        return False


def _named_json(text: str, number: int) -> Written | None:
    """The name, perhaps an id, and an object of arguments."""
    found = [(start, end) for start, end, value in _values(text, 0, len(text)) if value == ARGUMENTS[number]]
    at = text.find(NAMES[number])
    if not found or not 0 <= at < found[0][0]:
        return None
    start, end = found[0]
    parts, begin = _name_and_id(text, at, start, number)
    return Written((*parts, Json()), begin, end)


def _name_and_id(text: str, at: int, stop: int, number: int) -> tuple[list[Part], int]:
    """The parts from the name (or an id right before it) to the arguments, and where they begin."""
    name = NAMES[number]
    before = re.search(r"functions\.$", text[:at])
    behind = re.match(rf":{number}(?!\d)", text[at + len(name) :])
    begin = at - (len(before[0]) if before else 0)
    position = at + len(name) + (len(behind[0]) if behind else 0)
    form = f"{before[0] if before else ''}{{}}{':{n}' if behind else ''}"
    parts: list[Part] = [Name(form)]
    early = text.rfind(IDS[number], 0, begin)
    if early >= 0 and not any(word in text[early:begin] for word in NAMES):
        parts[:0] = [Id(), *_cut(text[early + len(IDS[number]) : begin], number)]
        begin = early
    while position < stop:
        spots = [(text.find(word, position, stop), word) for word in (IDS[number], name)]
        spot, word = min(((i, w) for i, w in spots if i >= 0), default=(stop, ""))
        parts += _cut(text[position:spot], number)
        parts += [Id() if word == IDS[number] else Name()] if word else []
        position = spot + len(word)
    return parts, begin


def _cut(text: str, number: int) -> list[Part]:
    """A text as markers, cut at white space and around a number that counts calls."""
    parts: list[Part] = []
    for i, piece in enumerate(re.split(rf"(?<=\")({number}|{number + 1})(?=\")", text)):
        parts += [Number()] if i % 2 else [Text(word) for word in re.findall(r"\S+\s*", piece)]
    return parts


# -- others --


def _keywords(text: str, number: int) -> Written | None:
    """A call of Python's."""
    found = re.search(rf"{NAMES[number]}\({TEXT_KEY}=(['\"])[a-z ]+\1(, ?{NUMBER_KEY}={NUMBER})?\)", text)
    return Written((Name(), Keywords()), found.start(), found.end()) if found else None


def _tagged(text: str, number: int) -> Written | None:
    """Keys and values between markers. How they stand is learned from the first call, which has two of them."""
    name = NAMES[number]
    at = text.find(name)
    if at < 0:
        return None
    rows = [(key, str(value)) for key, value in ARGUMENTS[number].items()]
    spots = []
    position = at + len(name)
    for key, value in rows:
        start = text.find(key, position)
        stop = text.find(value, start + len(key)) if start >= 0 else -1
        if stop < 0:
            return None
        spots.append((start, start + len(key), stop, stop + len(value)))
        position = stop + len(value)
    tags = _tags(text, NAMES[0], number)
    if tags is None:
        return None
    closes = text.find(tags.closes.strip(), position)
    if closes < 0:
        return None
    end = closes + len(tags.closes.strip())
    opening = text.rfind(tags.opens.strip(), at, spots[0][0])
    parts, begin = _name_and_id(text, at, opening, number)
    return Written((*parts, tags), begin, end)


def _tags(text: str, name: str, number: int) -> Tagged | None:
    """The markers of keys and values, from the first call in a text."""
    keys = (TEXT_KEY, NUMBER_KEY)
    at = text.find(name)
    values = [str(value) for value in ARGUMENTS[0].values()]
    first = text.find(keys[0], at)
    second = text.find(keys[1], first)
    starts = [text.find(value, key) for value, key in zip(values, (first, second), strict=True)]
    if at < 0 or min(first, second, *starts) < 0:
        return None
    after_name = text[at + len(name) : first]
    middles = [text[key + len(word) : start] for key, word, start in zip((first, second), keys, starts, strict=True)]
    between = text[starts[0] + len(values[0]) : second]
    if keys[0] in between or keys[1] in text[starts[1] + len(values[1]) :][: len(between)]:
        return None  # the key is in the closing tag too
    opens = common_end([after_name, between])
    closes = common_start([between[: len(between) - len(opens)], text[starts[1] + len(values[1]) :]])
    rest = between[len(closes) : len(between) - len(opens)]
    if not opens.strip() or not closes.strip() or not middles[0]:
        return None
    lines = middles[0].endswith("\n") and closes.startswith("\n")
    if middles[0] == middles[1]:
        return Tagged(opens, middles[0], closes, rest, None, lines)
    before, behind = common_start(middles), shared_end(middles)
    said = [middle[len(before) : len(middle) - len(behind)] for middle in middles]
    if not before.strip() or not behind.strip() or not all(said):
        return None
    return Tagged(opens, behind, closes, rest, (before, said[0], said[1]), lines)
