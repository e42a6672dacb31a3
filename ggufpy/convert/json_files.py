"""Files of JSON in a checkpoint's folder, read and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ggufpy.errors import GGUFError

JSON_MAX = 100_000_000  # bytes of a file


def read_json(path: Path) -> Any:
    """A file of JSON. Raises GGUFError for one that cannot be read, is larger than JSON_MAX or is none."""
    try:
        size = path.stat().st_size
        if size > JSON_MAX:
            raise GGUFError(f"{path} has {size:,} bytes, more than a file of its kind has")
        return json.loads(path.read_bytes().decode("utf-8"))
    except OSError as e:
        raise GGUFError(f"{path} cannot be read: {e.strerror or e}") from None
    except (ValueError, RecursionError):
        raise GGUFError(f"{path} is not valid JSON") from None


def read_object(path: Path) -> dict[str, Any]:
    """A file of JSON that has an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise GGUFError(f"{path} is not an object of JSON")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a value as transformers does: by lines, and with characters as they are."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
