"""What a chat template may use, and the errors of one that fails. Imports nothing: every side of a pipe reads it."""

from __future__ import annotations

SECONDS = 1.25  # for compiling a template and one call of `ChatTemplate.render`, with all its probes, together
SECONDS_A_BYTE = 0.5 / (1 << 20)  # beside those, for each byte of a chat: one of megabytes takes longer
MARGIN = 0.15  # how much earlier a template is to stop by itself than its process is killed
START_SECONDS = 30.0  # for Python and jinja2 to start, which no template has a part in
MAX_SOURCE = 1 << 17  # characters of a template
MAX_SOURCE_HERE = 1 << 15  # where nothing can stop jinja2 at compiling it: that may take the square of it
MAX_OUTPUT = 1 << 25  # characters of a prompt
MAX_WORK = 1 << 30  # characters, items and iterations of one rendering
MAX_WORK_HERE = 1 << 28  # where nothing else holds its memory
MAX_VALUE = 1 << 24  # characters of one value
MAX_ITEMS = 1 << 19  # items of one value
MAX_BITS = 1 << 16  # of a whole number
MAX_MEMORY = 1 << 30  # bytes that the process of templates may have, where the system can hold it to that
TOO_SLOW = f"it takes longer than {SECONDS:g} seconds"


class TemplateFailure(Exception):
    """A template that does not compile, or does not render what it was given; the text is one line."""


class TooMuch(TemplateFailure):
    """A template that uses more than it may of time, memory or text."""


class Allowance:
    """Seconds that are left to a template, over several renderings."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def spend(self, seconds: float) -> None:
        """Count seconds that a rendering took."""
        self.left -= seconds

    def check(self) -> None:
        """Raise TooMuch when nothing is left."""
        if self.left <= 0:
            raise TooMuch(TOO_SLOW)
