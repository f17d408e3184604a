"""The picture of `penstock simulate`: hit rate over capacity, one panel for each trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from penstock.actors.cli.simulate import Row

COLUMNS_MAX = 3
PANEL_INCHES = (4.6, 3.4)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG to `path`. Raises OSError when it cannot be written."""
    traces = list(dict.fromkeys(row.trace for row in rows))
    columns = min(COLUMNS_MAX, len(traces))
    lines = math.ceil(len(traces) / columns)
    figure = Figure(
        figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * lines), layout="constrained"
    )
    FigureCanvasAgg(figure)  # no display, no global state
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for trace, axes in zip(traces, panels, strict=False):
        _draw_one(axes, trace, [row for row in rows if row.trace == trace])
    for axes in panels[len(traces) :]:
        axes.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, format="png", dpi=90)


def _draw_one(axes: Axes, trace: str, rows: Sequence[Row]) -> None:
    capacities = sorted({row.capacity for row in rows})
    optimum = {row.capacity: 100 * row.optimum for row in rows}
    heights = [optimum[capacity] for capacity in capacities]
    axes.plot(capacities, heights, color="#7f8c8d", linestyle="--", label="optimum (unreachable)")
    for policy in dict.fromkeys(row.policy for row in rows):
        rates = {row.capacity: 100 * row.hit_rate for row in rows if row.policy == policy}
        axes.plot(capacities, [rates[one] for one in capacities], marker=".", label=policy)
    axes.set_xscale("log")
    axes.set_title(trace)
    axes.set_xlabel("capacity, blocks")
    axes.set_ylabel("hit rate, %")
    axes.grid(visible=True, alpha=0.3)
