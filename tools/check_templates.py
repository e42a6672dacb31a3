"""Chat templates of public models: what ours makes of conversations, against transformers.

    python tools/check_templates.py PATH [PATH ...]

A PATH is a template (.jinja), a tokenizer_config.json, a .gguf, or a folder of those. Each template renders
conversations (plain, system, several turns, tools with and without calls and answers, thoughts, parts), with and
without a generation prompt, and continued, twice:
- as given: `render_as_given` and transformers' `render_jinja_template` get the same messages. Where the latter has a
  text ours must have the same.
- adapted: `render` and `apply_chat_template` get messages as clients send them. Ours must be what transformers makes of
  these messages, in this form or another (arguments as objects); or transformers' must have lost a word of the
  messages, or written parts and arguments as Python does or as JSON within JSON, and ours less of that.
Prints a line a template and a closing line; exits 1 where a text differs that should not.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

import ggufpy
from ggufpy.chat import ChatTemplate, Renderer
from ggufpy.errors import GGUFError

Messages = list[dict[str, Any]]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather of a place <now> & "here".',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "A city"},
                "days": {"type": "integer", "description": "How many", "default": 1},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["city"],
        },
        "return": {"type": "string"},
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: Any) -> dict[str, Any]:
    return {"role": "system", "content": text}


def assistant(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(number: int, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": f"call0000{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(number: int, name: str, text: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call0000{number}", "name": name, "content": text}


def text(part: str) -> dict[str, str]:
    return {"type": "text", "text": part}


@dataclass(frozen=True)
class Conversation:
    """Messages, what is on offer beside them, and the words that a right prompt has of them."""

    name: str
    messages: Messages
    words: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


def conversations(arguments: Any) -> list[Conversation]:
    """Arguments of calls are given as objects or as JSON texts."""
    city = arguments({"city": "Zürich", "days": 2, "tags": ["a", "b"]})
    called = assistant("", tool_calls=[call(1, "get_weather", city)])
    null = assistant(None, tool_calls=[call(1, "get_weather", city)])
    two = assistant("Let me see.", tool_calls=[call(1, "get_weather", city), call(2, "clock", arguments({}))])
    tools = {"tools": [WEATHER, CLOCK]}
    turns = [user("Hello plum"), assistant("Hi fig"), user("And <b>lime</b>?\n  é中😀 ")]
    thought = assistant("Hi fig", reasoning_content="I think of melon.")
    answered = [called, answer(1, "get_weather", '{"temp": 21}')]
    return [
        Conversation("plain", turns[:1], ("plum",)),
        Conversation("system", [system(" Be a pear. "), *turns[:1]], ("pear", "plum")),
        Conversation("turns", turns, ("plum", "fig", "lime")),
        Conversation("system turns", [system("Be a pear."), *turns], ("pear", "plum", "fig", "lime")),
        Conversation("tools", turns[:1], ("plum",), tools),
        Conversation("system tools", [system("Be a pear."), *turns], ("pear", "plum", "fig", "lime"), tools),
        Conversation("call", [*turns[:1], called], ("plum", "Zürich"), tools),
        Conversation("answer", [*turns[:1], *answered], ("plum", "Zürich", "21"), tools),
        Conversation("null", [*turns[:1], null, answered[1]], ("plum", "Zürich", "21"), tools),
        Conversation(
            "two calls",
            [system("Be a pear."), *turns[:1], two, answered[1], answer(2, "clock", "noon"), assistant("21 at noon")],
            ("pear", "Zürich", "clock", "21", "noon"),
            tools,
        ),
        Conversation("call, no tools", [*turns[:1], *answered, *turns[1:]], ("plum", "Zürich", "21", "fig", "lime")),
        Conversation("stray answer", [*turns[:1], answered[1]], ("plum", "21")),
        Conversation("thought", [*turns[:1], thought, *turns[2:]], ("plum", "fig", "lime")),
        Conversation("thought last", [*turns[:1], thought], ("plum", "fig")),
        Conversation(
            "think tags", [*turns[:1], assistant("<think>\nhm\n</think>\n\nHi fig"), turns[2]], ("plum", "fig")
        ),
        Conversation("parts", [user([text("Hello"), text("plum")])], ("plum",)),
        Conversation("system parts", [system([text("Be a pear.")]), user([text("plum")])], ("pear", "plum")),
        Conversation("no thinking", turns, ("plum", "fig", "lime"), {"enable_thinking": False}),
        Conversation("thinking", turns, ("plum", "fig", "lime"), {"enable_thinking": True, "reasoning_effort": "high"}),
        Conversation("developer", [{"role": "developer", "content": "Be a pear."}, *turns[:1]], ("pear", "plum")),
        Conversation("documents", turns[:1], ("plum",), {"documents": [{"title": "T", "text": "D"}]}),
        Conversation("assistant last", turns[:2], ("plum", "fig")),
        Conversation("assistant first", turns[1:], ("fig", "lime")),
        Conversation("two users", [turns[0], turns[2]], ("plum", "lime")),
        Conversation("empty", [user("")], ()),
    ]


class Theirs(PreTrainedTokenizerBase):
    """A tokenizer of transformers that has a template and special tokens, and no vocabulary."""

    def __init__(self, template: Any) -> None:
        super().__init__(chat_template=template, **TOKENS)


@dataclass
class Result:
    """Texts that are the same and are not, of messages as given and adapted; those that transformers refuses, and
    what ours makes of them; `better`: ours has all words where transformers' has not."""

    same: int = 0
    refused: int = 0
    rendered: int = 0  # of the refused, by ours when it may adapt them
    adapted: int = 0
    better: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # of ours, where transformers has no text either


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks what the command line names; 0 where all agree."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("-v", action="store_true", help="show both texts of what differs")
    args = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    print(f"{'as given':>9}{'refused':>9}{'rendered':>10}{'adapted':>9}{'better':>8}{'s':>6}  template")
    total, wrong, count, seen = Result(), 0, 0, set()
    renderer = Renderer()
    for name, template in templates(args.paths):
        if json.dumps(template) in seen:
            continue
        seen.add(json.dumps(template))
        found = check(template, renderer)
        count += 1
        wrong += bool(found.wrong)
        line = (
            f"{found.same:9}{found.refused:9}{found.rendered:10}{found.adapted:9}{found.better:8}{found.seconds:6.1f}"
        )
        print(f"{line}  {name}", flush=True)
        for problem in found.wrong if args.v else found.wrong[:3]:
            print(f"      {problem}" if args.v else f"      {problem[:200]}")
        for error in dict.fromkeys(found.errors) if args.v else ():
            print(f"      refused, {error}")
        for key in ("same", "refused", "rendered", "adapted", "better"):
            setattr(total, key, getattr(total, key) + getattr(found, key))
    print(
        f"{count - wrong} of {count} templates agree: {total.same} texts of messages as given, {total.adapted} of "
        f"adapted ones, {total.better} where transformers' loses something; of {total.refused} that transformers "
        f"refuses ours renders {total.rendered}"
    )
    return int(wrong > 0)


def templates(paths: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    """Names and templates: a text, or texts by name."""
    for path in paths:
        if path.is_dir():
            yield from templates(sorted(p for p in path.rglob("*") if p.suffix in (".jinja", ".gguf", ".json")))
        elif path.suffix == ".jinja":
            yield f"{path.parent.name}/{path.name}", path.read_text(encoding="utf-8")
        elif path.suffix == ".gguf":
            with ggufpy.open(path) as file:
                found = file.metadata.get("tokenizer.chat_template")
            if isinstance(found, str):
                yield path.name, found
        elif path.name == "tokenizer_config.json":
            found = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
            if isinstance(found, list):
                found = {one["name"]: one["template"] for one in found}
            if found:
                yield str(path.parent), found


def check(template: Any, renderer: Renderer) -> Result:
    """What one template gives."""
    result = Result()
    named = template if isinstance(template, dict) else {"default": template}
    ours = {name: ChatTemplate(source, "<s>", "</s>", name, renderer, TOKENS) for name, source in named.items()}
    begun = time.monotonic()
    for name, source in named.items():
        for conversation in conversations(lambda value: value):
            for how in ({"add_generation_prompt": True}, {"add_generation_prompt": False}, {"continue_final": True}):
                _as_given(source, ours[name], conversation, how, result)
    default = ours.get("default", next(iter(ours.values())))
    default.with_tools = ours.get("tool_use")
    theirs = Theirs(template)
    for conversation in conversations(json.dumps):
        _adapted(theirs, default, conversation, result)
    result.seconds = time.monotonic() - begun
    return result


def _as_given(source: str, ours: ChatTemplate, asked: Conversation, how: Mapping[str, bool], result: Result) -> None:
    continued = how.get("continue_final", False)
    if continued and not asked.messages[-1].get("content"):
        return
    options = {"add_generation_prompt": how.get("add_generation_prompt", False), "continue_final_message": continued}
    messages, extra = copy.deepcopy(asked.messages), dict(asked.extra)
    tools = extra.pop("tools", None)
    documents = extra.pop("documents", None)
    try:
        right = render_jinja_template([messages], tools, documents, source, **options, **TOKENS, **extra)[0][0]
    except Exception:  # whatever templates raise
        result.refused += 1
        try:
            ours.render(asked.messages, **how, **asked.extra)
            result.rendered += 1
        except GGUFError as error:
            result.errors.append(f"{asked.name}: {error}")
            if "\n" in str(error):
                result.wrong.append(f"{asked.name}: an error of several lines: {error}")
        return
    try:
        text = ours.render_as_given(asked.messages, **how, **asked.extra)
    except GGUFError as error:
        text = f"error: {error}"
    if text == right:
        result.same += 1
    else:
        result.wrong.append(f"as given, {asked.name} {how}: {text!r} is not {right!r}")


def _adapted(theirs: Any, ours: ChatTemplate, asked: Conversation, result: Result) -> None:
    right = _theirs(theirs, asked.messages, asked.extra)
    if right is None:  # counted with those as given
        return
    try:
        text = ours.render(asked.messages, **asked.extra)
    except GGUFError as error:
        text = f"error: {error}"
    worse = _faults(text, asked) - _faults(right, asked)
    if text == right or (worse == 0 and any(text == _theirs(theirs, form, asked.extra) for form in _forms(asked))):
        result.adapted += 1
    elif worse < 0:
        result.better += 1
    else:
        result.wrong.append(f"adapted, {asked.name}: {text!r} is not {right!r}")


def _theirs(theirs: Any, messages: Messages, extra: Mapping[str, Any]) -> str | None:
    """What transformers has for them, None where it refuses them."""
    try:
        made = theirs.apply_chat_template(copy.deepcopy(messages), tokenize=False, add_generation_prompt=True, **extra)
    except Exception:  # whatever templates raise
        return None
    return str(made)


def _forms(asked: Conversation) -> Iterator[Messages]:
    """The same messages in other forms: arguments as objects, no content beside calls, an instruction of the system,
    one text of the parts."""
    for empty, role, joined in itertools.product((False, True), ("developer", "system"), (False, True)):
        made = copy.deepcopy(asked.messages)
        for message in made:
            for one in message.get("tool_calls", ()):
                one["function"]["arguments"] = json.loads(one["function"]["arguments"])
            if message["content"] in (None, ""):
                message["content"] = "" if empty else None
            if message["role"] == "developer":
                message["role"] = role
            if joined and isinstance(message["content"], list):
                message["content"] = "\n".join(part["text"] for part in message["content"])
        yield made


def _faults(text: str, asked: Conversation) -> int:
    """Words of the messages that are not there, texts within texts of JSON, Python's way to write parts and None."""
    lost = sum(word not in text and json.dumps(word)[1:-1] not in text for word in asked.words)
    marks = ('\\"city', "'type': 'text'", "None<", "{'city'", '"type": "text", "text"')
    return lost + text.startswith("error: ") + sum(mark in text for mark in marks)


if __name__ == "__main__":
    sys.exit(main())
