"""The pipeline on a card, with the memory that it takes there.

A card may be lent for minutes: what counts most is measured first, and what goes wrong later costs
nothing that is known already.
"""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Sequence

from benchmarks.our_worker import our_worker
from benchmarks.parts.pipeline import Models, Row, bars, rows_on, shipped, table, well_known
from benchmarks.process import surroundings
from benchmarks.results import Result, Table, Target, number
from benchmarks.runs import Run
from bot.vision.worker.protocol import Destination
from danzar_gpu.memory import GIB, DeviceMemory
from danzar_gpu.probes import ProbeError, open_probe

CARD = "cuda:0"
ASK = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"
ASK_SECONDS = 180.0
SPEED = "Both models on 1080p frames on a card"
MEMORY = "Both models on a card, CUDA context included"


async def measure(run: Run) -> Result:
    result = Result("Pipeline on a card")
    name, why = _card()
    if not name:
        result.skipped = (
            "torch can use no NVIDIA card here; on a machine with one: `python -m benchmarks gpu`"
        )
        result.notes += [f"torch said: {why}"] if why else []
        result.targets.append(Target.unknown(SPEED, "at least 5x", "not measured: no card"))
        return result
    result.title = f"Pipeline on {name}"
    there = _reading()
    destination = Destination(device=CARD, uuid=there.uuid if there else None, card=name)
    known = well_known(await run.models())
    await run.films()
    # While nothing of ours was on the card: where the driver does not know our process by its
    # number the card's memory before and after is all there is.
    try:
        result.tables.append(await _memory(run, result, known, destination))
    except Exception as error:  # whatever it was: the card is there for the rest
        _failed(result, MEMORY, "under 1 GiB", error)
    rows: list[Row] = []
    for pair in (known,) if run.quick else (known, shipped()):
        try:
            rows += (await rows_on(run, destination, ("default",), [(pair, "both")]))[0]
        except Exception as error:
            _failed(result, f"{SPEED} ({pair.title})", "at least 5x", error)
    if rows:
        result.tables.insert(0, table(rows))
    result.bars = bars(rows)
    result.targets += _targets(rows)
    return result


def _failed(result: Result, what: str, wanted: str, error: BaseException) -> None:
    """Say what was seen, and go on."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"{what}:", "".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
    result.failed = True
    result.notes.append(f"**{what} could not be measured:** {words}")
    result.targets.append(Target.unknown(what, wanted, "it failed, see above"))


def _card() -> tuple[str, str]:
    """The first card's name, asked in a process of its own; else empty, and torch's words."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", ASK],
            env=surroundings(),
            capture_output=True,
            text=True,
            check=False,
            timeout=ASK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "", f"nothing in {ASK_SECONDS:.0f} s"
    return asked.stdout.strip(), asked.stderr.strip()[-500:]


async def _memory(run: Run, result: Result, models: Models, destination: Destination) -> Table:
    """What both models take on the card, as torch's allocator and the driver tell."""
    before = _reading()
    async with our_worker(models.settings(run.folder), ("yolo", "clip"), run.threads) as worker:
        await worker.load(1, destination)
        await worker.play(run.folder / "moving.mp4")
        pong = await worker.worker.memory()
        after = _reading()
        pid, backend = worker.worker.pid, worker.backend
    reserved = sum(h.reserved_bytes for h in pong.held)
    context = sum(h.context_bytes for h in pong.held)
    rows = [("torch's allocator", _gib(reserved))]
    if context:
        rows.append(("the CUDA context when it was made", _gib(context)))
    found, who = _taken(before, after, pid)
    if found is None:
        why = "the driver told nothing"
        result.targets.append(Target.unknown(MEMORY, "under 1 GiB", why))
    elif found < reserved:
        # Somebody gave memory back meanwhile: as our figure it would be too good to be true.
        rows.append((f"{who} (less than the allocator holds: no figure of ours)", _gib(found)))
        result.targets.append(
            Target.unknown(MEMORY, "under 1 GiB", "another program changed the card's memory")
        )
    else:
        rows.append((who, _gib(found)))
        result.targets.append(Target(MEMORY, "under 1 GiB", _gib(found), found < GIB))
    title = f"Memory of both models ({models.title}, one by one, {backend})"
    return Table(title, ("as told by", "taken"), list(rows))


def _taken(
    before: DeviceMemory | None, after: DeviceMemory | None, pid: int
) -> tuple[int | None, str]:
    """What the driver says that our process holds, and how it says so."""
    for process in after.processes or () if after else ():
        if process.pid == pid and process.used_bytes:
            return process.used_bytes, "the driver, CUDA context included"
    if before is None or after is None:
        return None, ""
    # WDDM keeps no accounts, and in a container the driver has another pid.
    who = "the driver: the card's memory before and after, CUDA context included"
    return before.free_bytes - after.free_bytes, who


def _reading() -> DeviceMemory | None:
    """The first card that CUDA has, with its processes; ``None`` where the driver is silent."""
    try:
        probe = open_probe("nvml")
        try:
            return probe.read(0.0, processes=True).device(0)
        finally:
            probe.close()
    except ProbeError:
        return None


def _gib(size: int) -> str:
    return f"{number(size / GIB)} GiB"


def _targets(rows: Sequence[Row]) -> list[Target]:
    return [
        Target.at_least(f"{SPEED} ({row.case.models})", 5.0, row.times)
        for row in rows
        if row.case.which == "both" and row.case.batch == 1 and row.case.film == "moving"
    ]
