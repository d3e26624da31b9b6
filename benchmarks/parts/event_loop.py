"""How late the bot's event loop is while models load and work, in three designs."""

from __future__ import annotations

from typing import Any

from benchmarks.bots import bot
from benchmarks.measuring import Spread
from benchmarks.results import Result, Table, Target, number, shown
from benchmarks.runs import Run

DESIGNS = {
    "inline": "inline: models in the event loop",
    "thread": "thread: models in `asyncio.to_thread`",
    "worker": "Danzar: models in a process of their own",
}


async def measure(run: Run) -> Result:
    result = Result("The event loop's delay")
    await run.films()
    rounds = run.choose(3, 1)
    seconds = run.choose(8, 4)
    loads: dict[str, list[dict[str, Any]]] = {name: [] for name in DESIGNS}
    works: dict[str, list[dict[str, Any]]] = {name: [] for name in DESIGNS}
    for number_ in range(rounds):
        for place, design in enumerate(DESIGNS):
            done = (number_ * len(DESIGNS) + place) / (rounds * len(DESIGNS))
            run.tell(done, f"event loop: {design}")
            async with bot(run, design, autostart=False) as started:
                loads[design].append(await started.program.ask({"do": "load"}))
                question = {"do": "infer", "seconds": seconds}
                works[design].append(await started.program.ask(question))
    rows = [
        (
            words,
            shown(_of(loads[design], "worst")),
            shown(_of(works[design], "p50")),
            shown(_of(works[design], "p99")),
            shown(_of(works[design], "worst")),
            shown(_of(works[design], "frames_per_second")),
        )
        for design, words in DESIGNS.items()
    ]
    headers = ("design", "worst in load", "p50", "p99", "worst", "frames a second")
    result.tables.append(Table("Milliseconds", headers, rows))
    result.notes.append(
        "The real bot, its poller and a `!gpu status` each second; a task that wants to sleep for "
        f"5 ms notes how much later it wakes. Both shipped models load, then work for {seconds} s "
        "on 1080p film as fast as they can."
    )
    worst = max(sample["worst"] for sample in loads["worker"])
    result.targets = [
        Target.at_most(
            "Event loop's delay during inference, p99", 3.0, _of(works["worker"], "p99"), " ms"
        ),
        Target(
            "Event loop's worst delay while models load",
            "at most 50 ms",
            f"{number(worst)} ms in the worst of {rounds} rounds",
            worst <= 50.0,
        ),
    ]
    return result


def _of(samples: list[dict[str, Any]], key: str) -> Spread:
    return Spread.of([sample[key] for sample in samples])
