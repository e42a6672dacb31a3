"""The requests of a batch: a file with an object of JSON a line (https://platform.openai.com/docs/guides/batch).

The file is read as a stream, first to look at every line, then to answer them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.server.batch.calls import URLS
from ggufpy.support import checks
from ggufpy.support.records import dataclass

MOST_BYTES = 64 << 20  # of one line
MOST_ID = 512  # characters of a custom_id
TOLD = 3  # wrong lines that are told
FIELDS = ("custom_id", "method", "url", "body")
MARK = b"\xef\xbb\xbf"  # with which some editors begin a file of UTF-8


@dataclass(frozen=True)
class Line:
    """A request, and in which line it is."""

    number: int
    custom_id: str
    url: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Survey:
    """What a file asks for: digests of its ids, and the models that it names."""

    ids: frozenset[bytes]
    models: tuple[str, ...]


def digest(custom_id: str) -> bytes:
    """What is kept of an id: files may have millions."""
    return hashlib.blake2b(custom_id.encode(), digest_size=16).digest()


def read(path: Path) -> Iterator[Line]:
    """The requests of a file, each as it is come to. Raises GGUFError for a line that is none."""
    for number, raw in _raw(path):
        try:
            yield _line(number, raw)
        except GGUFError as error:
            raise GGUFError(f"{path}: line {number}: {error}") from None


def survey(path: Path) -> Survey:
    """Looks at all lines. Raises GGUFError that names the first that are wrong: nothing has been answered then."""
    lines: dict[bytes, int] = {}
    models: dict[str, None] = {}
    wrong: list[str] = []
    count = 0
    for number, raw in _raw(path):
        try:
            line = _line(number, raw)
            first = lines.setdefault(digest(line.custom_id), number)
            if first != number:
                raise GGUFError(f"custom_id {line.custom_id[:80]!r} is that of line {first}: answers are told by it")
            if len(models) < TOLD and isinstance(line.body.get("model"), str):
                models[line.body["model"]] = None
        except GGUFError as error:
            count += 1
            if count <= TOLD:
                wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"; and {count - TOLD:,} more" if count > TOLD else ""
        raise GGUFError(f"{path}: {'; '.join(wrong)}{more}. Nothing has been answered")
    if not lines:
        raise GGUFError(f"{path} has no requests: one object of JSON a line is wanted")
    return Survey(frozenset(lines), tuple(models))


def _raw(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MOST_BYTES + 1):
            number += 1
            if len(raw) > MOST_BYTES:
                raise GGUFError(f"{path}: line {number} has more than {MOST_BYTES >> 20} MB")
            raw = raw.removeprefix(MARK) if number == 1 else raw
            if raw.strip():
                yield number, raw


def _line(number: int, raw: bytes) -> Line:
    given = parsed(raw)
    for name in given:
        if name not in FIELDS:
            raise GGUFError(f"{name[:80]} is no field of a request; it has {', '.join(FIELDS)}")
    custom_id = checks.text("custom_id", given.get("custom_id"))
    if not custom_id or len(custom_id) > MOST_ID:
        raise GGUFError(f"custom_id has {len(custom_id)} characters; it must have 1 to {MOST_ID}")
    if given.get("method", "POST") != "POST":
        raise GGUFError(f'method is {checks.shown(given["method"])}; it must be "POST"')
    url = given.get("url")
    if not isinstance(url, str) or url not in URLS:
        raise GGUFError(f"url is {checks.shown(url)}; it must be one of {', '.join(URLS)}")
    return Line(number, custom_id, url, checks.mapping("body", given.get("body")))


def parsed(raw: bytes) -> dict[str, Any]:
    """A line as an object of JSON. Raises GGUFError for anything else."""
    try:
        value = json.loads(raw, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise GGUFError("it has a lone surrogate (\\ud800 to \\udfff), which is no text") from None
    except RecursionError:
        raise GGUFError("it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise GGUFError(f"it is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise GGUFError(f"it must be an object of JSON, not {type(value).__name__}")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
