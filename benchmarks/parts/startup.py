"""From the start of the process to the first answered `!gpu status`, and the memory it takes."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.bots import bot
from benchmarks.measuring import Spread, Subject, interleaved, ratio
from benchmarks.results import Bar, Result, Table, Target, number, shown
from benchmarks.runs import Run

DESIGNS = {
    "worker": "Danzar",
    "imported": "imports torch, open_clip, ultralytics first",
    "loaded": "imports them and loads both models first",
}
WARM_SECONDS = 5.0


async def measure(run: Run) -> Result:
    result = Result("Start and memory")
    await run.films()
    memory: dict[str, list[dict[str, Any]]] = {}

    def starting(design: str) -> Subject:
        async def once() -> float:
            async with bot(run, design, autostart=True) as started:
                seconds = started.first_answer_seconds
                taken = memory.setdefault(design, [])
                taken.append(await started.program.ask({"do": "memory"}))
            return seconds

        return once

    rounds = run.choose(5, 2)
    done = 0

    def step(name: str) -> None:
        nonlocal done
        run.tell(done / (rounds * len(DESIGNS) + 1), f"start: {DESIGNS[name]}")
        done += 1

    run.tell(0.0, "start: once for the compiled modules")
    await starting("worker")()
    memory.clear()
    samples = await interleaved({name: starting(name) for name in DESIGNS}, rounds, step)
    step("worker")
    running = await _running(run)
    ours = samples["worker"]
    rows: list[tuple[str, ...]] = []
    for name, words in DESIGNS.items():
        times = "" if name == "worker" else shown(ratio(samples[name], ours), "x")
        resident = Spread.of([m["bot_bytes"] / 1e6 for m in memory[name]])
        rows.append((words, shown(Spread.of(samples[name])), times, shown(resident)))
    result.tables.append(
        Table("", ("bot", "seconds to the first answer", "ratio", "MB then"), rows)
    )
    result.notes.append(
        "The real bot in all three rows, from the start of the process to the answer of "
        "`!gpu status`; Discord's login, which takes the same for all, is left out. Resident "
        "memory as the system counts it, in MB (10^6 bytes). While both shipped models run, "
        f"Danzar's bot process holds {number(running['bot_bytes'] / 1e6)} MB, its worker "
        f"{number(running['worker_bytes'] / 1e6)} MB."
    )
    result.targets = [
        Target.at_most("Start to the first `!gpu status`", 1.0, Spread.of(ours), " s"),
        Target.at_least(
            "First `!gpu status`, against a bot that imports vision at start",
            8.0,
            ratio(samples["imported"], ours),
        ),
        Target.at_most(
            "Bot process while vision runs", 80.0, _single(running["bot_bytes"] / 1e6), " MB"
        ),
        Target.at_most(
            "Worker on the CPU, shipped models",
            1200.0,
            _single(running["worker_bytes"] / 1e6),
            " MB",
        ),
    ]
    result.bars = [
        Bar(f"first answer: {DESIGNS[name]}", ratio(samples[name], ours))
        for name in ("imported", "loaded")
    ]
    return result


async def _running(run: Run) -> dict[str, Any]:
    """Memory of bot and worker while both models look at frames."""
    async with bot(run, "worker", autostart=False) as started:
        await started.program.ask({"do": "load"})
        await started.program.ask({"do": "infer", "seconds": WARM_SECONDS})
        await asyncio.sleep(0)
        return await started.program.ask({"do": "memory"})


def _single(value: float) -> Spread:
    return Spread.of([value])
