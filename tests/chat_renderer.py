"""One process of templates for the tests of a file: starting one takes longer than most of them."""

from __future__ import annotations

from functools import cache
from typing import Any

from ggufpy.chat import ChatTemplate, Renderer


@cache
def renderer() -> Renderer:
    return Renderer()


def render(source: str, messages: Any, **extra: Any) -> str:
    return ChatTemplate(source, "<s>", "</s>", renderer=renderer()).render(messages, **extra)
