"""What a model has done so far, in numbers: what `/metrics` and `/props` show."""

from __future__ import annotations

from dataclasses import dataclass

from ggufpy.api.shape import Spent


@dataclass
class Tally:
    """Counts since the model was loaded. All of it is written on the event loop."""

    requests: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0  # evaluated
    cached_tokens: int = 0  # of prompts, read before
    tokens: int = 0
    wait_seconds: float = 0.0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0

    def done(self, spent: Spent) -> None:
        """A request has ended."""
        self.requests += 1
        self.prompt_tokens += spent.prompt - spent.cached
        self.cached_tokens += spent.cached
        self.tokens += spent.completion
        self.wait_seconds += spent.wait_seconds
        self.prompt_seconds += spent.prompt_seconds
        self.decode_seconds += spent.decode_seconds
