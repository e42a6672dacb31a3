"""The picture of a `ggufpy bench` report: prompts by length, decoding by depth, sequences side by side.

In: the JSON report. Out: a file. Only matplotlib's figures are used, not pyplot, so nothing needs a screen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_INCHES, HEIGHT_INCHES, DPI = 4.6, 4.4, 144
ROOM = 1.3  # the axis above the highest point, for its label
INK, QUIET = "#1f4e79", "#5b6770"


@dataclass(frozen=True)
class Panel:
    """One of the three: the report's list, its field for the x axis, and what a point says besides its rate."""

    runs: str
    x: str
    title: str
    x_label: str
    y_label: str
    note: Callable[[dict[str, Any]], str]
    meaning: str


PANELS = (
    Panel(
        "pp_runs",
        "tokens",
        "Reading prompts",
        "prompt length (tokens)",
        "tokens / s",
        lambda run: f"{run['tflops'] / run['peak_tflops']:.0%}",
        "% of the machine's matrix arithmetic",
    ),
    Panel(
        "tg_runs",
        "depth",
        "Decoding, one sequence",
        "depth: tokens in the context before",
        "tokens / s",
        lambda run: f"{run['gb_per_s'] / run['machine_gb_per_s']:.0%}",
        "weights read, % of the machine's memory rate",
    ),
    Panel(
        "parallel",
        "sequences",
        "Decoding, several sequences",
        "sequences decoding together",
        "tokens / s, all sequences",
        lambda run: f"{run['ratio']:.2f} x",
        "times one sequence",
    ),
)


def require() -> None:
    """Raises GGUFError unless matplotlib is there."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise GGUFError("--plot needs matplotlib: pip install 'ggufpy[plot]'") from error


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws the panels that the report has figures for into `path`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [panel for panel in PANELS if report[panel.runs]]
    figure = Figure(
        figsize=(PANEL_INCHES * max(len(panels), 2), HEIGHT_INCHES), layout=ConstrainedLayoutEngine(w_pad=0.15)
    )
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axes, panel, report[panel.runs])
    figure.suptitle(title(report), fontsize=12, fontweight="bold")
    figure.savefig(path, dpi=DPI)


def title(report: dict[str, Any]) -> str:
    """What was measured, on what."""
    threads = f"{report['threads']} thread" + "s" * (report["threads"] != 1)
    return f"{Path(report['model']).name}  |  {report['type']}  |  {report['isa']}, {threads}"


def _panel(axes: Axes, panel: Panel, runs: Sequence[dict[str, Any]]) -> None:
    """Medians with a line, least to most as bars, and each point's rate and note above it."""
    runs = sorted(runs, key=lambda run: run[panel.x])
    xs = [run[panel.x] for run in runs]
    ys = [run["tps_median"] for run in runs]
    ends = [[y - run["tps_min"] for y, run in zip(ys, runs, strict=True)]]
    ends.append([run["tps_max"] - y for y, run in zip(ys, runs, strict=True)])
    axes.errorbar(xs, ys, yerr=ends, color=INK, marker="o", markersize=5, linewidth=1.8, capsize=3)
    for x, y, run in zip(xs, ys, runs, strict=True):
        rate = f"{y:,.0f}" if y >= 100 else f"{y:.1f}"
        axes.annotate(
            f"{rate}\n{panel.note(run)}",
            (x, run["tps_max"]),
            (0, 6),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6},  # a steep line stays legible
        )
    _scale(axes, xs)
    axes.set_ylim(0, max(run["tps_max"] for run in runs) * ROOM)
    axes.set_title(f"{panel.title}\n", fontsize=11)
    axes.text(0.5, 1.02, panel.meaning, transform=axes.transAxes, ha="center", fontsize=8, color=QUIET)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(axis="y", color="#d9dee3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axes: Axes, xs: Sequence[int]) -> None:
    """An x axis with a tick at every point: doublings are equally far apart, and 0 has a place."""
    positive = [x for x in xs if x]
    if len(positive) == len(xs) and len(set(xs)) > 1:
        axes.set_xscale("log", base=2)
    elif len(set(positive)) > 1:
        axes.set_xscale("symlog", base=2, linthresh=min(positive))
    axes.set_xticks(xs, [f"{x:,}" for x in xs])
    axes.minorticks_off()
    axes.margins(x=0.12)
