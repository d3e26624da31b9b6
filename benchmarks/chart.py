"""The chart: one bar a comparison, on a scale on which twice as fast is always the same length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import Bar, number

BACKGROUND, INK, FAINT, OURS, WORSE = "#ffffff", "#2e3338", "#c7ccd1", "#5865f2", "#d9822b"


def draw(bars: Sequence[Bar], path: Path) -> None:
    """Write the picture (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.4 + 0.36 * max(1, len(bars))), facecolor=BACKGROUND, dpi=110)
    axes = figure.add_subplot()
    for position, bar in enumerate(reversed(bars)):
        colour = OURS if bar.ratio.median >= 1 else WORSE
        axes.barh(position, bar.ratio.median - 1, left=1, height=0.62, color=colour)
        axes.plot([bar.ratio.low, bar.ratio.high], [position, position], color=INK, lw=1.2)
        edge = max(bar.ratio.high, 1.0)
        axes.annotate(
            f"{number(bar.ratio.median)}x",
            (edge, position),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.set_xscale("log", base=2)
    axes.axvline(1, color=INK, lw=1)
    axes.set_yticks(range(len(bars)), [bar.label for bar in reversed(bars)], fontsize=9, color=INK)
    axes.xaxis.set_major_formatter(lambda value, _: f"{number(value)}x")
    axes.set_xlabel("how many times as much the plain way takes (line: range of the rounds)")
    axes.grid(axis="x", color=FAINT, lw=0.5)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.tight_layout()
    figure.savefig(path)
