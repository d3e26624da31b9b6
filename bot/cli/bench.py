"""``danzar bench``: what vision takes on this machine with this configuration, and what to change.

The real worker runs each model on the CPU and, where the manager would let it, on a card. A
minute or less once the models are converted; nothing is kept but the converted models.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bot.cli.bench_findings import TITLES, CaptureRun, Findings, ModelRun, advise, limit
from bot.cli.exits import Exit
from bot.cli.progress import progress_bar
from bot.cores import usable
from bot.vision.clip import ClipService
from bot.vision.film_file import FPS
from bot.vision.measured_worker import MeasuredWorker, NothingSeen, measured_worker
from bot.vision.model_files import FileRefused
from bot.vision.service import HOLDER, ModelService, Plan
from bot.vision.worker.handle import ProcessWorker, WorkerFactory, WorkerGone, WorkerRefused
from bot.vision.yolo import YoloService
from danzar_gpu import AdmissionRefused, GPUMemoryManager, Lease, ProbeError, open_probe
from danzar_gpu.memory import gib

if TYPE_CHECKING:
    from bot.settings import Settings
    from danzar_gpu.probes import MemoryProbe

CAPTURE_SECONDS = 3.0
POLLS = 50
_ROOT = Path(__file__).resolve().parent.parent
Step = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Measure and tell; the exit status."""
    # Where a model goes is part of what is printed at the end.
    logging.getLogger("danzar_gpu").setLevel(logging.WARNING)
    try:
        probe = open_probe(args.probe)
    except ProbeError as error:
        print(f"GPU memory can't be read: {error}", file=sys.stderr)
        return Exit.PROBE
    try:
        findings = asyncio.run(_with_bar(settings, probe))
    except (WorkerGone, OSError) as error:
        print(f"danzar bench: the vision worker could not be used: {error}", file=sys.stderr)
        return Exit.FAILED
    if args.json:
        print(json.dumps(findings.as_json(settings), ensure_ascii=False, indent=2))
    else:
        show(findings, settings, Console())
    return Exit.OK if findings.models else Exit.FAILED


async def _with_bar(settings: Settings, probe: MemoryProbe) -> Findings:
    """Behind a progress bar on standard error, if somebody looks."""
    with progress_bar() as bar:
        # Film, poll, capture, and for each model loading, one by one, together; on two devices.
        task = bar.add_task("starting", total=3 + 2 * 3 * len(TITLES))
        return await measure(
            settings, probe, lambda words: bar.update(task, advance=1, description=words)
        )


async def measure(
    settings: Settings,
    probe: MemoryProbe,
    step: Step = lambda _: None,
    *,
    factory: WorkerFactory = ProcessWorker.start,
    capture_seconds: float = CAPTURE_SECONDS,
) -> Findings:
    """Everything, one after another, so that nothing disturbs what is measured.

    Raises:
        WorkerGone, OSError: the worker could not be started, or died.
    """
    threads = settings.vision.threads
    findings = Findings(usable(), threads, probe.source)
    step("reading the cards")
    await asyncio.to_thread(_poll, probe, findings)
    quiet = settings.gpu_memory.model_copy(update={"enable_memory_monitoring": False})
    manager = GPUMemoryManager(quiet, probe)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="danzar-bench-")))
        film = folder / "film.mp4"
        step("rendering a film")
        await _render(film)
        try:
            if findings.poll_microseconds is not None:
                await manager.refresh(max_age=0)
            limit_seconds = settings.vision.load_timeout_seconds
            async with measured_worker(threads, limit_seconds, factory) as worker:
                for service in (YoloService(settings, manager), ClipService(settings, manager)):
                    await _model(worker, service, manager, film, findings, step)
                step(f"capturing ({settings.capture.source})")
                await _capture(worker, settings, findings, capture_seconds)
        finally:
            await manager.close()
    return findings


def _poll(probe: MemoryProbe, findings: Findings) -> None:
    """What one reading of the cards costs. In a thread: a driver may be slow."""
    try:
        findings.cards = len(probe.read(time.monotonic(), processes=True).devices)
        findings.poll_source = probe.source  # known by now, and not before
        times: list[int] = []
        for _ in range(POLLS if findings.cards else 0):
            began = time.perf_counter_ns()
            probe.read(time.monotonic(), processes=False)
            times.append(time.perf_counter_ns() - began)
    except ProbeError as error:
        findings.problems.append(f"the cards could not be read: {error}")
        return
    if times:
        findings.poll_microseconds = statistics.median(times) / 1000


async def _render(film: Path) -> None:
    """The film, made in a process of its own: it takes numpy and OpenCV."""
    search = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "bot.vision.film_file",
        str(film),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search},
    )
    _, errors = await process.communicate()
    if process.returncode:
        last = errors.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no words"]
        raise OSError(f"the film could not be rendered ({last[0][:200]})")


async def _model(
    worker: MeasuredWorker,
    service: ModelService,
    manager: GPUMemoryManager,
    film: Path,
    findings: Findings,
    step: Step,
) -> None:
    """One model on the card that it may have, and on the CPU."""
    title = TITLES[service.name]
    if not service.enabled:
        findings.problems.append(f"{title} is off in the configuration ({service.name}.enabled)")
        return
    try:
        plan = await asyncio.to_thread(service.plan)
    except FileRefused as error:
        findings.problems.append(f"{title} can't be measured: {error}")
        return
    lease: Lease | None = None
    try:
        # As the bot would ask: what an LLM or a game holds or has reserved is not touched.
        lease = await manager.acquire(service.name, plan.need, holder=HOLDER, policy="cpu")
        findings.destined[service.name] = lease.device
        findings.reasons[service.name] = lease.reason
    except AdmissionRefused as error:
        findings.destined[service.name] = "cpu"
        findings.reasons[service.name] = str(error)
    try:
        for device in dict.fromkeys((findings.destined[service.name], "cpu")):
            try:
                run = await _on_device(worker, service, plan, device, film, step)
                findings.models.append(run)
            except (WorkerRefused, NothingSeen, TimeoutError) as error:
                why = str(error) or "it was not ready in time"
                findings.problems.append(f"{title} on {device} can't be measured: {why}")
                if device != "cpu":
                    findings.destined[service.name] = "cpu"
        held = await worker.memory()
        findings.worker_bytes = max(findings.worker_bytes, held.resident_bytes)
    finally:
        if lease is not None:
            lease.release()


async def _on_device(
    worker: MeasuredWorker,
    service: ModelService,
    plan: Plan,
    device: str,
    film: Path,
    step: Step,
) -> ModelRun:
    """Load, look at a film in batches and frame by frame, unload."""
    title = TITLES[service.name]
    request = service.load_request(plan, device).model_copy(update={"may_fall_to_cpu": False})
    step(f"{title} on {device}: loading")
    placed = await worker.load(request)
    try:
        step(f"{title} on {device}: in batches")
        await worker.play(film, FPS)  # once for kernels and caches
        together = await worker.play(film, FPS)
        alone = request.spec.model_copy(update={"batch_size": 1})
        step(f"{title} on {device}: frame by frame")
        again = await worker.load(request.model_copy(update={"spec": alone}))
        single = await worker.play(film, FPS)
    finally:
        await worker.unload(service.name)
    if not (single.milliseconds(service.name) and together.milliseconds(service.name)):
        raise NothingSeen("the model looked at no frame")
    taken = placed.weights_bytes + (placed.activations_bytes or 0)
    return ModelRun(
        model=service.name,
        name=plan.model,
        device=device,
        backend=again.backend,
        milliseconds=statistics.median(single.milliseconds(service.name)),
        batched_milliseconds=statistics.median(together.milliseconds(service.name)),
        cpu_seconds=single.cpu_seconds / single.frames,
        load_seconds=placed.seconds,
        card_bytes=taken if placed.on_card else None,
        notes=placed.notes,
    )


async def _capture(
    worker: MeasuredWorker, settings: Settings, findings: Findings, seconds: float
) -> None:
    try:
        seen = await worker.watch(settings.capture, seconds)
    except (NothingSeen, WorkerRefused) as error:
        findings.problems.append(f"nothing could be captured: {error}")
        return
    first = seen.reports[0]
    findings.capture = CaptureRun(
        source=seen.source or settings.capture.source,
        milliseconds=statistics.median(seen.milliseconds("capture") or [0.0]),
        gate_milliseconds=statistics.median(seen.milliseconds("gate") or [0.0]),
        frames_per_second=seen.frames / seen.seconds,
        width=first.width,
        height=first.height,
    )


def show(findings: Findings, settings: Settings, console: Console) -> None:
    """Everything for people."""
    table = Table(title=f"1080p film, {findings.threads} of {findings.cores} cores for vision")
    for name in ("model", "on", "by", "ms a frame", "in batches", "at most", "cores", "card"):
        table.add_column(name, overflow="fold")
    for run in findings.models:
        table.add_row(
            Text(f"{TITLES[run.model]} {run.name}"),
            run.device,
            Text(run.backend),
            f"{run.milliseconds:.1f}",
            f"{run.batched_milliseconds:.1f}",
            f"{run.frames_per_second:.0f} frames/s",
            f"{run.cpu_seconds * 1000 / run.milliseconds:.1f}",
            f"{gib(run.card_bytes):.2f} GB" if run.card_bytes is not None else "",
        )
    if findings.models:
        console.print(table)
    for model, device in findings.destined.items():
        console.print(Text(f"{TITLES[model]} would live on {device}: {findings.reasons[model]}"))
    if findings.worker_bytes:
        console.print(f"The worker took up to {gib(findings.worker_bytes):.2f} GB of main memory.")
    console.print(Text(_capture_words(findings)))
    console.print(Text(_poll_words(findings)))
    for run in findings.models:
        for note in run.notes:
            console.print(Text(f"{TITLES[run.model]} on {run.device}: {note}"))
    for problem in findings.problems:
        console.print(Text(f"Not measured: {problem}", style="yellow"))
    console.print(Text(f"\n{limit(findings, settings)}", style="bold"))
    advice = advise(findings, settings)
    if not advice:
        console.print("Nothing in the configuration needs to change.")
        return
    console.print("What you could change in the configuration:")
    for line in advice:
        console.print(Text(f"  {line.key}: {line.value}", style="cyan"))
        console.print(Text(f"      {line.why}"))


def _capture_words(findings: Findings) -> str:
    taken = findings.capture
    if taken is None:
        return "Nothing was captured."
    return (
        f"Capture from {taken.source}: {taken.milliseconds:.1f} ms a frame of {taken.width} x "
        f"{taken.height}, the check for changes {taken.gate_milliseconds:.1f} ms, "
        f"{taken.frames_per_second:.1f} frames a second."
    )


def _poll_words(findings: Findings) -> str:
    if findings.poll_source == "none" or not findings.cards:
        return "No NVIDIA card can be read here: vision is measured on the CPU alone."
    if findings.poll_microseconds is None:
        return "The cards can't be read now."
    words = (
        f"A reading of {findings.cards} card{'s' if findings.cards > 1 else ''} takes "
        f"{findings.poll_microseconds:.0f} µs ({findings.poll_source})."
    )
    if findings.poll_source == "simulated":
        words += " The cards are simulated: the models really ran on the CPU."
    return words
