"""Learns a form from what a template writes with and without a thought or a call."""

from __future__ import annotations

import re

from ggufpy.chat.syntax.form import Calls, Form, Part, Thoughts
from ggufpy.chat.syntax.form_parser import is_marker
from ggufpy.chat.syntax.learned_calls import Written, find
from ggufpy.chat.syntax.parts import Text
from ggufpy.chat.syntax.shown import CONTENT, Shown, common_end, common_start

# Pairs that are known where a template only opens a thought in the prompt, or cuts thoughts out of what was said.
_PAIRS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<reasoning>", "</reasoning>"),
)
_WORD_AT_END = re.compile(r"\s+[\w=\"]+$")
_WORDS = re.compile(r"\S+\s*")


def learned(shown: Shown) -> tuple[Form, str]:
    """What the template shows, and the text with which an assistant's message begins. A form without calls where it
    shows none."""
    thoughts = thoughts_of(shown)
    wraps, ends = _wraps(shown, thoughts)
    calls = _calls(shown, thoughts, wraps, ends)
    header = shown.start
    if thoughts and not thoughts.opens.strip():
        thoughts, header = _with_opening(thoughts, header, shown)
    return Form(thoughts, (calls,) if calls else (), wraps), header


# -- thoughts --


def thoughts_of(shown: Shown) -> Thoughts | None:
    """The texts around a thought: as the template writes one, else those of a known pair that it names."""
    found = shown.thought
    if found:
        closes = found[1].after
        if shown.thought_then_call:
            closes = _WORD_AT_END.sub("", common_start([closes, shown.thought_then_call]))
        if is_marker(closes.strip()):
            return Thoughts(found[1].before, closes)
    for opens, closes in _PAIRS:
        if closes in shown.source or any(prompt.rstrip().endswith(opens) for prompt in shown.prompts):
            return Thoughts(opens, closes)
    return None


def _with_opening(thoughts: Thoughts, header: str, shown: Shown) -> tuple[Thoughts, str]:
    """Thoughts whose opening is part of every message, or of every prompt: it is taken from there."""
    tag = thoughts.closes.strip().replace("/", "", 1)
    head = header.rstrip()
    if tag != thoughts.closes.strip() and head.endswith(tag):
        return Thoughts(tag + header[len(head) :], thoughts.closes), head[: -len(tag)]
    prompts = [prompt[len(shown.header) :] for prompt in shown.prompts if prompt.startswith(shown.header)]
    if prompts and prompts[0].strip() and thoughts.closes.strip() not in prompts[0]:
        return Thoughts(prompts[0], thoughts.closes), header
    return thoughts, header


def _without_thought(text: str, thoughts: Thoughts | None) -> str:
    """A text without the thought of nothing at its beginning."""
    if thoughts is None:
        return text
    start = text.lstrip().removeprefix(thoughts.opens.strip()).lstrip()
    return start[len(thoughts.closes.strip()) :] if start.startswith(thoughts.closes.strip()) else text


# -- content --


def _wraps(shown: Shown, thoughts: Thoughts | None) -> tuple[tuple[str, ...], str]:
    """Markers around content; what a message ends with."""
    plain = shown.plain
    if plain is None:
        return (), ""
    before = _without_thought(plain.before, thoughts).strip()
    # What ends content also stands between it and a call; what ends a message does not.
    text = shown.calls(1, CONTENT)
    behind = text.partition(CONTENT)[2] if text else ""
    after = common_start([plain.after, behind]) if behind else ""
    if not is_marker(after.strip()) or after.strip() == plain.after.strip():
        after = ""
    ends = plain.after[len(after) :]
    more = re.sub(r"<[^<>]*>\s*$", "", ends).strip() if after else ""
    opens = thoughts.opens.strip() if thoughts else ""
    wraps = tuple(text for text in (before, after.strip(), more) if _is_tag(text) and text != opens)
    return wraps, ends


def _is_tag(text: str) -> bool:
    """Whether a text is a marker that no answer holds: a name and a colon are none."""
    return is_marker(text) and any(char in text for char in "<>[]|")


# -- calls --


def _calls(shown: Shown, thoughts: Thoughts | None, wraps: tuple[str, ...], ends: str) -> Calls | None:
    one, two = shown.calls(1), shown.calls(2)
    first = find(one, 0) if one else None
    if one is None or first is None:
        return None
    before = _before(shown, one, first, thoughts, wraps)
    if two and (second := find(two, 1)):
        return _of_two(first, before, two, second, ends)
    return _made(first, "", before, _without_end(one[first.end :], ends), "", several=False)


def _before(shown: Shown, one: str, first: Written, thoughts: Thoughts | None, wraps: tuple[str, ...]) -> str:
    """What opens a call, without the marks of content and thoughts."""
    found = [_unwrapped(_without_thought(one[: first.start], thoughts), wraps)]
    text = shown.calls(1, CONTENT)
    written = find(text, 0) if text else None
    if text and written and CONTENT in text[: written.start]:
        found.append(_unwrapped(text[: written.start].partition(CONTENT)[2], wraps))
    return min((text for text in found if is_marker(text.strip())), key=len, default=found[-1])


def _unwrapped(text: str, wraps: tuple[str, ...]) -> str:
    """A text without the marks of content at its beginning."""
    for wrap in wraps:
        if text.lstrip().startswith(wrap):
            text = text.lstrip()[len(wrap) :]
    return text


def _without_end(text: str, ends: str) -> str:
    """A text without what ends a message."""
    if ends and text.endswith(ends):
        return text[: -len(ends)]
    end = common_end([text, ends]) if ends else ""
    return text[: len(text) - len(end)]


def _of_two(first: Written, before: str, two: str, second: Written, ends: str) -> Calls | None:
    """Calls from what is before the first, between both and after the second of two."""
    again = find(two, 0)
    if again is None:
        return None
    middle, after = two[again.end : second.start], _without_end(two[second.end :], ends)
    closes = common_start([middle, after])
    rest = middle[len(closes) :]
    opens = common_end([before, rest]) if is_marker(rest.strip()) else ""
    between = rest[: len(rest) - len(opens)]
    section, outer = before[: len(before) - len(opens)], after[len(closes) :]
    if not opens and not is_marker(section.strip()):
        return _made(first, "", before, closes, outer, between=between)
    return _made(first, section, opens, closes, outer, between=between)


def _made(
    call: Written, section: str, opens: str, closes: str, outer: str, between: str = "", several: bool = True
) -> Calls | None:
    """Calls of these texts, which must begin with a marker."""
    parts: list[Part] = [*_texts(opens), *call.parts, *_texts(closes)]
    if not is_marker((section + opens).strip()) and not isinstance(call.parts[0], Text):
        return None
    return Calls(tuple(parts), section, outer, between, several=several)


def _texts(text: str) -> list[Text]:
    """A text as markers: cut at white space, which models write as they like."""
    if not text.strip():
        return []
    space = text[: len(text) - len(text.lstrip())]
    words = _WORDS.findall(text)
    return [Text(space + words[0].lstrip() if i == 0 else word) for i, word in enumerate(words)]
