"""Which names stand for the same columns, as the ops of a plan go by (`View`)."""

from __future__ import annotations

from ggufpy.errors import GGUFError

from .op import Op
from .ops import View


def check_blocks(op: View, width: int, block: int) -> None:
    """Kernels take whole blocks of so many columns and let padding be zeros, so a view of a buffer of that width must
    be whole blocks of it, or end where it ends. Raises GGUFError for others, ValueError for columns it does not have.
    """
    end = op.at + op.width
    if op.at < 0 or op.width < 1 or end > width:
        raise ValueError(f"{op}: {op.x} has {width} columns")
    if op.at % block or (end % block and end != width):
        raise GGUFError(
            f"the model takes columns {op.at} to {end} of {op.x} ({width}) apart: ggufpy runs that for multiples "
            f"of {block} only"
        )


class Views:
    """What views there are behind the ops that `follow` has seen, in order."""

    def __init__(self) -> None:
        self._columns: dict[str, tuple[str, int, int]] = {}  # by view: the buffer, and where it begins and ends there

    def follow(self, op: Op) -> None:
        """Takes the next op. One that writes a name without reading it makes it a buffer of its own."""
        if not self._columns and not isinstance(op, View):
            return
        place = self.place(op.x) if isinstance(op, View) else None
        for name in op.writes:
            if name not in op.reads:
                self._columns.pop(name, None)
        if isinstance(op, View) and place is not None:
            for view in [view for view, (buffer, _, _) in self._columns.items() if buffer == op.y]:
                del self._columns[view]  # what they show is no longer to be named
            self._columns[op.y] = (place[0], place[1] + op.at, place[1] + op.at + op.width)

    def place(self, name: str) -> tuple[str, int]:
        """The buffer that a name is in, and from which of its columns on."""
        buffer, at, _ = self._columns.get(name, (name, 0, 0))
        return buffer, at

    def sharing(self, name: str) -> set[str]:
        """Every name that has a column in common with this one, itself included."""
        if not self._columns:
            return {name}
        buffer, at, end = self._columns.get(name, (name, 0, 0))
        whole = name not in self._columns
        views = {v for v, (other, a, b) in self._columns.items() if other == buffer and (whole or (a < end and at < b))}
        return views | {name, buffer}
