"""Blocks of content that are text for the model, wherever they stand: in messages, in system prompts, in what tools
gave. In: a block. Out: its text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy.api.anthropic.fields import (
    check_cache_control,
    check_fields,
    choice,
    items,
    mapping,
    switch,
    text,
    wrong,
)

SERVERS = "such blocks come from tools that Anthropic's servers run, and there are none here"
OF_SERVERS = (
    "server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result",
    "bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result",
    "advisor_tool_result", "mcp_tool_use", "mcp_tool_result", "mcp_tool_listing",
)  # fmt: skip
REFUSED = {
    "image": "models are given text only here: leave it out, or describe it",
    "container_upload": "there are no containers here",
    "browser_state": "models are given text only here: leave it out",
    "compaction": "conversations are not compacted here: send its text as a text block",
    "fallback": "there are no fallbacks here",
    "tool_addition": "send all tools in `tools`",
    "tool_removal": "send the tools that are left in `tools`",
    **dict.fromkeys(OF_SERVERS, SERVERS),
}
SHARED = ("cache_control",)
Block = Mapping[str, Any]


def opened(place: str, given: object, known: frozenset[str]) -> tuple[Block, str]:
    """A block and its type, one of `known`. Raises GGUFError for another."""
    block = mapping(place, given)
    if "type" not in block:
        raise wrong(f"{place}.type", "it is missing")
    name = text(f"{place}.type", block["type"])
    if name in REFUSED:
        raise wrong(place, f"{name} cannot be taken: {REFUSED[name]}")
    if name not in known:
        raise wrong(f"{place}.type", f"it is {name[:60]!r}, and must be one of {', '.join(sorted(known))} here")
    check_cache_control(f"{place}.cache_control", block.get("cache_control"))
    return block, name


def block_text(place: str, block: Block, name: str) -> str:
    """What a block of `TEXTS` says."""
    return TEXTS[name](place, block)


def texts_of(place: str, given: object, known: frozenset[str]) -> list[str]:
    """The texts of a content that is a text or blocks of `known`, which are all of `TEXTS`."""
    if isinstance(given, str):
        return [given] if given else []
    made = []
    for i, item in enumerate(items(place, given)):
        where = f"{place}.{i}"
        block, name = opened(where, item, known)
        made.append(block_text(where, block, name))
    return made


def check_uncited(place: str, block: Block) -> None:
    """Raises GGUFError for a text that cites, and for a search result that has such a text."""
    if block["type"] == "text" and block.get("citations"):
        raise wrong(f"{place}.citations", "what the user says cites nothing in this version: leave it out")
    content = block.get("content")
    if block["type"] == "search_result" and isinstance(content, list):
        for i, one in enumerate(content):
            if isinstance(one, dict) and one.get("citations"):
                raise wrong(f"{place}.content.{i}.citations", "a text here cites nothing in this version: leave it out")


def _text(place: str, block: Block) -> str:
    check_fields(place, block, ("type", "text"), (*SHARED, "citations"))
    if block.get("citations") is not None:
        items(f"{place}.citations", block["citations"])
    return text(f"{place}.text", block["text"], may_be_empty=False)


def _search_result(place: str, block: Block) -> str:
    """A title, where it was found, and what it says."""
    check_fields(place, block, ("type", "source", "title", "content"), (*SHARED, "citations"))
    _check_no_citations(place, block)
    head = [text(f"{place}.title", block["title"]), text(f"{place}.source", block["source"])]
    said = texts_of(f"{place}.content", items(f"{place}.content", block["content"]), frozenset({"text"}))
    return "\n".join([*head, "", *said])


def _document(place: str, block: Block) -> str:
    """A title, what it is, and its text. Sources that are no text are refused by name."""
    check_fields(place, block, ("type", "source"), (*SHARED, "citations", "context", "title"))
    _check_no_citations(place, block)
    head = [text(f"{place}.{name}", block[name]) for name in ("title", "context") if block.get(name) is not None]
    return "\n".join([*head, *([""] if head else []), *_source(f"{place}.source", block["source"])])


def _source(place: str, given: object) -> list[str]:
    source = mapping(place, given)
    name = choice(f"{place}.type", source.get("type"), ("text", "content", "base64", "url", "file"))
    if name == "text":
        check_fields(place, source, ("type", "data"), ("media_type",))
        if source.get("media_type") is not None:
            choice(f"{place}.media_type", source["media_type"], ("text/plain",))
        return [text(f"{place}.data", source["data"])]
    if name == "content":
        check_fields(place, source, ("type", "content"), ())
        return texts_of(f"{place}.content", source["content"], frozenset({"text", "image"}))
    raise wrong(place, f"documents of type {name} cannot be taken: send their text, as a source of type text")


def _check_no_citations(place: str, block: Block) -> None:
    given = block.get("citations")
    if given is None:
        return
    config = mapping(f"{place}.citations", given)
    check_fields(f"{place}.citations", config, (), ("enabled",))
    if switch(f"{place}.citations.enabled", config.get("enabled")):
        raise wrong(f"{place}.citations.enabled", "models here do not cite: leave it out")


def _tool_reference(place: str, block: Block) -> str:
    check_fields(place, block, ("type", "tool_name"), SHARED)
    return f"The tool {text(f'{place}.tool_name', block['tool_name'], may_be_empty=False)} can be called now."


TEXTS: dict[str, Callable[[str, Block], str]] = {
    "text": _text, "search_result": _search_result, "document": _document, "tool_reference": _tool_reference,
}  # fmt: skip
