"""Requests to render a template, as bytes, and their answers: what a process of templates does for the one that asks.

In: JSON of the template's source and its variables. Out: JSON of a text, or of why there is none. Both are UTF-8 with
single surrogates let through. Compiled templates are kept for the next request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ggufpy.chat.limits import MAX_SOURCE_HERE, MAX_WORK, MAX_WORK_HERE, TemplateFailure, TooMuch

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEPT = 8  # compiled templates
_SPACE = re.compile(r"\s+")


def packed(variables: Mapping[str, Any] | None) -> bytes:
    """Variables as JSON. Raises TemplateFailure for what is none."""
    try:
        return _bytes(variables)
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateFailure(f"what a template is given must be JSON values: {line(error)}") from error


def request(source: str, variables: bytes, blank: Sequence[str], seconds: float) -> bytes:
    """A template to render with packed variables, or only to compile where these are null.

    `blank` are variables for special tokens that the model lacks.
    """
    now = datetime.now().isoformat()
    rest = _bytes({"source": source, "blank": list(blank), "seconds": seconds, "now": now})
    return b'{"variables": ' + variables + b", " + rest[1:]


def text_of(answer: bytes) -> str:
    """The text of an answer. Raises TemplateFailure or TooMuch with the reason why there is none."""
    try:
        found = json.loads(answer.decode("utf-8", "surrogatepass"))
        text, failure, too_much = found["text"], found["failure"], found["too_much"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TemplateFailure("its process gave no answer that can be read") from error
    if isinstance(text, str):
        return text
    raise (TooMuch if too_much else TemplateFailure)(str(failure))


class Rendering:
    """Compiles templates and renders them, within limits. For one thread at a time.

    `killable`: whoever asks kills this process when it takes too long, so that all filters can be had.
    """

    def __init__(self, killable: bool) -> None:
        self._killable = killable
        self._compiled: dict[str, Any] = {}

    def answer(self, asked: bytes) -> bytes:
        """The answer to a request. Whatever a template raises is an answer too."""
        text: str | None = None
        failure, too_much = "", False
        try:
            text = self._text(json.loads(asked.decode("utf-8", "surrogatepass")))
        except TooMuch as error:
            failure, too_much = line(error), True
        except MemoryError:
            failure, too_much = "it needs more memory than any chat", True
        except Exception as error:  # templates raise whatever jinja2 and Python's operators raise
            failure = line(error)
        return _bytes({"text": text, "failure": failure, "too_much": too_much})

    def _text(self, asked: Mapping[str, Any]) -> str:
        from ggufpy.chat.meter import Meter, metered
        from ggufpy.chat.sandbox import blank_tokens

        template = self._template(asked["source"])
        if asked["variables"] is None:
            return ""
        variables = {**blank_tokens(asked["blank"]), **asked["variables"]}
        work = MAX_WORK if self._killable else MAX_WORK_HERE
        meter = Meter(work, asked["seconds"], datetime.fromisoformat(asked["now"]))
        return metered(lambda: template.generate(variables), meter)

    def _template(self, source: str) -> Any:
        from ggufpy.chat.sandbox import Sandbox

        if source not in self._compiled:
            if not self._killable and len(source) > MAX_SOURCE_HERE:
                raise TooMuch(f"{len(source):,} characters are too many for a process that must not be killed")
            compiled = Sandbox(self._killable).compile_metered(source)
            while len(self._compiled) >= _KEPT:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[source] = compiled
        return self._compiled[source]


def line(error: BaseException) -> str:
    """An exception as one line."""
    text = _SPACE.sub(" ", str(error)[:2000]).strip()[:300] or type(error).__name__
    number = getattr(error, "lineno", None)
    return f"{text} (line {number})" if isinstance(number, int) else text


def _bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    """What stands for a value that JSON does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is none")
