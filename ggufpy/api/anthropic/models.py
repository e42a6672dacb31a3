"""The models in Anthropic's shapes: one, and a page of them.

In: names and when they were made. Out: what GET /v1/models and /v1/models/NAME answer to Anthropic's clients, which
send an `anthropic-version` header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from ggufpy.api.anthropic.fields import Record, named, wrong

DEFAULT_LIMIT, MOST = 20, 1000  # Anthropic's
QUERY = ("after_id", "before_id", "limit", "lifecycle", "workspace_id", "beta")


def model(name: str, created: float, n_ctx: int | None = None) -> Record:
    """One model; `created` is in seconds since 1970, `n_ctx` how many tokens it takes, where that is known."""
    time = datetime.fromtimestamp(created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": time,
        "lifecycle": "active",
        "max_input_tokens": n_ctx,
        "max_tokens": n_ctx,
    }


def page(models: Sequence[Record], query: Mapping[str, str]) -> Record:
    """A page of the models that `model` made; `query` has `limit` and `after_id` or `before_id`.

    Raises GGUFError for what is none of these and for an id that there is not.
    """
    for name in query:
        if name not in QUERY:
            raise wrong(named(name), "there is no such parameter here")
    limit = _limit(query.get("limit"))
    after, before = query.get("after_id"), query.get("before_id")
    if after and before:
        raise wrong("before_id", "give it or after_id, not both")
    ids = [one["id"] for one in models]
    first, last = 0, len(models)
    if after:
        first = _place(ids, "after_id", after) + 1
    elif before:
        last = _place(ids, "before_id", before)
        first = max(0, last - limit)
    shown = models[first : min(last, first + limit)]
    more = first > 0 if before else first + limit < len(models)
    ends = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return {"data": list(shown), "has_more": more, "first_id": ends[0], "last_id": ends[1]}


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_LIMIT
    if not (given.isascii() and given.isdecimal() and len(given) < 6 and 1 <= int(given) <= MOST):
        raise wrong("limit", f"it is {given[:40]!r}, and must be a whole number from 1 to {MOST}")
    return int(given)


def _place(ids: Sequence[str], name: str, wanted: str) -> int:
    if wanted not in ids:
        raise wrong(name, f"there is no model {wanted[:80]!r}")
    return ids.index(wanted)
