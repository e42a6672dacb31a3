"""Conversations in files: JSON with OpenAI's `messages`, and the settings that differ from the defaults.

In: a conversation with its settings, or the path of a file, which is not trusted. Out: the file, or a conversation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggufpy.commands._chat.conversation import Conversation
from ggufpy.commands._chat.settings import Settings
from ggufpy.errors import GGUFError

MOST_BYTES = 1 << 26
_ROLES = ("system", "developer", "user", "assistant", "tool")


def save(path: str, conversation: Conversation, settings: Settings, model: str) -> None:
    """Writes a file that is whole or not there. Raises GGUFError where it cannot be written."""
    from ggufpy.format.atomic import AtomicFile

    made = {
        "ggufpy_chat": 1,
        "model": os.fsencode(model).decode("utf-8", "replace"),
        "messages": conversation.whole,
        "settings": settings.values(),
    }
    try:
        raw = json.dumps(made, ensure_ascii=False, indent=1, allow_nan=False).encode("utf-8")
    except ValueError as error:  # a number of the chat template's variables that is too large for JSON
        raise GGUFError(f"cannot write {path}: {error}") from None
    with AtomicFile(_path(path)) as file:
        file.file.write(raw + b"\n")


def load(path: str, settings: Settings) -> tuple[Conversation, Settings]:
    """The conversation of a file, and `settings` with what it says of them. Raises GGUFError for one that is not right.

    A bare list of messages, as programs for OpenAI's interface have it, will do too.
    """
    value = _read(_path(path))
    if isinstance(value, list):
        value = {"messages": value}
    if not isinstance(value, Mapping) or "messages" not in value:
        raise GGUFError(f"{path}: no conversation: an object with 'messages', or a list of messages, is wanted")
    if value.get("ggufpy_chat", 1) != 1:
        raise GGUFError(f"{path}: it is of version {value['ggufpy_chat']!r}, and this ggufpy reads 1: update ggufpy")
    try:
        return _conversation(value["messages"]), _settings(value.get("settings"), settings)
    except GGUFError as error:
        raise GGUFError(f"{path}: {error}") from None


def _path(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise GGUFError(f"{path}: there is no such user's folder") from None


def _read(path: Path) -> Any:
    """The value of a JSON file, whose texts can all be written as UTF-8."""
    try:
        if path.exists() and not path.is_file():
            raise GGUFError(f"cannot read {path}: it is no file")
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise GGUFError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL inside the name; GGUFError is one too
        raise error if isinstance(error, GGUFError) else GGUFError(f"cannot read {str(path)!r}: {error}") from None
    if len(raw) > MOST_BYTES:
        raise GGUFError(f"{path}: more than {MOST_BYTES >> 20} MiB are too many for a conversation")
    try:
        value = json.loads(raw.decode("utf-8-sig"))
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair, as "\ud800", is no text
    except UnicodeDecodeError:
        raise GGUFError(f"{path}: it is not UTF-8 text") from None
    except UnicodeEncodeError:
        raise GGUFError(f"{path}: it has half a surrogate pair, which is no character") from None
    except (ValueError, RecursionError) as error:
        raise GGUFError(f"{path}: it is not JSON: {error}") from None
    return value


def _conversation(messages: Any) -> Conversation:
    from ggufpy.chat.messages import checked

    if messages == []:
        return Conversation()
    made = checked(messages)
    for i, message in enumerate(made):
        if message["role"] not in _ROLES:
            raise GGUFError(f"messages[{i}].role is {message['role'][:40]!r}; it can be {', '.join(_ROLES)}")
    system = made[0]["content"] if made[0]["role"] == "system" else None
    if isinstance(system, str):
        return Conversation(system, tuple(made[1:]))
    return Conversation(None, tuple(made))


def _settings(values: Any, settings: Settings) -> Settings:
    if values is None:
        return settings
    if not isinstance(values, Mapping):
        raise GGUFError('settings must be an object, as {"temp": 0.3}')
    return settings.with_values(values)
