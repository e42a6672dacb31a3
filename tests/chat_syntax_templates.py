"""Small chat templates in the style of each family (chat_templates), and a chat through them and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ggufpy.chat import ChatTemplate
from ggufpy.chat.syntax import Arguments, Call, Content, Piece, Syntax, Thought

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "count": {"type": "integer"},
        "flag": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city"],
}
NOTHING = {"type": "object", "properties": {}}


def tool(name: str, parameters: Any = PARAMETERS) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "does it", "parameters": parameters}}


TOOLS = [tool("get_weather"), tool("get_time"), tool("stop_all", NOTHING)]
USER = {"role": "user", "content": "What now?"}

FOLDER = Path(__file__).parent / "chat_templates"
TEMPLATES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
NAMES = {name: name.split("_")[0] for name in TEMPLATES} | {
    "qwen_tags": "hermes",
    "own_tags": "learned",
    "own_json": "learned",
    "own_keys": "learned",
}


def template(name: str) -> ChatTemplate:
    return ChatTemplate((FOLDER / f"{name}.jinja").read_text("utf-8"), "<s>", "</s>")


def call(name: str, arguments: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


def joined(pieces: list[Piece]) -> tuple[str, str, list[tuple[str, str]]]:
    """Content, thoughts, and name and arguments of each call. Checks the order of pieces and the numbers of calls."""
    content, thoughts = "", ""
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        assert isinstance(piece, Call) or piece.text, "a piece without text"
        if isinstance(piece, Content):
            content += piece.text
        elif isinstance(piece, Thought):
            thoughts += piece.text
        elif isinstance(piece, Call):
            assert piece.index == len(calls)
            calls.append((piece.name, ""))
        elif isinstance(piece, Arguments):
            assert piece.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + piece.text)
    return content, thoughts, calls


def parsed(syntax: Syntax, pieces: list[str], prompt: str = "", tools: Any = TOOLS) -> list[Piece]:
    parser = syntax.parser(prompt, tools)
    return [piece for text in pieces for piece in parser.push(text)] + parser.finish()


def values(calls: list[tuple[str, str]]) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for name, arguments in calls]


def written(made: ChatTemplate, message: dict[str, Any]) -> tuple[str, str]:
    """A prompt, and what the template writes behind it for an assistant's message, without the end of the turn."""
    plain = made.render([USER, {"role": "assistant", "content": "plainword"}], False, tools=TOOLS)
    end = plain.rpartition("plainword")[2]
    whole = made.render([USER, {"role": "assistant", **message}], False, tools=TOOLS).removesuffix(end)
    prompt = made.render([USER], True, tools=TOOLS)
    while not whole.startswith(prompt):  # what the prompt opens is not part of every message
        prompt = prompt[:-1]
    cut = max(prompt.rfind("<"), prompt.rfind("["))
    if cut > max(prompt.rfind(">"), prompt.rfind("]")):
        prompt = prompt[:cut]
    return prompt, whole[len(prompt) :]
