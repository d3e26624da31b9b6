"""A picture of runs: memory by holder over time on each card, with the decisions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danzar_gpu.memory import GIB
from danzar_gpu.simulate.metrics import Score, percent
from danzar_gpu.simulate.trace import Trace

OUR_COLOURS = ("#1f6fb2", "#3b9dd9", "#7cc4ec", "#155a8a", "#a6d8f0", "#0d3b5c")
LLM_COLOUR = "#d1495b"
OTHER_COLOURS = ("#b0b0b0", "#8d8d8d", "#cfcfcf", "#6f6f6f", "#dddddd")
CONTEXT_COLOUR = "#c9e4f5"


class PlotUnavailable(Exception):
    """There is no matplotlib, or the picture can't be written; the message says which."""


def check(path: Path) -> None:
    """Raises ``PlotUnavailable`` where ``draw`` would: it comes after a long replay."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise PlotUnavailable("a picture needs matplotlib: pip install matplotlib") from None
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.is_dir():
        raise PlotUnavailable(f"{path} is a folder: --plot wants a file in it, such as run.png")
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise PlotUnavailable(f"{path} is no picture's name: end it in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise PlotUnavailable(f"{path} can't be written: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PlotUnavailable(f"{path} can't be written: that is not permitted")


def draw(trace: Trace, scores: Mapping[str, Score], path: Path) -> None:
    """Write a picture with a column for each policy and a row for each card.

    Raises:
        PlotUnavailable: matplotlib is missing, or ``path`` can't be written.
    """
    check(path)
    import matplotlib

    matplotlib.use("Agg")
    # Names in a trace are no formulas, whatever dollar signs they have.
    with matplotlib.rc_context({"text.parse_math": False}):  # pyright: ignore[reportUnknownMemberType]
        _draw(trace, scores, path)


def _draw(trace: Trace, scores: Mapping[str, Score], path: Path) -> None:
    from matplotlib import pyplot

    cards = len(trace.rig)
    figure: Any
    axes: Any
    figure, axes = pyplot.subplots(  # pyright: ignore[reportUnknownMemberType]
        cards,
        len(scores),
        figsize=(3 + 5 * len(scores), 1 + 2.4 * cards),
        sharex=True,
        squeeze=False,
    )
    colours = _colours(trace, scores)
    for column, (name, score) in enumerate(scores.items()):
        for index, card in enumerate(trace.rig):
            axis = axes[index][column]
            _areas(axis, score.samples.get(index, []), trace.end, colours)
            _decisions(axis, score, index)
            axis.axhline(card.total_gb, color="black", linewidth=1)
            axis.set_ylim(0, card.total_gb * 1.04)
            axis.set_xlim(0, trace.end)
            if column == 0:
                axis.set_ylabel(f"{index}: {card.name}\nGiB")
            if index == 0:
                axis.set_title(
                    f"{name}: {percent(score.gpu_fraction)} on cards, {score.moves} moves"
                )
            if index == cards - 1:
                axis.set_xlabel("seconds")
    shown = sorted(colours)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[h]) for h in shown]  # pyright: ignore[reportUnknownMemberType, reportPrivateImportUsage]
    figure.legend(handles, shown, loc="lower center", ncols=min(6, max(1, len(shown))), fontsize=8)
    figure.suptitle(trace.description or trace.name)
    figure.tight_layout(rect=(0, 0.04 + 0.02 * (len(shown) // 6), 1, 0.98))
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise PlotUnavailable(f"{path} can't be written: {error.strerror}") from None
    finally:
        pyplot.close(figure)


def _areas(
    axis: Any, samples: list[tuple[float, dict[str, int]]], end: float, colours: dict[str, str]
) -> None:
    """Stacked steps: what isn't ours below, ours on top."""
    if not samples:
        return
    holders = {h for _, held in samples for h in held}
    ours = {h for h in holders if colours[h] in OUR_COLOURS or colours[h] == CONTEXT_COLOUR}
    times = [at for at, _ in samples] + [end]
    below = [0.0] * len(times)
    for holder in [*sorted(holders - ours), *sorted(ours)]:
        sizes = [held.get(holder, 0) / GIB for _, held in samples]
        sizes.append(sizes[-1])
        top = [b + s for b, s in zip(below, sizes, strict=True)]
        axis.fill_between(times, below, top, step="post", color=colours[holder], linewidth=0)
        below = top


def _decisions(axis: Any, score: Score, index: int) -> None:
    for at, text in score.notes:
        if text.endswith(f"on card {index}"):
            axis.axvline(at, color="#1f6fb2", linewidth=0.9, linestyle="--")
    for at, _ in score.faults:
        axis.axvline(at, color=LLM_COLOUR, linewidth=1.4)


def _colours(trace: Trace, scores: Mapping[str, Score]) -> dict[str, str]:
    holders = sorted(
        {
            h
            for s in scores.values()
            for series in s.samples.values()
            for _, held in series
            for h in held
        }
    )
    models = [m.name for m in trace.models]
    llm = {p.process for p in trace.foreign if p.llm}
    colours: dict[str, str] = {}
    ours = other = 0
    for holder in holders:
        if holder in llm:
            colours[holder] = LLM_COLOUR
        elif holder.endswith("(context)"):
            colours[holder] = CONTEXT_COLOUR
        elif holder in models:
            colours[holder] = OUR_COLOURS[ours % len(OUR_COLOURS)]
            ours += 1
        else:
            colours[holder] = OTHER_COLOURS[other % len(OTHER_COLOURS)]
            other += 1
    return colours
