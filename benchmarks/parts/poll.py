"""What one look at the cards costs, against the tools that people use for it."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measuring import Spread, Subject, interleaved, ratio
from benchmarks.process import Subject as Program
from benchmarks.process import subject
from benchmarks.results import Bar, Result, Table, Target, shown
from benchmarks.runs import Run
from tests.standin.nvml import GUIDE, STILL_VARIABLE, StandinNvml, build

TIMES = {"Danzar": 2000, "pynvml": 2000, "nvitop": 1000, "gpustat": 5, "GPUtil": 5}
PEERS = ("nvitop", "gpustat", "GPUtil")
READS = {
    "Danzar": "memory, utilisation, temperature, power; as typed objects",
    "pynvml": "memory, utilisation; the bare calls",
    "nvitop": "`memory_info()`, `utilization_rates()`",
    "gpustat": "`new_query()`: everything, with processes",
    "GPUtil": "`getGPUs()`: starts nvidia-smi (here a script that prints at once)",
}
SMI_LINE = "%d, %s, 37, 12288, 7270, 5018, 580.95.05, %s, 0, Disabled, Disabled, 61"


async def measure(run: Run) -> Result:
    result = Result("Polling the cards")
    if missing := [name for name in PEERS if find_spec(name) is None]:
        result.skipped = f"{', '.join(missing)} must be there: pip install -e '.[bench]'"
        return result
    try:
        driver = build(run.folder)
    except FileNotFoundError as error:
        result.skipped = str(error)
        return result
    standin = StandinNvml(driver, run.folder / "scenario.txt")
    standin.write(GUIDE)
    folder = _fake_smi(run.folder)
    environment = standin.environment(**{STILL_VARIABLE: "1"})
    environment["PATH"] = f"{folder}:{environment.get('PATH', '')}"
    rounds = run.choose(7, 3)
    done = 0

    def step(name: str) -> None:
        nonlocal done
        run.tell(done / (rounds * len(TIMES)), f"poll: {name}")
        done += 1

    async with subject("benchmarks.subjects.poll", env=environment) as program:
        subjects = {who: _asking(program, who, times) for who, times in TIMES.items()}
        samples = await interleaved(subjects, rounds, step)
    ours = samples["Danzar"]
    rows: list[tuple[str, ...]] = []
    for who, taken in samples.items():
        times = "" if who == "Danzar" else shown(ratio(taken, ours), "x")
        rows.append((who, READS[who], shown(Spread.of(taken)), times))
    result.tables.append(Table("", ("who", "reads", "µs a card and poll", "ratio"), rows))
    result.notes.append(
        "On a stand-in driver in C that answers at once, so this is the cost of the Python round "
        "it: what a real driver takes comes on top for everybody."
    )
    result.targets = [
        Target.at_most("A poll, a card and tick", 5.0, Spread.of(ours), " µs"),
        Target.at_least("A poll against nvitop's", 5.0, ratio(samples["nvitop"], ours)),
        Target.at_least("A poll against gpustat's query", 1000.0, ratio(samples["gpustat"], ours)),
    ]
    result.bars = [
        Bar(f"poll: {who}", ratio(samples[who], ours)) for who in samples if who != "Danzar"
    ]
    return result


def _asking(program: Program, who: str, times: int) -> Subject:
    async def once() -> float:
        return (await program.ask({"who": who, "times": times}))["microseconds"]

    return once


def _fake_smi(folder: Path) -> Path:
    """A folder with an ``nvidia-smi`` that prints two cards and does nothing else."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    script = place / "nvidia-smi"
    cards = [SMI_LINE % (n, card.uuid, "RTX 4070") for n, card in enumerate(GUIDE.cards)]
    script.write_text(
        f"#!{shutil.which('sh')}\nprintf '%s\\n' " + " ".join(f"'{c}'" for c in cards) + "\n",
        encoding="utf-8",
    )
    script.chmod(0o755)
    return place
