"""``danzar simulate``: a trace of programs and models through placement policies, scored.

Standard output carries the table or the JSON and nothing else; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from bot.exits import Exit
from bot.settings import Settings
from danzar_gpu.history import HistoryStore
from danzar_gpu.simulate import (
    METRICS,
    POLICIES,
    Outcome,
    Policy,
    Trace,
    TraceError,
    UnknownPolicy,
    load,
    percent,
    play,
    policy_named,
)
from danzar_gpu.simulate.policies import CONTEXT_BYTES
from danzar_gpu.simulate.recorded import Known, Recording, TooLittle, trace_of
from danzar_gpu.simulate.writing import as_yaml

MAX_SEEDS = 10_000
DAY_SECONDS = 86_400.0
MAX_SPAN_SECONDS = 366 * DAY_SECONDS
MOST_READINGS = 6000
"""Of each card; of a longer record the fullest readings are taken."""
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
    parser.add_argument(
        "--from-history", action="store_true", help="replay what the bot recorded on this machine"
    )
    parser.add_argument(
        "--since",
        type=_span,
        metavar="TIME",
        help="with --from-history: how far back, as 90m, 24h or 7d (default: 24h)",
    )
    parser.add_argument(
        "--save-trace", type=Path, metavar="FILE.yaml", help="write the trace that is played"
    )


def _seeds(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= MAX_SEEDS:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_SEEDS}")


def _span(text: str) -> float:
    """Seconds of ``90m``, ``24h``, ``7d``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|d)", text.strip().lower())
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0
    if not 0 < seconds <= MAX_SPAN_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90m, 24h or 7d")
    return seconds


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Play the trace; the exit status. ``settings`` are for the history: a trace has its own."""
    names: list[str] = list(args.policy or POLICIES)
    path: Path | None = args.trace
    if path is None and len(names) > 1 and names[-1].endswith((".yaml", ".yml")):
        path = Path(names.pop())  # `--policy a b trace.yaml` took it for a policy
    if (path is None) != args.from_history:
        words = (
            "a trace is missing; docs/simulate.md shows one, and --from-history makes one"
            if path is None
            else "either a trace or --from-history"
        )
        print(f"danzar simulate: {words}", file=sys.stderr)
        return Exit.CONFIGURATION
    if args.since is not None and not args.from_history:
        print("danzar simulate: --since belongs to --from-history", file=sys.stderr)
        return Exit.CONFIGURATION
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # module:Policy is looked for here, too
    try:
        trace = load(path) if path is not None else _history(settings, args.since or DAY_SECONDS)
        policies = {name: policy_named(name) for name in dict.fromkeys(names)}
    except (TraceError, UnknownPolicy) as error:
        print(error, file=sys.stderr)
        return Exit.CONFIGURATION
    except (NoHistory, TooLittle) as error:
        print(f"danzar simulate: {error}", file=sys.stderr)
        return Exit.FAILED
    if args.save_trace is not None and not _saved(trace, args.save_trace):
        return Exit.FAILED
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


class NoHistory(Exception):
    """The history can't be read; the message says why and what to do."""


def _history(settings: Settings, seconds: float) -> Trace:
    """What the bot recorded in the last ``seconds``, as a trace."""
    path = Path(settings.data.folder) / "history.sqlite3"
    if not path.exists():
        raise NoHistory(f"nothing was recorded yet: {path} does not exist; run the bot first")
    store = HistoryStore(path)
    since = time.time() - seconds
    try:
        recording = Recording(
            store.samples(since, every=seconds / MOST_READINGS),
            store.cards(),
            store.moves(since=since),
            store.measurements(),
        )
    except (OSError, sqlite3.Error) as error:
        raise NoHistory(
            f"{path} can't be read: {error}; if an older Danzar wrote it, start the bot once: it "
            "brings the file up to date"
        ) from error
    return trace_of(recording, settings.gpu_memory, _known(settings))


def _known(settings: Settings) -> list[Known]:
    from bot.profile import configured_models
    from bot.vision.clip import ClipService
    from bot.vision.yolo import YoloService

    priorities = {service.name: service.priority for service in (YoloService, ClipService)}
    configured, _ = configured_models(settings)
    return [
        Known(
            found.model,
            priorities.get(found.service, 0),
            found.predicted_bytes - CONTEXT_BYTES if found.predicted_bytes else None,
        )
        for found in configured
    ]


def _saved(trace: Trace, path: Path) -> bool:
    try:
        path.write_text(as_yaml(trace, trace.description), encoding="utf-8")
    except OSError as error:
        print(f"danzar simulate: {path} can't be written: {error.strerror}", file=sys.stderr)
        return False
    print(f"wrote {path}", file=sys.stderr)
    return True


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
            }
            for outcome in outcomes
        },
    }


def _figure(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


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
        return percent(value) if name == "gpu_fraction" else f"{value:.4g}"

    if not spread.low < spread.high:
        return shown(spread.mean)
    return f"{shown(spread.mean)}\n{shown(spread.low)} to {shown(spread.high)}"
