"""Work by the shape of step: made when a shape first comes, kept, and recorded where it may be."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

from .device import Device, Graph, Launch, Work
from .elsewhere import Errand
from .lowering import Piece
from .step import StepShape

RECORDED = 64  # exact rows of a step whose work is recorded, at most: more are a text that is read exactly
SHAPES = 8  # of work that is kept as it is, and whose arguments take some 100 KB
GRAPHS = 64  # shapes of which graphs are kept
PIECES = 1024  # graphs and errands that are kept, of all shapes
LAUNCHED = 64  # works that are launched while further ones are made


class Works:
    """What some ops become. `errand` is called for what is done elsewhere, in its turn."""

    def __init__(
        self,
        device: Device,
        make: Callable[[StepShape], Iterable[Piece]],
        errand: Callable[[Errand], None],
    ) -> None:
        self._device, self._make, self._errand = device, make, errand
        self._kept: OrderedDict[StepShape, list[Piece]] = OrderedDict()
        self._graphs: OrderedDict[StepShape, list[Graph | Errand]] = OrderedDict()

    def run(self, shape: StepShape) -> None:
        """Launches the work of a step."""
        if (graphs := self._graphs.get(shape)) is not None:
            self._graphs.move_to_end(shape)
            self._replay(graphs)
        elif (pieces := self._kept.get(shape)) is None:
            self._keep(shape, self._first(shape))
        elif _recordable(shape, pieces):
            del self._kept[shape]
            self._replay(self._record(shape, pieces))
        else:
            self._kept.move_to_end(shape)
            self._launch(pieces)

    def _first(self, shape: StepShape) -> list[Piece]:
        """Makes work and launches it meanwhile: what is launched takes longer than what is made."""
        made: list[Piece] = []
        launched = 0
        for piece in self._make(shape):
            made.append(piece)
            if isinstance(piece, Errand) or len(made) - launched == LAUNCHED:
                self._launch(made[launched:])
                launched = len(made)
        self._launch(made[launched:])
        return made

    def _launch(self, pieces: Iterable[Piece]) -> None:
        for stretch in stretches(pieces):
            if isinstance(stretch, Errand):
                self._errand(stretch)
            else:
                self._device.run(stretch)

    def _record(self, shape: StepShape, pieces: Iterable[Piece]) -> list[Graph | Errand]:
        """A graph for what is launched between two errands."""
        made = self._graphs[shape] = [
            stretch if isinstance(stretch, Errand) else self._device.record(stretch) for stretch in stretches(pieces)
        ]
        while len(self._graphs) > GRAPHS or (len(self._graphs) > 1 and sum(map(len, self._graphs.values())) > PIECES):
            self._graphs.popitem(last=False)
        return made

    def _replay(self, graphs: Iterable[Graph | Errand]) -> None:
        for graph in graphs:
            if isinstance(graph, Errand):
                self._errand(graph)
            else:
                graph.launch()

    def _keep(self, shape: StepShape, pieces: list[Piece]) -> None:
        self._kept[shape] = pieces
        if len(self._kept) > SHAPES:
            self._kept.popitem(last=False)


def stretches(pieces: Iterable[Piece]) -> Iterator[Sequence[Work] | Errand]:
    """What is launched between two errands, and these, in order."""
    since: list[Work] = []
    for piece in pieces:
        if not isinstance(piece, Errand):
            since.append(piece)
            continue
        if since:
            yield since
        yield piece
        since = []
    if since:
        yield since


def _recordable(shape: StepShape, pieces: Iterable[Piece]) -> bool:
    works = (piece for piece in pieces if not isinstance(piece, Errand))
    return not shape.many and shape.few <= RECORDED and all(isinstance(work, Launch) for work in works)
