"""The picture of a `ggufpy compare-quants` report: size against KL divergence, and the speed of decoding.

In: the JSON report. Out: a file. Labels are put where they cover neither points nor one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

WIDTH_INCHES, HEIGHT_INCHES, ROW_INCHES, DPI = 12.0, 5.6, 0.3, 144
INK, SOURCE, QUIET, GRID = "#1f4e79", "#b3541e", "#5b6770", "#d9dee3"
LEAST_KLD = 1e-6  # what is at or below stands here: an axis of logarithms has no 0
POINT = 6.0  # pixels around a point that labels keep clear of
RADII = (9, 14, 20, 28, 38, 50)  # points from a label's point to its near edge


@dataclass(frozen=True)
class Spot:
    """A point: where it is, and what its label says."""

    x: float
    y: float
    label: str


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws both panels into `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height = max(HEIGHT_INCHES, 1.6 + ROW_INCHES * (1 + len(report["types"])))
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.08))
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    unit, scale = _unit(report)
    spots = _divergence(left, report, unit, scale)
    _decoding(right, report, unit, scale)
    for axes in (left, right):
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    head, below = title(report)
    figure.suptitle(f"{head}\n", fontsize=13, fontweight="bold")
    figure.text(0.5, 1 - 0.38 / height, below, ha="center", va="center", fontsize=9, color=QUIET)
    canvas.draw()  # settles where everything is; labels follow
    place_labels(left, spots)
    figure.set_layout_engine("none")
    figure.savefig(path, dpi=DPI)


def title(report: dict[str, Any]) -> tuple[str, str]:
    """What was measured; on what text and machine."""
    weighed = " with an importance matrix" if report["imatrix"] else ""
    threads = f"{report['threads']} thread" + "s" * (report["threads"] != 1)
    head = f"{Path(report['model']).name}: types to choose from{weighed}"
    text = f"{report['tokens']:,} tokens of {Path(report['text']).name}"
    return head, f"{text}   |   {report['cpu']}, {threads}, {report['isa']}"


def _unit(report: dict[str, Any]) -> tuple[str, float]:
    largest = max(one["bytes"] for one in (report["source"], *report["types"]))
    return ("GB", 1e9) if largest >= 2e9 else ("MB", 1e6)


def _divergence(axes: Axes, report: dict[str, Any], unit: str, scale: float) -> list[Spot]:
    """Mean KL divergence of every type; the source has none to show."""
    spots = [Spot(one["bytes"] / scale, max(one["kld_mean"], LEAST_KLD), one["type"]) for one in report["types"]]
    axes.scatter([s.x for s in spots], [s.y for s in spots], color=INK, s=30, zorder=3)
    axes.set_yscale("log")
    ys = [s.y for s in spots]
    axes.set_ylim(10 ** (math.log10(min(ys)) - 0.35), 10 ** (math.log10(max(ys)) + 0.35))
    _widen(axes, [s.x for s in spots])
    axes.set_title("What it costs in quality", fontsize=11)
    axes.set_xlabel(f"file size ({unit})")
    axes.set_ylabel(f"mean KL divergence from {report['source']['type']} (nats)")
    axes.grid(color=GRID, linewidth=0.7)
    return spots


def _decoding(axes: Axes, report: dict[str, Any], unit: str, scale: float) -> None:
    """Median tokens a second as bars, the largest file on top, least to most as whiskers."""
    models = sorted((report["source"], *report["types"]), key=lambda one: one["bytes"])
    places = range(len(models))
    medians = [one["tg_tps_median"] for one in models]
    ends = [[one["tg_tps_median"] - one["tg_tps_min"] for one in models]]
    ends.append([one["tg_tps_max"] - one["tg_tps_median"] for one in models])
    colours = [SOURCE if one is report["source"] else INK for one in models]
    axes.barh(places, medians, color=colours, height=0.62, xerr=ends, ecolor=QUIET, capsize=2.5, zorder=2)
    for i, one in enumerate(models):
        rate = f"{one['tg_tps_median']:,.0f}" if one["tg_tps_median"] >= 100 else f"{one['tg_tps_median']:.1f}"
        axes.annotate(
            rate, (one["tg_tps_max"], i), (5, 0), textcoords="offset points", va="center", fontsize=9, color=colours[i]
        )
    digits = 2 if unit == "GB" else 0
    axes.set_yticks(places, [f"{one['type']}  {one['bytes'] / scale:.{digits}f} {unit}" for one in models], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(one["tg_tps_max"] for one in models) * 1.14)
    axes.set_title("How fast it writes (median, least to most)", fontsize=11)
    axes.set_xlabel("tokens / s, one sequence")
    axes.grid(axis="x", color=GRID, linewidth=0.7)


def _widen(axes: Axes, xs: Sequence[float]) -> None:
    """Room at both sides for labels."""
    spread = max(max(xs) - min(xs), 0.2 * max(xs))
    axes.set_xlim(max(min(xs) - 0.18 * spread, 0), max(xs) + 0.22 * spread)


def _candidates(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Offsets of a label's lower left corner from its point, the nearest first, in points."""
    for radius in RADII:
        for turn in (0, 0.25, 0.5, 0.75, 0.125, 0.375, 0.625, 0.875, 0.0625, 0.4375, 0.5625, 0.9375):
            dx, dy = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
            yield dx * radius + (dx - 1) / 2 * width, dy * radius + (dy - 1) / 2 * height


def place_labels(axes: Axes, spots: Sequence[Spot]) -> list[Bbox]:
    """Writes every label at the nearest place where it covers nothing, with a line to its point if that is far.

    Returns their boxes in pixels. The figure must have been laid out.
    """
    from matplotlib.transforms import Bbox

    pixel = axes.figure.dpi / 72
    points = axes.transData.transform([(s.x, s.y) for s in spots])
    taken = [Bbox.from_bounds(x - POINT, y - POINT, 2 * POINT, 2 * POINT) for x, y in points]
    area = axes.get_window_extent()
    placed = []
    for spot, (x, y) in zip(spots, points, strict=True):
        note = axes.annotate(
            spot.label, (spot.x, spot.y), (0, 0), textcoords="offset points", va="bottom", fontsize=9, color=INK
        )
        own = note.get_window_extent()
        best: tuple[float, Bbox, tuple[float, float]] | None = None
        for dx, dy in _candidates(own.width / pixel, own.height / pixel):
            box = Bbox.from_bounds(x + dx * pixel, y + dy * pixel, own.width, own.height)
            covered = sum(_overlap(box, other) for other in taken)
            covered += own.width * own.height - _overlap(box, area)  # what is outside the axes
            if best is None or covered < best[0] - 1e-6:
                best = (covered, box, (dx, dy))
            if covered <= 1e-6:
                break
        assert best is not None
        _, box, offset = best
        note.set_position(offset)
        if math.hypot(*_gap(box, x, y)) > 16 * pixel:
            near = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
            ends = axes.transData.inverted().transform([(x, y), near])
            axes.plot(ends[:, 0], ends[:, 1], color=QUIET, linewidth=0.6, zorder=1, scalex=False, scaley=False)
        taken.append(box)
        placed.append(box)
    return placed


def _gap(box: Bbox, x: float, y: float) -> tuple[float, float]:
    """How far a point is from a box, each way."""
    return max(box.x0 - x, x - box.x1, 0.0), max(box.y0 - y, y - box.y1, 0.0)


def _overlap(a: Bbox, b: Bbox) -> float:
    """The area that two boxes share."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(width, 0.0) * max(height, 0.0))
