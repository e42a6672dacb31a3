"""Tools that Anthropic has defined and a client runs: their names and schemas, which a model here must be told.

In: a tool's `type`. Out: its function in OpenAI's shape. What they take: platform.claude.com/docs, tool reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.support.records import dataclass

Schema = Mapping[str, Any]
WORDS = {"type": "string"}
COUNT = {"type": "integer"}
RANGE = {"type": "array", "items": COUNT, "minItems": 2, "maxItems": 2, "description": "first and last line, from 1"}
EDIT = {
    "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert"]},
    "path": {**WORDS, "description": "absolute path of a file or a folder"},
    "view_range": {**RANGE, "description": "for view: first and last line, from 1; -1 for the end"},
    "file_text": {**WORDS, "description": "for create: what the file has"},
    "old_str": {**WORDS, "description": "for str_replace: text that is in the file once"},
    "new_str": {**WORDS, "description": "for str_replace: what takes its place"},
    "insert_line": {**COUNT, "description": "for insert: the line behind which the text goes, 0 for the top"},
    "insert_text": {**WORDS, "description": "for insert: the text"},
}
UNDO = {**EDIT, "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert", "undo_edit"]}}
MEMORY = {
    **{name: field for name, field in EDIT.items() if name != "command"},
    "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert", "delete", "rename"]},
    "path": {**WORDS, "description": "a path below /memories"},
    "old_path": {**WORDS, "description": "for rename: the path before"},
    "new_path": {**WORDS, "description": "for rename: the path then"},
}
SHELL = {
    "command": {**WORDS, "description": "the command to run"},
    "restart": {"type": "boolean", "description": "true to start the shell anew"},
}


@dataclass(frozen=True)
class ClientTool:
    """A tool's name, what a model is told of it, and what it takes. `own`: fields of its definition beside those of
    all tools."""

    name: str
    told: str
    properties: Schema
    required: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    @property
    def function(self) -> dict[str, Any]:
        """OpenAI's shape."""
        schema = {"type": "object", "properties": dict(self.properties), "required": list(self.required)}
        return {"name": self.name, "description": self.told, "parameters": schema}


_BASH = ClientTool("bash", "Runs a command in a bash shell that stays open between calls.", SHELL)
_EDITOR = "Views, creates and edits text files."
_OLD_EDITOR = ClientTool("str_replace_editor", _EDITOR, UNDO, ("command", "path"))
_NEW_EDITOR = ClientTool("str_replace_based_edit_tool", _EDITOR, EDIT, ("command", "path"), ("max_characters",))
_MEMORY = ClientTool(
    "memory", "Keeps notes in files below /memories, which stay from talk to talk.", MEMORY, ("command",)
)
CLIENT_TOOLS: Mapping[str, ClientTool] = {
    "bash_20241022": _BASH,
    "bash_20250124": _BASH,
    "text_editor_20241022": _OLD_EDITOR,
    "text_editor_20250124": _OLD_EDITOR,
    "text_editor_20250429": _NEW_EDITOR,
    "text_editor_20250728": _NEW_EDITOR,
    "memory_20250818": _MEMORY,
}
