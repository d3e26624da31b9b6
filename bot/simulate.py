"""``danzar simulate``: a trace of programs and models through placement policies, scored.

Standard output carries the table or the JSON and nothing else; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from bot.exits import Exit
from bot.settings import Settings
from danzar_gpu.simulate import (
    METRICS,
    POLICIES,
    Outcome,
    Policy,
    Trace,
    TraceError,
    UnknownPolicy,
    load,
    play,
    policy_named,
)

MAX_SEEDS = 10_000
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; ``--config`` belongs to ``danzar`` as a whole."""
    parser.add_argument(
        "trace", metavar="TRACE.yaml", nargs="?", type=Path, help="see docs/simulate.md"
    )
    parser.add_argument(
        "--policy",
        metavar="NAME",
        nargs="+",
        action="extend",
        default=None,
        help=f"{', '.join(POLICIES)}, or module:Class; all four if left out",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=1,
        metavar="N",
        help="as many variations of the trace, the first as it is written (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw memory by holder over time (seed 0)"
    )


def _seeds(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= MAX_SEEDS:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_SEEDS}")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Play the trace; the exit status. ``settings`` are not used: a trace brings its own."""
    del settings
    names: list[str] = list(args.policy or POLICIES)
    path: Path | None = args.trace
    if path is None and len(names) > 1 and names[-1].endswith((".yaml", ".yml")):
        path = Path(names.pop())  # `--policy a b trace.yaml` took it for a policy
    if path is None:
        print("danzar simulate: a trace is missing; docs/simulate.md shows one", file=sys.stderr)
        return Exit.CONFIGURATION
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # module:Policy is looked for here, too
    try:
        trace = load(path)
        policies = {name: policy_named(name) for name in dict.fromkeys(names)}
    except (TraceError, UnknownPolicy) as error:
        print(error, file=sys.stderr)
        return Exit.CONFIGURATION
    try:
        outcomes = _contest(trace, policies, args.seeds)
        if args.plot is not None and not _plotted(trace, policies, args.plot):
            return Exit.FAILED
    except _PolicyFailed as error:
        print(error, file=sys.stderr)
        return Exit.FAILED
    if args.json:
        print(json.dumps(_as_json(trace, outcomes, args.seeds), indent=2))
    else:
        _print_table(trace, outcomes, args.seeds)
    return Exit.OK


class _PolicyFailed(Exception):
    """A policy raised; it is somebody's own code, so the message says what and where."""


def _contest(
    trace: Trace, policies: Mapping[str, Callable[[], Policy]], seeds: int
) -> list[Outcome]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("simulating", total=seeds * len(policies))
        outcomes: list[Outcome] = []
        for name, make in policies.items():
            runs: list[Mapping[str, float]] = []
            for seed in range(seeds):
                bar.update(task, description=f"{name}, seed {seed}")
                try:
                    runs.append(play(trace, make(), seed).values())
                except Exception as error:
                    if name in POLICIES:
                        raise
                    where = f"{type(error).__name__}: {error}"
                    raise _PolicyFailed(f"the policy {name} failed: {where}") from error
                bar.advance(task)
            outcomes.append(Outcome(trace.name, name, tuple(runs)))
    return outcomes


def _plotted(trace: Trace, policies: Mapping[str, Callable[[], Policy]], path: Path) -> bool:
    from danzar_gpu.simulate.plot import PlotUnavailable, draw

    scores = {name: play(trace, make(), record=True) for name, make in policies.items()}
    try:
        draw(trace, scores, path)
    except PlotUnavailable as error:
        print(error, file=sys.stderr)
        return False
    return True


def _as_json(trace: Trace, outcomes: list[Outcome], seeds: int) -> dict[str, object]:
    return {
        "trace": trace.name,
        "duration_seconds": trace.end,
        "seeds": seeds,
        "policies": {
            outcome.policy: {
                **{
                    name: {
                        "mean": round(spread.mean, 6),
                        "low": round(spread.low, 6),
                        "high": round(spread.high, 6),
                        "worst": round(spread.worst, 6),
                    }
                    for name, spread in outcome.metrics.items()
                },
                "runs": [dict(run) for run in outcome.runs],
            }
            for outcome in outcomes
        },
    }


def _print_table(trace: Trace, outcomes: list[Outcome], seeds: int) -> None:
    seconds = f"{trace.end:g} seconds, {len(trace.rig)} cards, {len(trace.models)} models"
    title = f"{trace.name}: {trace.description or 'a trace'} ({seconds})"
    table = Table(title=title, title_justify="left")
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


def _cell(outcome: Outcome, name: str) -> str:
    spread = outcome.metrics[name]

    def shown(value: float) -> str:
        return f"{value:.1%}" if name == "gpu_fraction" else f"{value:.4g}"

    if len(outcome.runs) == 1 or spread.low == spread.high:
        return shown(spread.mean)
    return f"{shown(spread.mean)}\n{shown(spread.low)} to {shown(spread.high)}"
