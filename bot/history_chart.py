"""Memory over time as a picture: stacked by holder, with promises, thresholds and moves.

matplotlib is slow to import and large, so the picture is drawn by a child process
(``python -m bot.history_chart``: a request as JSON on stdin, a PNG on stdout), never here.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

TIME_LIMIT_SECONDS = 30.0
MOST_POINTS = 600
"""More than a phone shows; longer histories are thinned out before."""

HEIGHTS = {1: 3.0, 2: 2.0, 3: 1.55}
"""Inches for each card, by their number: chat shows a wide picture larger than a tall one."""
BACKGROUND = "#2b2d31"
INK = "#f2f3f5"
FAINT = "#80848e"
COLOURS = {
    "llm": ("#5865f2", "main LLM"),
    "ours": ("#23a55a", "vision"),
    "other": ("#f0b232", "other programs"),
    "free": (None, "free"),
}


@dataclass(frozen=True, slots=True)
class CardHistory:
    """One card's readings; times in Unix seconds, sizes in GiB."""

    title: str
    total_gb: float
    at: list[float]
    llm: list[float]
    ours: list[float]
    other: list[float]
    reserved_for_llm_gb: float | None
    """The LLM's reservation, on its own card."""
    warn_percent: float


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened: a model moved."""

    at: float
    text: str


class ChartError(Exception):
    """The picture could not be drawn; the message says why."""


async def history_png(
    cards: Sequence[CardHistory], marks: Sequence[Mark], title: str, *, simulated: bool
) -> bytes:
    """A PNG of ``cards``, one below the other.

    Raises:
        ChartError: the drawing process failed or took longer than 30 s.
    """
    request = {
        "cards": [asdict(card) for card in cards],
        "marks": [asdict(mark) for mark in marks],
        "title": f"{title} (simulated)" if simulated else title,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bot.history_chart",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIME_LIMIT_SECONDS):
            png, complaint = await process.communicate(json.dumps(request).encode())
    except TimeoutError:
        raise ChartError(f"it was not drawn within {TIME_LIMIT_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0 or not png:
        last = complaint.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        raise ChartError(last[0])
    return png


def draw(request: dict[str, Any]) -> bytes:
    """The picture for a request, as PNG bytes: 1,000 pixels wide, never a tall strip."""
    import io
    from datetime import datetime

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.dates as mdates
    from matplotlib.figure import Figure

    cards = request["cards"]
    height = 1.2 + len(cards) * HEIGHTS.get(len(cards), 1.35)
    # Six inches, not more: on a phone the picture is half as wide, and so are its words.
    figure = Figure(figsize=(6, height), dpi=1000 / 6, facecolor=BACKGROUND)
    axes = figure.subplots(len(cards), 1, squeeze=False, sharex=True)[:, 0]
    for axis, card in zip(axes, cards, strict=True):
        at = [datetime.fromtimestamp(t) for t in card["at"]]
        layers = [card["llm"], card["ours"], card["other"]]
        colours = [COLOURS[key][0] for key in ("llm", "ours", "other")]
        labels = [COLOURS[key][1] for key in ("llm", "ours", "other")]
        axis.stackplot(at, *layers, colors=colours, labels=labels, alpha=0.9, step="post")
        _promise(axis, card, at)
        total = card["total_gb"]
        axis.axhline(total * card["warn_percent"] / 100, color="#f23f43", ls="--", lw=1.5)
        axis.text(
            0.995,
            card["warn_percent"] / 100 - 0.03,
            f"{card['warn_percent']:g} %",
            transform=axis.transAxes,
            ha="right",
            va="top",
            bbox={"facecolor": BACKGROUND, "edgecolor": "none", "alpha": 0.6, "pad": 1},
            color="#f23f43",
            fontsize=12,
        )
        for mark in request["marks"]:
            axis.axvline(datetime.fromtimestamp(mark["at"]), color=INK, ls=":", lw=1.2)
        axis.set_ylim(0, total)
        axis.set_yticks([0, total / 2, total], [f"{size:g}" for size in (0, total / 2, total)])
        axis.set_title(card["title"], color=INK, fontsize=16, loc="left", pad=8)
        axis.set_ylabel("GB", color=INK, fontsize=14)
        axis.set_facecolor(BACKGROUND)
        axis.tick_params(colors=INK, labelsize=13)
        axis.grid(axis="y", color=FAINT, alpha=0.25)
        for side in axis.spines.values():
            side.set_color(FAINT)
    _name_marks(axes[0], request["marks"])
    handles, labels = axes[0].get_legend_handles_labels()
    for axis in axes[1:]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    locator = mdates.AutoDateLocator(minticks=2, maxticks=5)
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(
        mdates.ConciseDateFormatter(
            locator,
            formats=["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%H:%M:%S"],
            zero_formats=["", "%Y", "%b", "%d %b", "%H:%M", "%H:%M"],
            show_offset=False,
        )
    )
    axes[-1].margins(x=0)
    figure.suptitle(request["title"], color=INK, fontsize=15, x=0.02, ha="left")
    legend = figure.legend(handles, labels, loc="lower center", ncols=2, fontsize=13, frameon=False)
    for text in legend.get_texts():
        text.set_color(INK)
    figure.tight_layout(rect=(0, 0.75 / height, 1, 1 - 0.05 / height))
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor=BACKGROUND)
    return out.getvalue()


def _promise(axis: Any, card: dict[str, Any], at: list[Any]) -> None:
    """What is still kept free for the LLM, hatched at the top of its card."""
    reserved = card["reserved_for_llm_gb"]
    if reserved is None:
        return
    total = card["total_gb"]
    floor = [total - max(0.0, reserved - held) for held in card["llm"]]
    axis.fill_between(
        at,
        floor,
        [total] * len(at),
        step="post",
        facecolor="none",
        edgecolor=COLOURS["llm"][0],
        hatch="//",
        linewidth=0.0,
        label="promised to the LLM",
    )


def _name_marks(axis: Any, marks: list[dict[str, Any]]) -> None:
    """The last few moves in words; all of them have a line."""
    from datetime import datetime

    first, last = axis.get_xlim()
    for row, mark in enumerate(marks[-4:]):
        at = datetime.fromtimestamp(mark["at"])
        late = axis.convert_xunits(at) > first + 0.6 * (last - first)
        words = axis.annotate(
            mark["text"],
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if late else 5, -15 - 19 * (row % 4)),
            textcoords="offset points",
            ha="right" if late else "left",
            color=INK,
            fontsize=12,
            annotation_clip=True,
            bbox={"facecolor": BACKGROUND, "edgecolor": "none", "alpha": 0.75, "pad": 1.5},
        )
        words.set_in_layout(False)


def main() -> None:
    sys.stdout.buffer.write(draw(json.load(sys.stdin)))


if __name__ == "__main__":
    main()
