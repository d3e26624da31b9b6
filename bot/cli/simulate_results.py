"""What came of ``danzar simulate``, as a table for people and as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from danzar_gpu.plural import counted
from danzar_gpu.simulate import METRICS, Outcome, Trace, percent
from danzar_gpu.simulate.journal import Entry

_HEADINGS = {
    "oom_count": "out of\nmemory",
    "llm_starved_count": "LLM\nstarved",
    "llm_starved_seconds": "starved\nseconds",
    "squeezed_seconds": "squeezed\nseconds",
    "gpu_fraction": "share on\ncards",
    "needless_cpu_seconds": "needless\nCPU s",
    "moves": "moves",
    "thrash": "thrash",
    "p95_wait_seconds": "p95\nwait s",
}


def as_json(
    trace: Trace, outcomes: list[Outcome], seeds: int, told: Mapping[str, list[Entry]]
) -> dict[str, object]:
    """For programs; ``None`` where there is no figure. ``told``: what is to be told of a policy."""
    return {
        "trace": trace.name,
        "duration_seconds": trace.end,
        "seeds": seeds,
        "policies": {
            outcome.policy: {
                **{
                    name: {
                        "mean": _figure(spread.mean),
                        "low": _figure(spread.low),
                        "high": _figure(spread.high),
                        "worst": _figure(spread.worst),
                    }
                    for name, spread in outcome.metrics.items()
                },
                "runs": [
                    {name: _figure(value) for name, value in run.items()} for run in outcome.runs
                ],
                **_decisions(told.get(outcome.policy)),
            }
            for outcome in outcomes
        },
    }


def _decisions(told: list[Entry] | None) -> dict[str, object]:
    if told is None:
        return {}
    return {"decisions": [{"at": round(at, 3), "words": words} for at, words in told]}


def _figure(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def print_table(trace: Trace, outcomes: list[Outcome], seeds: int) -> None:
    """A row for each policy."""
    size = ", ".join(
        (
            counted(trace.end, "second"),
            counted(len(trace.rig), "card"),
            counted(len(trace.models), "model"),
        )
    )
    title = f"{trace.name}: {trace.description or 'a trace'} ({size})"
    # As text: brackets in somebody's words are not ours to interpret.
    table = Table(title=Text(title, style="table.title"), title_justify="left")
    table.add_column("policy")
    for name in METRICS:
        table.add_column(_HEADINGS[name], justify="right")
    for outcome in outcomes:
        cells = [_cell(outcome, name) for name in METRICS]
        table.add_row(outcome.policy, *cells)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)
    if seeds > 1:
        console.print(f"mean over {seeds} seeds and the 95 % interval of the mean")


def print_journals(told: Mapping[str, list[Entry]]) -> None:
    """Below the table, a line for each event and decision."""
    for policy, entries in told.items():
        print(f"\n{policy} (seed 0), seconds:")
        for at, words in entries:
            print(f"{at:10.1f}  {words}")


def _cell(outcome: Outcome, name: str) -> str:
    spread = outcome.metrics[name]

    def shown(value: float) -> str:
        return percent(value) if name == "gpu_fraction" else f"{value:.4g}"

    if not spread.low < spread.high:
        return shown(spread.mean)
    return f"{shown(spread.mean)}\n{shown(spread.low)} to {shown(spread.high)}"
