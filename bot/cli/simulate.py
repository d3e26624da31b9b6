"""``danzar simulate``: a trace of programs and models through placement policies, scored.

Standard output carries the table or the JSON and nothing else; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.progress import Progress, TaskID

from bot.cli.arguments import named_path
from bot.cli.exits import Exit
from bot.cli.progress import progress_bar
from bot.cli.simulate_results import as_json, print_journals, print_table
from bot.settings import Settings
from danzar_gpu.file_errors import why
from danzar_gpu.history import HistoryStore
from danzar_gpu.simulate import (
    POLICIES,
    Outcome,
    Policy,
    Score,
    Trace,
    TraceError,
    UnknownPolicy,
    Watch,
    load,
    play,
    policy_named,
    unplayed,
)
from danzar_gpu.simulate.journal import journal
from danzar_gpu.simulate.plot import PlotUnavailable, check, draw
from danzar_gpu.simulate.recorded import Known, Recording, TooLittle, trace_of
from danzar_gpu.simulate.trace import DAY_SECONDS, LONGEST_SECONDS
from danzar_gpu.simulate.writing import as_yaml

MAX_SEEDS = 10_000
BAR_STEPS = 200
MOST_READINGS = 6000
"""Of each card; of a longer record the fullest readings are taken."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; ``--config`` belongs to ``danzar`` as a whole."""
    parser.add_argument(
        "trace", metavar="TRACE.yaml", nargs="?", type=named_path, help="see docs/simulate.md"
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
        "--plot",
        type=named_path,
        metavar="FILE.png",
        help="draw memory by holder over time (seed 0)",
    )
    parser.add_argument(
        "--decisions",
        action="store_true",
        help="tell what each policy decided when, and why (seed 0)",
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
        "--save-trace", type=named_path, metavar="FILE.yaml", help="write the trace that is played"
    )


def _seeds(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= MAX_SEEDS:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_SEEDS}")


def _span(text: str) -> float:
    """Seconds of ``90m``, ``24h``, ``7d``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|d)", text.strip().lower())
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0
    if not 0 < seconds <= LONGEST_SECONDS:
        most = f"{LONGEST_SECONDS / DAY_SECONDS:g}d"
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time such as 90m, 24h or 7d, at most {most}"
        )
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
    for late in unplayed(trace):
        print(f"danzar simulate: {late}", file=sys.stderr)
    plot: Path | None = args.plot
    try:
        if plot is not None:
            check(plot)
        if args.save_trace is not None and not _saved(trace, args.save_trace):
            return Exit.FAILED
        record = plot is not None or args.decisions
        outcomes, scores = _contest(trace, policies, args.seeds, record=record)
        told = {n: journal(trace, s) for n, s in scores.items()} if args.decisions else {}
        if args.json:
            print(json.dumps(as_json(trace, outcomes, args.seeds, told), indent=2))
        else:
            print_table(trace, outcomes, args.seeds)
            print_journals(told)
        if plot is not None:
            draw(trace, scores, plot)
    except (_PolicyFailed, PlotUnavailable) as error:
        print(f"danzar simulate: {error}", file=sys.stderr)
        return Exit.FAILED
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
            found.predicted_bytes,
        )
        for found in configured
    ]


def _saved(trace: Trace, path: Path) -> bool:
    try:
        path.write_text(as_yaml(trace, trace.description), encoding="utf-8")
    except OSError as error:
        print(f"danzar simulate: {path} can't be written: {why(error, path)}", file=sys.stderr)
        return False
    print(f"wrote {path}", file=sys.stderr)
    return True


class _PolicyFailed(Exception):
    """A policy raised; it is somebody's own code, so the message says what and where."""


def _contest(
    trace: Trace, policies: Mapping[str, Callable[[], Policy]], seeds: int, *, record: bool
) -> tuple[list[Outcome], dict[str, Score]]:
    """What came of each policy, and how the trace itself (seed 0) went, for the picture."""
    outcomes: list[Outcome] = []
    written: dict[str, Score] = {}
    with progress_bar() as bar:
        task = bar.add_task("simulating", total=seeds * len(policies))
        for name, make in policies.items():
            runs: list[Mapping[str, float]] = []
            for seed in range(seeds):
                done = len(outcomes) * seeds + seed
                bar.update(task, description=f"{name}, seed {seed}", completed=done)
                watch = None if bar.disable else _share(trace, bar, task, done)
                try:
                    score = play(trace, make(), seed, record=record and seed == 0, watch=watch)
                except Exception as error:
                    if name in POLICIES:
                        raise
                    where = f"{type(error).__name__}: {error}"
                    raise _PolicyFailed(f"the policy {name} failed: {where}") from error
                runs.append(score.values())
                if seed == 0:
                    written[name] = score
            outcomes.append(Outcome(trace.name, name, tuple(runs)))
    return outcomes, written


def _share(trace: Trace, bar: Progress, task: TaskID, done: int) -> Watch:
    """Moves the bar within a run, in steps that can be seen: events come by the thousand."""
    shown = 0.0

    def watch(at: float) -> None:
        nonlocal shown
        if at >= shown + trace.end / BAR_STEPS:
            shown = at
            bar.update(task, completed=done + at / trace.end)

    return watch
