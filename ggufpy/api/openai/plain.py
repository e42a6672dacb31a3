"""An answer that is not taken apart: all that a model writes is content, thoughts and their marks too."""

from __future__ import annotations

from ggufpy.chat.syntax import Content, Piece


class Plain:
    """See `asked.PieceReader`."""

    def push(self, text: str) -> list[Piece]:
        """The text as it came."""
        return [Content(text)] if text else []

    def finish(self) -> list[Piece]:
        """Nothing is held back."""
        return []
