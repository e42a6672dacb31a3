"""Messages of blocks, brought into OpenAI's shape, and what is wrong with a history of tools.

In: `messages` and `system` of a body. Out: a `Conversation`. A turn's rules are Anthropic's: turns of one role that
follow one another are one; each `tool_use` has its `tool_result` in the user's turn behind it, and no other has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Any

from ggufpy.api.anthropic.blocks import TEXTS, Block, block_text, check_uncited, opened, texts_of
from ggufpy.api.anthropic.fields import Record, check_fields, choice, items, kind, mapping, switch, text, wrong
from ggufpy.support.records import dataclass

MOST_MESSAGES = 100_000  # Anthropic's bound
ATTRIBUTION = "x-anthropic-billing-header:"  # what Claude Code puts before its system prompt, other with each request
PLAIN = frozenset({"text", "search_result", "document"})
BLOCKS = {
    "user": PLAIN | {"tool_result"},
    "assistant": frozenset({"text", "thinking", "redacted_thinking", "tool_use"}),
    "system": frozenset({"text"}),
}
RESULTS = PLAIN | {"tool_reference"}
CALL_FIELDS = ("cache_control", "caller", "toolset_name")


@dataclass(frozen=True)
class Call:
    """A `tool_use`, and where it stands."""

    id: str
    name: str
    input: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class Result:
    """A `tool_result`: what the tool gave, and where it stands."""

    id: str
    said: str
    place: str


@dataclass(frozen=True)
class Turn:
    """One or more messages of a role in a row."""

    role: str
    place: str  # of the last message
    texts: tuple[str, ...] = ()
    thoughts: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    results: tuple[Result, ...] = ()
    references: tuple[str, ...] = ()  # tools that results name


def _joined(role: str, place: str, turns: Sequence[Turn]) -> Turn:
    """Turns of one role, one behind the other, as one."""
    return Turn(
        role,
        place,
        tuple(chain.from_iterable(turn.texts for turn in turns)),
        tuple(chain.from_iterable(turn.thoughts for turn in turns)),
        tuple(chain.from_iterable(turn.calls for turn in turns)),
        tuple(chain.from_iterable(turn.results for turn in turns)),
        tuple(chain.from_iterable(turn.references for turn in turns)),
    )


@dataclass(frozen=True)
class Conversation:
    """messages: in OpenAI's shape. continues: the last one is the assistant's, and the answer goes on from it.
    references: tools that results have named, which may be called from then on."""

    messages: list[Record]
    continues: bool
    references: frozenset[str]


def conversation(messages: object, system: object, strict: bool = False) -> Conversation:
    """What a body's messages say; `strict` as `Version` has it. Raises GGUFError with the place of what is wrong."""
    given = items("messages", messages, MOST_MESSAGES)
    if not given:
        raise wrong("messages", "it is empty: at least one message is wanted")
    last = len(given) - 1
    each = [_turn(f"messages.{i}", message, i == last, strict) for i, message in enumerate(given)]
    groups = [(role, list(some)) for role, some in groupby(filter(None, each), key=lambda turn: turn.role)]
    turns = [_joined(role, some[-1].place, some) for role, some in groups]
    names = _check_history(turns)
    head = _system(system)
    made = [{"role": "system", "content": _content(head)}] if head else []
    for turn in turns:
        made += _messages(turn, names)
    references = frozenset(name for turn in turns for name in turn.references)
    return Conversation(made, _continues(turns), references)


def _system(given: object) -> list[str]:
    """A system prompt's texts, without the line by which Claude Code counts: it changes with every request, so that
    nothing behind it could be kept."""
    if given is None:
        return []
    return [said for said in texts_of("system", given, frozenset({"text"})) if not said.startswith(ATTRIBUTION)]


def _continues(turns: Sequence[Turn]) -> bool:
    """Whether the answer goes on from the last turn. Raises GGUFError for one that it cannot go on from."""
    last = turns[-1]
    if last.role != "assistant":
        return False
    if not last.texts:
        raise wrong(last.place, "the last message is the assistant's and has no text that the answer could go on from")
    if last.texts[-1] != last.texts[-1].rstrip():
        raise wrong(last.place, "the last message is the assistant's, and its text must not end with white space")
    return True


# -- from a message to a turn --


def _turn(place: str, given: object, last: bool, strict: bool) -> Turn | None:
    """A message's turn; None for a last one of the assistant's that is empty, which says nothing."""
    message = mapping(place, given)
    check_fields(place, message, ("role", "content"), ())
    role = choice(f"{place}.role", message["role"], BLOCKS)
    content = message["content"]
    if not isinstance(content, str | list):
        raise wrong(f"{place}.content", f"it is {kind(content)}, and must be a text or a list of blocks")
    if content in ("", []):
        if role == "assistant" and last and place != "messages.0":
            return None
        raise wrong(f"{place}.content", "it is empty; only the assistant's last message may be")
    if isinstance(content, str):
        return Turn(role, place, texts=(content,))
    blocks = [_block_turn(f"{place}.content.{i}", block, Turn(role, place), strict) for i, block in enumerate(content)]
    return _joined(role, place, blocks)


def _block_turn(where: str, given: object, empty: Turn, strict: bool) -> Turn:
    """A turn of one block."""
    known = BLOCKS[empty.role]
    block, name = opened(where, given, known if strict or empty.role != "assistant" else known | {"document"})
    if name in TEXTS:
        if strict and empty.role == "user":
            check_uncited(where, block)
        return replace(empty, texts=(block_text(where, block, name),))
    if name == "thinking":
        return replace(empty, thoughts=_thoughts(where, block))
    if name == "redacted_thinking":
        check_fields(where, block, ("type", "data"), ("cache_control",))
        text(f"{where}.data", block["data"])
        return empty
    if name == "tool_use":
        return replace(empty, calls=(_call(where, block),))
    result, references = _result(where, block)
    return replace(empty, results=(result,), references=references)


def _thoughts(where: str, block: Block) -> tuple[str, ...]:
    """A thought; one that was not shown is empty, and says nothing. The signature is not looked at: whoever has the
    conversation may change it, here as elsewhere."""
    check_fields(where, block, ("type", "thinking"), ("signature", "cache_control"))
    if block.get("signature") is not None:
        text(f"{where}.signature", block["signature"])
    thought = text(f"{where}.thinking", block["thinking"])
    return (thought,) if thought else ()


def _call(where: str, block: Block) -> Call:
    check_fields(where, block, ("type", "id", "name", "input"), CALL_FIELDS)
    if block.get("caller") is not None:
        choice(f"{where}.caller.type", mapping(f"{where}.caller", block["caller"]).get("type"), ("direct",))
    if block.get("toolset_name") is not None:
        raise wrong(f"{where}.toolset_name", "there are no toolsets here")
    name = text(f"{where}.name", block["name"], may_be_empty=False)
    return Call(
        text(f"{where}.id", block["id"], may_be_empty=False), name, mapping(f"{where}.input", block["input"]), where
    )


def _result(where: str, block: Block) -> tuple[Result, tuple[str, ...]]:
    check_fields(where, block, ("type", "tool_use_id"), ("content", "is_error", "cache_control", "toolset_name"))
    if block.get("toolset_name") is not None:
        raise wrong(f"{where}.toolset_name", "there are no toolsets here")
    content = block.get("content")
    said = "\n".join([] if content is None else texts_of(f"{where}.content", content, RESULTS))
    if switch(f"{where}.is_error", block.get("is_error")) and not said.lower().startswith("error"):
        said = f"Error: {said}" if said else "Error"
    blocks = content if isinstance(content, list) else []
    references = tuple(one["tool_name"] for one in blocks if one["type"] == "tool_reference")
    return Result(text(f"{where}.tool_use_id", block["tool_use_id"], may_be_empty=False), said, where), references


# -- from turns to messages --


def _check_history(turns: Sequence[Turn]) -> dict[str, str]:
    """The names of the tools that were called, by id. Raises GGUFError for calls and results that do not match."""
    names: dict[str, str] = {}
    waiting: dict[str, Call] = {}
    for turn in turns:
        if turn.role == "system":
            continue
        for result in turn.results:
            if result.id not in waiting:
                told = "has a result already" if result.id in names else "is that of no tool_use"
                behind = "each tool_result answers one tool_use of the assistant's message before it"
                raise wrong(f"{result.place}.tool_use_id", f"{result.id[:80]!r} {told}; {behind}")
            del waiting[result.id]
        _check_answered(waiting)
        for call in turn.calls:
            if call.id in names:
                raise wrong(f"{call.place}.id", f"{call.id[:80]!r} is that of another tool_use: ids must differ")
            names[call.id] = call.name
            waiting[call.id] = call
    _check_answered(waiting)
    return names


def _check_answered(waiting: Mapping[str, Call]) -> None:
    if waiting:
        call = next(iter(waiting.values()))
        told = "tool_use without a tool_result in the message behind it: each must have one there"
        raise wrong(call.place, f"{call.id[:80]!r} is a {told}")


def _messages(turn: Turn, names: Mapping[str, str]) -> list[Record]:
    """A turn in OpenAI's shape: what tools gave in messages of their own, ahead of what the user says."""
    if turn.role == "assistant":
        message: Record = {"role": "assistant", "content": _content(turn.texts)}
        if turn.thoughts:
            message["reasoning_content"] = "\n".join(turn.thoughts)
        if turn.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.input)}}
                for call in turn.calls
            ]
        return [message]
    made: list[Record] = [
        {"role": "tool", "tool_call_id": result.id, "name": names[result.id], "content": result.said}
        for result in turn.results
    ]
    return [*made, {"role": turn.role, "content": _content(turn.texts)}] if turn.texts else made


def _content(texts: Sequence[str]) -> str | list[Record]:
    """One text as it is, several as parts."""
    if len(texts) < 2:
        return texts[0] if texts else ""
    return [{"type": "text", "text": said} for said in texts]
