"""Handlers of chats with images: their names are there so that programs import them, and making one says that it cannot
be."""

from __future__ import annotations

from typing import Any, NoReturn

from ggufpy.errors import GGUFError


class MTMDChatHandler:
    """Models are given text only here. Raises GGUFError when one is made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse(type(self).__name__)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises GGUFError."""
        _refuse(cls.__name__)


class Llava15ChatHandler(MTMDChatHandler):
    """See MTMDChatHandler."""


class Llava16ChatHandler(MTMDChatHandler):
    """See MTMDChatHandler."""


class ObsidianChatHandler(MTMDChatHandler):
    """See MTMDChatHandler."""


class MoondreamChatHandler(MTMDChatHandler):
    """See MTMDChatHandler."""


class NanoLlavaChatHandler(MTMDChatHandler):
    """See MTMDChatHandler."""


class Llama3VisionAlphaChatHandler(MTMDChatHandler):
    """See MTMDChatHandler."""


Llama3VisionAlpha = Llama3VisionAlphaChatHandler


class MiniCPMv26ChatHandler(MTMDChatHandler):
    """See MTMDChatHandler."""


class Qwen25VLChatHandler(MTMDChatHandler):
    """See MTMDChatHandler."""


class Gemma4ChatHandler(MTMDChatHandler):
    """See MTMDChatHandler."""


def _refuse(name: str) -> NoReturn:
    raise GGUFError(f"{name}: image input is not supported; Llama without chat_handler answers the text of a chat")
