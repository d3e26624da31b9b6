"""What a 1080p frame of the screen costs, against the ways that examples on the web show."""

from __future__ import annotations

from benchmarks.measuring import Spread, Subject, interleaved, ratio
from benchmarks.process import Subject as Program
from benchmarks.process import subject
from benchmarks.results import Bar, Result, Table, shown
from benchmarks.runs import Run
from benchmarks.xvfb import NoScreen, screen

WAYS = {
    "Danzar": "Danzar: one mss, its buffer to BGR with OpenCV",
    "new": "a new mss for each frame, `np.array(...)[:, :, :3]` (not even contiguous)",
    "reused": "one mss, `np.ascontiguousarray(np.array(...)[:, :, :3])`",
    "rgb": "one mss, `shot.rgb`",
}


async def measure(run: Run) -> Result:
    result = Result("Capture")
    times = run.choose(60, 20)
    rounds = run.choose(5, 3)
    done = 0

    def step(name: str) -> None:
        nonlocal done
        run.tell(done / (rounds * len(WAYS)), f"capture: {name}")
        done += 1

    try:
        with screen() as display:
            environment = {"DISPLAY": display, "WAYLAND_DISPLAY": ""}
            async with subject("benchmarks.subjects.capture", env=environment) as program:
                subjects = {way: _asking(program, way, times) for way in WAYS}
                samples = await interleaved(subjects, rounds, step)
    except NoScreen as error:
        result.skipped = str(error)
        return result
    ours = samples["Danzar"]
    rows: list[tuple[str, ...]] = []
    for way, taken in samples.items():
        times_as_long = "" if way == "Danzar" else shown(ratio(taken, ours), "x")
        rows.append((WAYS[way], shown(Spread.of(taken)), times_as_long))
    result.tables.append(Table("", ("way", "ms a frame", "ratio"), rows))
    result.notes.append("A 1920 x 1080 screen of Xvfb. A real screen's driver may add to it.")
    result.bars = [Bar("capture: a new mss for each frame", ratio(samples["new"], ours))]
    return result


def _asking(program: Program, way: str, times: int) -> Subject:
    async def once() -> float:
        return (await program.ask({"way": way, "times": times}))["milliseconds"]

    return once
