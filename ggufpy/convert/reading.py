"""Files of a checkpoint that are read whole, text and JSON, within a limit of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ggufpy.errors import GGUFError

LIMIT = 100_000_000  # bytes of any of these files


def read_bytes(path: Path) -> bytes | None:
    """A file, or None if there is none. Raises GGUFError if it is larger than LIMIT, or cannot be read."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise GGUFError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > LIMIT:
        raise GGUFError(f"{path} is larger than {LIMIT:,} bytes, the most that a file of its kind may have")
    return data


def read_text(path: Path) -> str | None:
    """As `read_bytes`, as text. Raises GGUFError if it is not UTF-8."""
    data = read_bytes(path)
    try:
        return None if data is None else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GGUFError(f"{path} is not UTF-8 text (byte {error.start}); download it again") from error


def read_json(path: Path) -> Any:
    """What a file of JSON has. Raises GGUFError for one that is missing, cannot be read or is none."""
    text = read_text(path)
    if text is None:
        raise GGUFError(f"{path} is missing: download the checkpoint again")
    return parsed(text, str(path))


def read_object(path: Path) -> dict[str, Any]:
    """As `read_json`, of a file that has an object."""
    return checked_object(read_json(path), str(path))


def parsed(text: str, name: str) -> Any:
    """What `text` is as JSON; `name` is what errors call it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise GGUFError(f"{name} is nested too deep; it is no file of a checkpoint") from error
    except ValueError as error:
        raise GGUFError(f"{name} is not valid JSON ({str(error)[:120]}); download it again") from error


def checked_object(value: Any, name: str) -> dict[str, Any]:
    """An object of JSON. Raises GGUFError for anything else."""
    if not isinstance(value, dict):
        raise GGUFError(f"{name} holds a {type(value).__name__}, and must hold a JSON object")
    return value
