"""``danzar watch``: the vision pipeline without Discord, one report a frame on standard output.

Standard output carries reports and nothing else; progress and warnings go to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from typing import Literal

from rich.console import Console

from bot.cli.arguments import positive
from bot.cli.exits import Exit
from bot.cli.source_argument import UsageError, capture_settings
from bot.loading import show_loading
from bot.settings import Settings
from bot.stopping import stop_on_signals
from bot.vision.pipeline import VisionPipeline
from bot.vision.reports import FrameReport
from bot.vision.worker.handle import WorkerFactory
from bot.vision.worker.protocol import SourceEnded
from danzar_gpu import GPUMemoryManager, ProbeUnavailable, open_probe
from danzar_gpu.probes import ProbeName

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; ``--config`` belongs to ``danzar`` as a whole."""
    parser.add_argument(
        "--source",
        default=None,
        metavar="screen|scene|region|PATH|URL",
        help="what to watch: the screen, the rendered scene, the configured region, a video "
        "file, a folder of images, or a stream; as configured if left out",
    )
    parser.add_argument(
        "--frames", type=positive, default=None, metavar="N", help="end after N reports"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a frame")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Watch until enough was seen; returns the exit status."""
    try:
        watched = settings.model_copy(
            update={"capture": capture_settings(settings.capture, args.source)}
        )
    except UsageError as error:
        print(f"danzar watch: {error}", file=sys.stderr)
        return Exit.CONFIGURATION
    return asyncio.run(_watch(watched, args.frames, as_json=args.json, probe=args.probe))


async def _watch(
    settings: Settings,
    frames: int | None,
    *,
    as_json: bool,
    probe: ProbeName,
    worker_factory: WorkerFactory | None = None,
) -> int:
    try:
        opened = await asyncio.to_thread(open_probe, probe)
    except ProbeUnavailable as error:
        print(f"danzar watch: GPU memory can't be read: {error}", file=sys.stderr)
        return Exit.PROBE
    manager = GPUMemoryManager(settings.gpu_memory, opened)
    await manager.start()
    pipeline = VisionPipeline(settings, manager, every_frame=True, worker_factory=worker_factory)
    reports: asyncio.Queue[FrameReport] = asyncio.Queue()
    pipeline.subscribe(reports.put_nowait)
    # Ctrl-C and a polite kill end it the same way; what was printed stays.
    asked_to_end = asyncio.Event()
    with stop_on_signals(asked_to_end):
        try:
            return await _follow(pipeline, reports, frames, as_json, asked_to_end)
        finally:
            await pipeline.stop()
            await manager.close()


async def _follow(
    pipeline: VisionPipeline,
    reports: asyncio.Queue[FrameReport],
    frames: int | None,
    as_json: bool,
    asked_to_end: asyncio.Event,
) -> int:
    asked = asyncio.create_task(asked_to_end.wait())
    try:
        starting = asyncio.create_task(_bring_up(pipeline))
        await asyncio.wait((asked, starting), return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return Exit.INTERRUPTED
        starting.result()
        if not _announce(pipeline):
            return Exit.FAILED
        assert pipeline.ended is not None
        printed = 0
        while frames is None or printed < frames:
            report = await _next(reports, pipeline.ended, asked)
            if report is None:
                break
            await asyncio.to_thread(_print, report, as_json)
            printed += 1
            await pipeline.consumed(1)
        if frames is not None and printed >= frames:
            return Exit.OK
        if asked.done():
            # Without a number to reach, Ctrl-C is how one ends it.
            return Exit.OK if frames is None else Exit.INTERRUPTED
        ending = pipeline.ended.result()
        print(f"danzar watch: {ending.words}", file=sys.stderr)
        return Exit.FAILED if ending.failed else Exit.OK
    finally:
        asked.cancel()


async def _next(
    reports: asyncio.Queue[FrameReport],
    ended: asyncio.Future[SourceEnded],
    asked: asyncio.Task[Literal[True]],
) -> FrameReport | None:
    """The next report; ``None`` when no more will come or nobody wants more."""
    if asked.done():
        return None
    if not reports.empty():
        return reports.get_nowait()
    getting = asyncio.create_task(reports.get())
    try:
        await asyncio.wait((getting, ended, asked), return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        # The end is told after the last report: what there is is in the queue.
        return None if asked.done() or reports.empty() else reports.get_nowait()
    finally:
        getting.cancel()


async def _bring_up(pipeline: VisionPipeline) -> None:
    """Start, and show how the models come in."""
    showing: asyncio.Task[None] | None = None
    starting = asyncio.create_task(pipeline.start())
    try:
        await asyncio.sleep(0)  # from here on its state is no longer "off"
        showing = asyncio.create_task(show_loading(pipeline, Console(stderr=True)))
        await starting
        settling = asyncio.create_task(pipeline.settle())
        assert pipeline.ended is not None
        await asyncio.wait((settling, pipeline.ended), return_when=asyncio.FIRST_COMPLETED)
        settling.cancel()
    finally:
        tasks = [task for task in (starting, showing) if task is not None]
        for task in tasks:
            task.cancel()
        # The bars are taken away before anything else is printed.
        await asyncio.gather(*tasks, return_exceptions=True)


def _announce(pipeline: VisionPipeline) -> bool:
    """Say on standard error what runs where; whether anything does."""
    if pipeline.state != "running":
        print(f"danzar watch: {pipeline.state_reason}", file=sys.stderr)
        return False
    if pipeline.ended is not None and pipeline.ended.done() and pipeline.ended.result().failed:
        print(f"danzar watch: {pipeline.ended.result().words}", file=sys.stderr)
        return False
    running = False
    for status in pipeline.services.values():
        if status.state == "running":
            running = True
            print(
                f"{status.name}: {status.model} on {status.device} ({status.reason})",
                file=sys.stderr,
            )
        else:
            print(f"{status.name}: {status.state} ({status.reason})", file=sys.stderr)
    if not running:
        print("danzar watch: no model runs, so there is nothing to report", file=sys.stderr)
    return running


def _print(report: FrameReport, as_json: bool) -> None:
    line = json.dumps(report.as_json(), ensure_ascii=False) if as_json else describe(report)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def describe(report: FrameReport) -> str:
    """One report as a line for people."""
    counts: dict[str, int] = {}
    for detection in report.detections:
        counts[detection.label] = counts.get(detection.label, 0) + 1
    seen = ", ".join(f"{n} x {label}" if n > 1 else label for label, n in counts.items())
    said = ", ".join(f"{i.text} {i.probability:.0%}" for i in report.insights[:3])
    when = f"{report.media_seconds:.2f} s" if report.media_seconds is not None else "now"
    parts = [
        f"#{report.sequence}",
        when,
        seen or "nothing detected",
        said or "nothing recognised",
        "unchanged" if report.unchanged else f"{report.milliseconds.get('total', 0):.0f} ms",
    ]
    return " · ".join(parts)
