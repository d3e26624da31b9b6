"""What came of the contest, as a page and a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contention.peers import PEERS
from danzar_gpu.simulate import Outcome, Trace, percent

COUNTS = ("oom_count", "llm_starved_count", "thrash")
CONTROLS = ("oracle", "static", "cpu")
DESIGNED_FOR = {
    "guide": "one process on a machine of its own; sees its own memory only, chooses once",
    "ollama": "LLM runners behind one server; evicts idle runners for new ones",
    "comfyui": "one workflow on one card; asks the driver when it loads, and only then",
    "diffusers": "the parts of one pipeline on one card, with 3 GB for activations",
    "nvitop": "choosing cards before a training starts: most free memory, once",
    "gputil": "choosing a card on a shared training machine: the first half-empty one, once",
    "ray": "clusters where everything runs through it; bookkeeping, no look at the driver",
    "accelerate": "spreading one large model over idle cards in CUDA's order, once",
}
INTRODUCTION = """
# The contest

<!-- made by `python -m benchmarks.contention`; don't edit -->

Who keeps the LLM's memory free, never runs out of memory, and still uses the cards? {traces}
traces, {seeds} seeds each, in the [simulator](simulate.md): the product's own admission, ledger and
placement in virtual time, controls beside it, and other projects' algorithms, rewritten from their
sources. It is a simulation: no figure here was measured on a card.

![Share on cards against harm](images/contention.png)

## All traces together
"""
LEGEND = """
*harmed runs*: runs with an out-of-memory error of ours or a starved LLM. *starved*: the LLM asked
within its reservation and there was no room. *squeezed*: seconds in which another program was
short of memory that our models held. *share*: model-seconds on a card over model-seconds.
*thrash*: moves back within 60 seconds.

## The goals

Over every shipped trace and seed: no out-of-memory error of ours and no starved LLM wherever the
oracle has none, at least 0.95 of the oracle's share on cards, no thrash.
"""
BUILT_FOR = """
## What each peer was built for

None was built for this contest, and each does well what it was built for. Where a policy could be
given the LLM to manage, both ways were played; a managed LLM still has to wait until others left,
which counts as starved, mostly for a second or two.

"""
CARE = """
Two kindnesses: the three that swap models ask again a minute after they put one out, not with its
next frame; and a program that is squeezed by a model is no harm in the totals, although a game
would stutter or fail.

## Reading it with care

- The traces are ours. They hold what the product is for: an LLM with a promise that other programs
  don't know of. On a machine without one a one-shot choice does as well.
- The oracle keeps the product's rules, too (reservation, limit, headroom, dwell, priorities); a
  peer with a share above the oracle's broke or stretched one.
- On traces drawn by chance (`python -m benchmarks.contention.random`) the product misses the goal
  on about one in seventy. Of some thirty such traces that were looked at one by one most have a
  twin that is the same up to the decision and on which the other choice is right, so that nobody
  without the future can be right on both:
  - *A size.* 3 GB are predicted for a model that was never measured, the card has 4.9 GB, and the
    model takes 4.5 GB and the context 0.6: out of memory. Had it taken 3.3 GB, to stay away would
    have cost the whole share. The same holds where a context is smaller than the 0.45 GB assumed.
  - *A second.* The oracle leaves before the memory is needed, so its minute of cooldown is over
    before the next program comes; and where room lasts for seconds, each second until it is seen
    counts.
  - *A place.* The models that may stay when a program comes depend on who sat on which card before,
    and to stay takes less free memory than to come.
  - *A first step.* A program takes what is free and waits for more: how much more, nobody says.
  - *A growth.* A program fills a card, and a model of ours grows there before the next reading. No
    memory can be kept back for that, since the program takes whatever is free. To send growing
    models away from every full card at once was tried: less share on thirteen of 700 traces with
    growth, and no error less.
  - *A faulty reading.* The oracle sees the truth; the product acts on no doubtful figure, and
    counts nothing as the LLM's that nobody lists as such.
- A model that falls off a card runs on the CPU; partial loading counts as the CPU.
- A CUDA context is given back when a process's last model leaves a card, which a real process only
  does by ending. The product ends its worker for it where promised memory is missing; a trace's
  `keeps_context` plays that, these traces don't.
- The product reads each second while memory is tight. A program that takes memory beside the LLM's
  promise, and the LLM's claim within that same second, would starve the LLM for a moment.
"""


def page(traces: list[Trace], outcomes: list[Outcome], seeds: int) -> str:
    """docs/contention.md."""
    parts = [
        INTRODUCTION.format(traces=len(traces), seeds=seeds),
        "\n".join(_totals(outcomes)),
        LEGEND,
        "\n".join(_goals(outcomes)),
        "## Trace by trace",
        "\n".join(_by_trace(traces, outcomes)).rstrip(),
        BUILT_FOR + "\n".join(f"- **{name}**: {words}." for name, words in DESIGNED_FOR.items()),
        CARE,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _of(outcomes: Iterable[Outcome], policy: str) -> list[Outcome]:
    return [o for o in outcomes if o.policy == policy]


def _policies(outcomes: Iterable[Outcome]) -> list[str]:
    return list(dict.fromkeys(o.policy for o in outcomes))


def _mean(outcomes: list[Outcome], metric: str) -> float:
    """Over the traces that have a figure: no share where no model was wanted."""
    means = [o.metrics[metric].mean for o in outcomes]
    return statistics.fmean([m for m in means if not math.isnan(m)] or [math.nan])


def _harmed(outcomes: list[Outcome]) -> float:
    """Share of runs with an error of ours or a starved LLM."""
    runs = [run for o in outcomes for run in o.runs]
    return sum(run["oom_count"] > 0 or run["llm_starved_count"] > 0 for run in runs) / len(runs)


def _totals(outcomes: list[Outcome]) -> list[str]:
    lines = [
        "| policy | harmed runs | out of memory | starved | starved s | squeezed s | share | "
        "needless CPU s | moves | thrash | p95 wait s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for policy in _policies(outcomes):
        own = _of(outcomes, policy)
        name = f"**{policy}**" if policy == "danzar" else policy
        cells = [
            f"{_harmed(own):.0%}",
            f"{_mean(own, 'oom_count'):.2f}",
            f"{_mean(own, 'llm_starved_count'):.2f}",
            f"{_mean(own, 'llm_starved_seconds'):.1f}",
            f"{_mean(own, 'squeezed_seconds'):.1f}",
            percent(_mean(own, "gpu_fraction")),
            f"{_mean(own, 'needless_cpu_seconds'):.0f}",
            f"{_mean(own, 'moves'):.2f}",
            f"{_mean(own, 'thrash'):.2f}",
            f"{_mean(own, 'p95_wait_seconds'):.1f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _goals(outcomes: list[Outcome]) -> list[str]:
    oracle = {o.trace: o for o in _of(outcomes, "oracle")}
    missed: list[str] = []
    lowest = 9.0
    for own in _of(outcomes, "danzar"):
        for seed, (run, best) in enumerate(zip(own.runs, oracle[own.trace].runs, strict=True)):
            missed += [
                f"- {own.trace}, seed {seed}: {metric} {run[metric]:.0f}"
                for metric in COUNTS
                if run[metric] > 0 and best[metric] == 0
            ]
            ratio = run["gpu_fraction"] / best["gpu_fraction"] if best["gpu_fraction"] > 0 else 1.0
            lowest = min(lowest, ratio)
            if ratio < 0.95:
                missed.append(f"- {own.trace}, seed {seed}: {ratio:.3f} of the oracle's share")
    lines = missed or ["They all hold."]
    lines.append(f"The lowest share in any run is {lowest:.3f} of the oracle's.")
    better = _better_somewhere(outcomes)
    if better:
        lines += ["", "Peers with a larger share and no harm on a trace:", "", *better]
    else:
        lines += ["", "No peer has a larger share on any trace without harm or thrash there."]
    return lines


def _better_somewhere(outcomes: list[Outcome]) -> list[str]:
    lines: list[str] = []
    own = {o.trace: o for o in _of(outcomes, "danzar")}
    for outcome in outcomes:
        if outcome.policy not in PEERS and outcome.policy != "static":
            continue
        mine = own[outcome.trace]
        harmless = all(outcome.metrics[m].mean <= mine.metrics[m].mean for m in COUNTS)
        more = outcome.metrics["gpu_fraction"].mean - mine.metrics["gpu_fraction"].mean
        if harmless and more > 0.002:
            squeezed = outcome.metrics["squeezed_seconds"].mean
            lines.append(
                f"- {outcome.policy} on {outcome.trace}: {more:+.1%} "
                f"(others squeezed for {squeezed:.0f} s)"
            )
    return lines


def _by_trace(traces: list[Trace], outcomes: list[Outcome]) -> list[str]:
    lines: list[str] = []
    for trace in traces:
        rig = " + ".join(f"{card.total_gb:g}" for card in trace.rig)
        lines += [
            f"### {trace.name}",
            "",
            f"{trace.description[:1].upper()}{trace.description[1:]} ({rig} GB, "
            f"{trace.end / 60:g} minutes).",
            "",
            "| policy | out of memory | starved | squeezed s | share | moves | thrash |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for outcome in outcomes:
            if outcome.trace != trace.name:
                continue
            m = outcome.metrics
            share = m["gpu_fraction"]
            spread = (
                f" ({share.low:.1%} to {share.high:.1%})" if share.high - share.low > 0.001 else ""
            )
            name = f"**{outcome.policy}**" if outcome.policy == "danzar" else outcome.policy
            lines.append(
                f"| {name} | {m['oom_count'].mean:.1f} | {m['llm_starved_count'].mean:.1f} | "
                f"{m['squeezed_seconds'].mean:.0f} | {percent(share.mean)}{spread} | "
                f"{m['moves'].mean:.1f} | {m['thrash'].mean:.1f} |"
            )
        lines.append("")
    return lines


PLACES = (
    *((9, 0, "left"), (-9, 0, "right")),
    *((x, y, across) for y in (14, -14, 26, -26, 38) for x, across in ((9, "left"), (-9, "right"))),
)
"""Where a label may be: points to the right and up of its dot, and which end is there."""


def picture(outcomes: list[Outcome], path: Path) -> None:
    """Share on cards against harmed runs, a point for each policy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 5.5))
    points: dict[tuple[float, float], list[str]] = {}
    for policy in _policies(outcomes):
        own = _of(outcomes, policy)
        share, harmed = 100 * _mean(own, "gpu_fraction"), 100 * _harmed(own)
        if math.isnan(share):
            continue  # no place for it on the axis
        points.setdefault((round(share, 1), round(harmed, 1)), []).append(policy)
        colour = "#1f6fb2" if policy == "danzar" else "#666666" if policy in CONTROLS else "#d1495b"
        axis.scatter(
            [share],
            [harmed],
            color=colour,
            marker="*" if policy == "danzar" else "o",
            s=220 if policy == "danzar" else 40,
            zorder=4 if policy == "danzar" else 3,
        )
    axis.set_xlabel("share of model-seconds on cards, % (more is better)")
    axis.set_ylabel("runs with an OOM of ours or a starved LLM, % (fewer is better)")
    axis.set_title("All traces and seeds")
    axis.grid(alpha=0.3)
    axis.set_ylim(-4, axis.get_ylim()[1] + 4)
    axis.set_xlim(right=112)  # room for the names of the best
    figure.tight_layout()
    _label(axis, points)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _label(axis: Any, points: Mapping[tuple[float, float], Sequence[str]]) -> None:
    """A name at each point, in the first place round it where it covers nothing."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer = axis.figure.canvas.get_renderer()
    dots = [axis.transData.transform(at) for at in points]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in dots]
    for (share, harmed), names in sorted(points.items()):
        label = None
        for x, y, across in PLACES:
            if label is not None:
                label.remove()
            label = axis.annotate(
                ", ".join(names),
                (share, harmed),
                xytext=(x, y),
                textcoords="offset points",
                ha=across,
                va="center",
                fontsize=8,
                arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "#999999"} if y else None,
            )
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)  # without the line to its dot
            inside = box.x0 >= axis.bbox.x0 and box.x1 <= axis.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        assert label is not None
        taken.append(Text.get_window_extent(label, renderer))
