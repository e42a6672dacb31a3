"""The fields of a request's body: which there are, and one line for each that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ggufpy.api.openai.fields import CHAT, COMPLETION, EMBEDDING, RERANK
from ggufpy.api.openai.kinds import FieldError
from ggufpy.api.responses.fields import RESPONSE
from ggufpy.errors import GGUFError
from ggufpy.server.problems import BAD_REQUEST, Problem
from ggufpy.support import checks

NAMES = frozenset({*CHAT, *COMPLETION, *EMBEDDING, *RERANK, *RESPONSE})
TOO_LONG = "the context holds"  # of a prompt's error
EMPTY = "nothing to start from"
_NAME = re.compile(r"[a-z_]+(\[\d+\]|\.[-\w]+)*")


def check_names(body: Mapping[str, Any], known: Iterable[str], refused: Mapping[str, str] | None = None) -> None:
    """Raises GGUFError for a field that is not `known`, with the nearest that is, or one of `refused`, with its reason.

    A refused field that is null says nothing, and passes.
    """
    names = set(known)
    for name, value in body.items():
        if refused and name in refused:
            if value is not None:
                raise GGUFError(f"{name} cannot be honoured: {refused[name]}")
        elif name not in names:
            raise GGUFError(f"{name[:80]} is no field of this request{checks.meant(name, names)}")


@contextmanager
def refusing(about: str) -> Iterator[None]:
    """Within it an error of what a body asks for is a Problem 400 in OpenAI's terms: `param` is the field that its
    message begins with, or the one that a prompt which is too long is in, `about`."""
    try:
        yield
    except FieldError as error:
        raise Problem(BAD_REQUEST, str(error), error.code, error.param) from error
    except GGUFError as error:
        message = str(error)
        if TOO_LONG in message:
            raise Problem(BAD_REQUEST, message, "context_length_exceeded", about) from error
        if message.startswith(EMPTY):
            raise Problem(BAD_REQUEST, message, "invalid_value", about) from error
        word = message.split(" ", 1)[0].rstrip(":,")
        known = _NAME.fullmatch(word) is not None and word.split(".")[0].split("[")[0] in NAMES
        raise Problem(BAD_REQUEST, message, "invalid_value" if known else None, word if known else None) from error
