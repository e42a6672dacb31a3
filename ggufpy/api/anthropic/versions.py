"""The versions of Anthropic's interface, by the date that a client sends as `anthropic-version`, and what differs.

Source: platform.claude.com/docs/en/api/versioning. The client packages send 2026-10-21 from major version 2 on, and
2023-06-01 before. In 2023-01-01 a stream's events have no names and end with [DONE], and an answer says `truncated`
and `exception`; its texts were told from their beginning in each event, which what a `text_delta` has never was.
"""

from __future__ import annotations

from ggufpy.api.anthropic.fields import wrong
from ggufpy.support.records import dataclass


@dataclass(frozen=True)
class Version:
    """named: a stream's events have names. sampling: temperature, top_p and top_k may be sent. strict: documents are
    the user's only, and what the user says cites nothing."""

    date: str
    named: bool = True
    sampling: bool = True
    strict: bool = False


VERSIONS = {
    version.date: version
    for version in (
        Version("2023-01-01", named=False),
        Version("2023-06-01"),
        Version("2026-10-21", sampling=False, strict=True),
    )
}
USUAL = VERSIONS["2023-06-01"]


def version_of(date: str | None) -> Version:
    """A version by its date; without one that which takes most. Raises GGUFError for one that there is not."""
    if date is None:
        return USUAL
    found = VERSIONS.get(date.strip())
    if found is None:
        raise wrong("anthropic-version", f"it is {date[:40]!r}, and must be one of {', '.join(VERSIONS)}")
    return found
