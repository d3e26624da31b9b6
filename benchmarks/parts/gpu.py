"""The pipeline on a card, with the memory that it takes there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from benchmarks.our_worker import our_worker
from benchmarks.parts.pipeline import Row, bars, rows_on, table, well_known
from benchmarks.process import surroundings
from benchmarks.results import Result, Table, Target, number
from benchmarks.runs import Run
from bot.vision.worker.protocol import Destination

CARD = Destination(device="cuda:0")
ASK = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"


async def measure(run: Run) -> Result:
    result = Result("Pipeline on a card")
    if not (card := _card()):
        result.skipped = (
            "torch can use no NVIDIA card here; on a machine with one: `python -m benchmarks gpu`"
        )
        result.targets.append(
            Target.unknown(
                "Both models on 1080p frames on a card", "at least 5x", "not measured: no card"
            )
        )
        return result
    rows, _ = await rows_on(run, CARD, ("default",))
    result.title = f"Pipeline on {card}"
    result.tables = [table(rows), await _memory(run, result)]
    result.bars = bars(rows)
    result.targets += _targets(rows)
    return result


def _card() -> str:
    """The first card's name, asked in a process of its own; empty where there is none."""
    asked = subprocess.run(
        [sys.executable, "-c", ASK], env=surroundings(), capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()


async def _memory(run: Run, result: Result) -> Table:
    """What both models take on the card, as torch's allocator and the driver tell."""
    models = well_known(await run.models())
    before = _card_bytes()
    async with our_worker(models.settings(run.folder), ("yolo", "clip"), run.threads) as worker:
        await worker.load(1, CARD)
        await worker.play(run.folder / "moving.mp4")
        held = await worker.worker.memory()
        driver = _driver_bytes(worker.worker.pid)
        after = _card_bytes()
    reserved = sum(h.reserved_bytes for h in held.held)
    rows = [("torch's allocator", f"{number(reserved / (1 << 30))} GiB")]
    who = "the driver, CUDA context included"
    if driver is None and before is not None and after is not None:
        # WDDM keeps no accounts, and in a container the driver has another pid.
        who = "the driver: the card's memory before and after, CUDA context included"
        driver = after - before
    if driver is not None:
        rows.append((who, f"{number(driver / (1 << 30))} GiB"))
        result.targets.append(
            Target(
                "Both models on a card, CUDA context included",
                "under 1 GiB",
                f"{number(driver / (1 << 30))} GiB",
                driver < 1 << 30,
            )
        )
    return Table("Memory of both models", ("as told by", "taken"), list(rows))


def _driver_bytes(pid: int) -> int | None:
    """What the driver counts for a process; ``None`` where it keeps no account."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        for row in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if row.pid == pid and row.usedGpuMemory is not None:
                return int(row.usedGpuMemory)
    except pynvml.NVMLError:
        return None
    return None


def _card_bytes() -> int | None:
    """What all processes hold on the card."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    except pynvml.NVMLError:
        return None


def _targets(rows: Sequence[Row]) -> list[Target]:
    return [
        Target.at_least(
            f"Both models on 1080p frames on a card ({row.case.models})", 5.0, row.times
        )
        for row in rows
        if row.case.which == "both" and row.case.batch == 1 and row.case.film == "moving"
    ]
