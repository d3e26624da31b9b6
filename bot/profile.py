"""``danzar profile``: what is known of each model on each kind of device.

Footprints, loads, moves and latencies come from the history that the bot keeps, so that they are
there without a running bot, too.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bot.cli.exits import Exit
from danzar_gpu.history import HistoryStore, Measurement, MoveKind, MoveRecord
from danzar_gpu.latency import Histogram
from danzar_gpu.learning import FootprintBook
from danzar_gpu.memory import gib
from danzar_gpu.records import Recorded, read_store

if TYPE_CHECKING:
    from bot.context import AppContext
    from bot.settings import Settings

MOVES_SHOWN = 20
"""For each model and device."""
MOVES_PRINTED = 12


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one kind of move took, over all that are on record."""

    count: int
    median_seconds: float
    worst_seconds: float


@dataclass(frozen=True, slots=True)
class MoveLine:
    """One move, as people read it."""

    at: float
    """Unix time."""
    kind: MoveKind
    from_device: str
    to_device: str
    seconds: float
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """One model on one kind of device. Sizes in bytes; ``None``: not known (yet)."""

    model: str
    """Weights, precision, image size and batch: ``yolo-nano.pt fp32 640px x4``."""
    service: str
    """``yolo`` or ``clip`` where the configuration has this model, else empty."""
    device_name: str
    """``RTX 4070``, or ``CPU``; empty where a model of the configuration never ran."""
    predicted_bytes: int | None
    """What was expected before it was ever measured; sizes are without the CUDA context."""
    measured_bytes: int | None
    """What admission uses now: a high percentile of what was measured."""
    measurements: int
    """How often it was measured there."""
    fell_bytes: int | None
    """What it needed at least when it last ran out of memory there."""
    load: Timing | None
    offload: Timing | None
    """Leaving this card, parking included."""
    restore: Timing | None
    """Coming back onto this card."""
    move: Timing | None
    """Coming here from another card."""
    frames: int
    p50_ms: float | None
    """Milliseconds a frame; a percentile is at most 2.5 % off."""
    p95_ms: float | None
    p99_ms: float | None
    moves: tuple[MoveLine, ...] = ()
    """The newest ones, the latest last."""


@dataclass(frozen=True, slots=True)
class Configured:
    """A model of the configuration."""

    service: str
    model: str
    """Its name alone, with which keys of measurements begin."""
    predicted_bytes: int | None


async def profiles(context: AppContext) -> tuple[ModelProfile, ...]:
    """Everything that the running bot knows, of this run and of earlier ones."""
    recorded = await context.gpu_memory_manager.records.read()
    configured = [
        Configured(name, status.model, status.predicted_bytes or None)
        for name, status in context.vision.services.items()
        if status.model
    ]
    return profiles_of(recorded, configured)


def profiles_of(
    recorded: Recorded, configured: Iterable[Configured] = ()
) -> tuple[ModelProfile, ...]:
    """Each model on each kind of device; the configured ones first. Pure."""
    wanted = tuple(configured)
    book = FootprintBook(recorded.measurements)
    keys = {
        (row.model, row.device_name)
        for rows in (recorded.measurements, recorded.moves, recorded.latencies)
        for row in rows
    }
    found = [_profile(model, device, recorded, book, wanted) for model, device in keys]
    ran = {profile.service for profile in found}
    found += [_unseen(model) for model in wanted if model.service not in ran]
    return tuple(
        sorted(
            found,
            key=lambda p: (
                not p.service,
                p.service,
                p.model,
                p.device_name == "CPU",
                p.device_name,
            ),
        )
    )


def _profile(
    model: str,
    device_name: str,
    recorded: Recorded,
    book: FootprintBook,
    configured: tuple[Configured, ...],
) -> ModelProfile:
    def mine(row: Measurement | MoveRecord) -> bool:
        return (row.model, row.device_name) == (model, device_name)

    service = next((c for c in configured if model.startswith(f"{c.model} ")), None)
    measured = [m for m in recorded.measurements if mine(m)]
    predictions = [m.predicted_bytes for m in measured if m.predicted_bytes is not None]
    falls = [m for m in measured if m.fell]
    need = book.expected(model, device_name) if measured else None
    moves = [m for m in recorded.moves if mine(m)]
    latencies = Histogram()
    for account in recorded.latencies:
        if (account.model, account.device_name) == (model, device_name):
            latencies.merge(account.buckets)
    predicted = predictions[-1] if predictions else service.predicted_bytes if service else None
    return ModelProfile(
        model=model,
        service=service.service if service else "",
        device_name=device_name,
        predicted_bytes=predicted,
        measured_bytes=need.model_bytes if need is not None else None,
        measurements=len(measured) - len(falls),
        fell_bytes=falls[-1].footprint.model_bytes if falls else None,
        load=_timing(moves, "load"),
        offload=_timing(moves, "offload", "park"),
        restore=_timing(moves, "restore"),
        move=_timing(moves, "move"),
        frames=latencies.count,
        p50_ms=latencies.percentile(0.50),
        p95_ms=latencies.percentile(0.95),
        p99_ms=latencies.percentile(0.99),
        moves=tuple(
            MoveLine(m.at, m.kind, m.from_device, m.to_device, m.seconds, m.bytes, m.reason)
            for m in moves[-MOVES_SHOWN:]
        ),
    )


def _unseen(model: Configured) -> ModelProfile:
    return ModelProfile(
        model=model.model,
        service=model.service,
        device_name="",
        predicted_bytes=model.predicted_bytes,
        measured_bytes=None,
        measurements=0,
        fell_bytes=None,
        load=None,
        offload=None,
        restore=None,
        move=None,
        frames=0,
        p50_ms=None,
        p95_ms=None,
        p99_ms=None,
    )


def _timing(moves: Iterable[MoveRecord], *kinds: MoveKind) -> Timing | None:
    # A fall is done by the worker in between two frames: it has no time of its own.
    took = [m.seconds for m in moves if m.kind in kinds and m.seconds > 0]
    return Timing(len(took), statistics.median(took), max(took)) if took else None


# --- the command -------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print the profiles; the exit status. Works beside a running bot and without one."""
    path = Path(settings.data.folder) / "history.sqlite3"
    configured, troubles = configured_models(settings)
    recorded = Recorded()
    if path.exists():
        try:
            recorded = read_store(HistoryStore(path))
        except (OSError, sqlite3.Error) as error:
            print(f"{path} can't be read: {error}", file=sys.stderr)
            print(
                "If an older Danzar wrote it, start the bot once: it brings the file up to date.",
                file=sys.stderr,
            )
            return Exit.FAILED
    found = profiles_of(recorded, configured)
    if args.json:
        content = {
            "history": str(path),
            "recorded": path.exists(),
            "troubles": troubles,
            "profiles": [asdict(profile) for profile in found],
        }
        print(json.dumps(content, ensure_ascii=False, indent=2))
        return Exit.OK
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    for trouble in troubles:
        console.print(trouble, markup=False)
    if not path.exists():
        console.print(
            f"Nothing was recorded yet: {path} does not exist. Run the bot (`danzar`) with vision "
            "on a card; predictions are all that is known until then.",
            markup=False,
        )
    console.print(table(found))
    moves = recent_moves(found)
    if moves.row_count:
        console.print(moves)
    return Exit.OK


def configured_models(settings: Settings) -> tuple[list[Configured], list[str]]:
    """The models of the configuration as their files say; and what is wrong with them."""
    from bot.vision.clip import ClipService
    from bot.vision.model_files import FileRefused
    from bot.vision.yolo import YoloService
    from danzar_gpu import GPUMemoryManager
    from danzar_gpu.probes import NoProbe

    manager = GPUMemoryManager(settings.gpu_memory, NoProbe())
    found: list[Configured] = []
    troubles: list[str] = []
    for service in (YoloService(settings, manager), ClipService(settings, manager)):
        if not service.enabled:
            continue
        try:
            plan = service.plan()
        except FileRefused as error:
            troubles.append(f"{service.title}: {error}")
        else:
            found.append(Configured(service.name, plan.model, plan.need.model_bytes))
    return found, troubles


def table(found: Iterable[ModelProfile]) -> Table:
    """One line for each model and device."""
    shown = Table(title="What is known of each model", title_justify="left")
    shown.add_column("model")
    shown.add_column("device")
    for heading in (
        "GB\npredicted",
        "GB\nmeasured",
        "load s\nmedian (worst)",
        "leave s\nmedian (worst)",
        "return s\nmedian (worst)",
        "frames",
        "ms a frame\np50 / p95 / p99",
    ):
        shown.add_column(heading, justify="right")
    for profile in found:
        shown.add_row(
            Text(f"{profile.service}: {profile.model}" if profile.service else profile.model),
            Text(profile.device_name or "never run"),
            _gb(profile.predicted_bytes),
            _measured(profile),
            _seconds(profile.load),
            _seconds(profile.offload),
            _seconds(profile.restore or profile.move),
            f"{profile.frames:,}" if profile.frames else "-",
            _percentiles(profile),
        )
    return shown


def recent_moves(found: Iterable[ModelProfile]) -> Table:
    """The newest moves of all models, the latest last."""
    shown = Table(title="Latest moves", title_justify="left")
    for heading in ("when", "model", "what", "from", "to"):
        shown.add_column(heading)
    shown.add_column("s", justify="right")
    shown.add_column("MB", justify="right")
    shown.add_column("why", overflow="fold")
    lines = [(move, profile) for profile in found for move in profile.moves]
    for move, profile in sorted(lines, key=lambda line: line[0].at)[-MOVES_PRINTED:]:
        when = time.strftime("%m-%d %H:%M:%S", time.localtime(move.at))
        shown.add_row(
            when,
            Text(profile.service or profile.model),
            move.kind,
            move.from_device or "-",
            move.to_device or "-",
            f"{move.seconds:.2f}" if move.seconds else "-",
            f"{move.bytes / 2**20:.0f}" if move.bytes else "-",
            Text(move.reason),
        )
    return shown


def _gb(size: int | None) -> str:
    return "-" if size is None else f"{gib(size):.2f}"


def _measured(profile: ModelProfile) -> str:
    words = _gb(profile.measured_bytes)
    if profile.measurements:
        words += f" ({profile.measurements}x)"
    if profile.fell_bytes is not None:
        words += f"\nfell at {gib(profile.fell_bytes):.2f}"
    return words


def _seconds(timing: Timing | None) -> str:
    if timing is None:
        return "-"
    return f"{timing.median_seconds:.2f} ({timing.worst_seconds:.2f})"


def _percentiles(profile: ModelProfile) -> str:
    values = (profile.p50_ms, profile.p95_ms, profile.p99_ms)
    if not profile.frames:
        return "-"
    return " / ".join("-" if v is None else f"{v:.0f}" if v >= 100 else f"{v:.3g}" for v in values)
