"""Thoughts: whether a model is asked for them, and how they are signed.

In: `thinking` and `output_config.effort` of a body. Out: variables of the chat template, and what the client is told.
A template without such a switch ignores the variables.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from ggufpy.api.anthropic.fields import Record, check_fields, choice, mapping, whole, wrong
from ggufpy.support.records import dataclass

LEAST_BUDGET = 1024  # Anthropic's bound
KINDS = ("enabled", "disabled", "adaptive", "between_tools")
DISPLAYS = ("summarized", "omitted", "updates")
EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}  # as templates know them


@dataclass(frozen=True)
class Thinking:
    """asked: thoughts are wanted; without it they are left out of the answer. shown: with their text."""

    asked: bool = False
    shown: bool = True

    @property
    def variables(self) -> Record:
        """Under the names that templates have for it (Qwen's, DeepSeek's and Granite's)."""
        return {"enable_thinking": self.asked, "thinking": self.asked}


def thinking(given: object, max_tokens: int | None) -> Thinking:
    """What `thinking` asks for. The budget is checked and is no bound: models here think as long as they do, within
    `max_tokens`."""
    if given is None:
        return Thinking()
    config = mapping("thinking", given)
    name = choice("thinking.type", config.get("type"), KINDS)
    if name in ("disabled", "between_tools"):
        check_fields("thinking", config, ("type",), ())
        return Thinking(name == "between_tools")
    budget = ("budget_tokens",) if name == "enabled" else ()
    check_fields("thinking", config, ("type", *budget), ("display", "block_binding"))
    if budget:
        count = whole("thinking.budget_tokens", config["budget_tokens"], LEAST_BUDGET)
        if max_tokens is not None and count >= max_tokens:
            raise wrong("thinking.budget_tokens", f"it is {count}, and must be below max_tokens, which is {max_tokens}")
    if config.get("block_binding") is not None:
        mapping("thinking.block_binding", config["block_binding"])
    display = config.get("display")
    if display is not None:
        choice("thinking.display", display, DISPLAYS)
    return Thinking(True, display != "omitted")


def effort(given: Any) -> Record:
    """The variable of `output_config.effort`."""
    return {} if given is None else {"reasoning_effort": EFFORTS[choice("output_config.effort", given, EFFORTS)]}


def signature(thought: str) -> str:
    """What stands behind a thought: clients keep it and send it back. It is a digest, and proves nothing."""
    return base64.b64encode(hashlib.sha256(thought.encode("utf-8", "surrogatepass")).digest()).decode()
