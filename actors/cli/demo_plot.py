"""The demo's picture: every request's time to first token, and what a warm one consists of."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from penstock.actors.cli.demo_plan import Asked, Phase, of_phase
from penstock.actors.engine.reference_messages import Generation

_COLOURS = {
    Phase.COLD: "#c0392b",
    Phase.WARM: "#2471a3",
    Phase.DISK: "#d68910",
    Phase.CHECK: "#7f8c8d",
}
_LABELS = {
    Phase.COLD: "cold: all computed",
    Phase.WARM: "warm: KV from Penstock's memory",
    Phase.DISK: "warm: KV from disk, after a restart",
    Phase.CHECK: "the engine's own prefix cache",
}
_SHORT_LABELS = {Phase.WARM: "warm", Phase.DISK: "from disk", Phase.CHECK: "own cache"}


def draw(asked: Sequence[Asked], path: Path) -> None:
    """Write a PNG to `path`. Raises OSError when it cannot be written."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # no display, no global state
    every, parts = figure.subplots(1, 2, width_ratios=(3, 2))
    for phase in Phase:
        at = [index for index, one in enumerate(asked, start=1) if one.ask.phase is phase]
        heights = [one.ttft_s * 1e3 for one in of_phase(asked, phase)]
        every.scatter(at, heights, color=_COLOURS[phase], label=_LABELS[phase], zorder=3)
    every.set_yscale("log")
    every.yaxis.set_major_formatter("{x:,.0f}")
    every.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    every.yaxis.set_minor_formatter(NullFormatter())
    every.xaxis.set_major_locator(MaxNLocator(integer=True))
    every.set_xlabel("request, in order")
    every.set_ylabel("time to first token, ms")
    every.grid(visible=True, axis="y", alpha=0.3)
    every.legend()
    _draw_parts(parts, asked)
    figure.savefig(path, format="png", dpi=120)


def _draw_parts(axes: Axes, asked: Sequence[Asked]) -> None:
    """What the median time to first token consists of where KV is reused."""
    phases = (Phase.CHECK, Phase.WARM, Phase.DISK)
    parts = [_median_parts_ms(of_phase(asked, phase)) for phase in phases]
    start = [0.0] * len(phases)
    for index, name in enumerate(("look up", "load", "compute")):
        widths = [part[index] for part in parts]
        axes.barh([_SHORT_LABELS[phase] for phase in phases], widths, left=start, label=name)
        start = [left + width for left, width in zip(start, widths, strict=True)]
    axes.set_xlabel("median time to first token, ms")
    axes.legend()


def _median_parts_ms(generations: Sequence[Generation]) -> tuple[float, float, float]:
    lookup = statistics.median(one.lookup_s for one in generations) * 1e3
    load = statistics.median(one.load.seconds for one in generations) * 1e3
    return lookup, load, statistics.median(one.ttft_s for one in generations) * 1e3 - lookup - load
