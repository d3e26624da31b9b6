"""What makes a 1080p frame ready for CLIP, against open_clip's own transform."""

from __future__ import annotations

from benchmarks.measuring import Spread, Subject, interleaved, ratio
from benchmarks.process import Subject as Program
from benchmarks.process import subject
from benchmarks.results import Bar, Result, Table, Target, shown
from benchmarks.runs import Run
from bot.vision.model_files import locate

WANTED_COSINE = 0.999


async def measure(run: Run) -> Result:
    result = Result("Preprocessing for CLIP")
    folder = await run.films()
    # Trained weights: with random ones any two pictures are much alike.
    model = locate("models/clip-tiny")
    arguments = [str(model), str(folder / "moving.mp4")]
    rounds = run.choose(7, 3)
    run.tell(0.1, "preprocessing")
    async with subject("benchmarks.subjects.preprocessing", *arguments) as program:
        ways = {way: _asking(program, way) for way in ("ours", "open_clip")}
        samples = await interleaved(ways, rounds, lambda way: run.tell(0.5, f"preprocess: {way}"))
        alike = await program.ask({"way": "compare"})
    times = ratio(samples["open_clip"], samples["ours"])
    cosine = alike["least_cosine"]
    row = (
        shown(Spread.of(samples["ours"])),
        shown(Spread.of(samples["open_clip"])),
        shown(times, "x"),
        f"{cosine:.6f}",
    )
    headers = ("Danzar, ms a frame", "open_clip (PIL), ms a frame", "ratio", "least cosine")
    result.tables.append(Table("", headers, [row]))
    result.notes.append(
        f"A 1080p frame in BGR to CLIP's input, one thread each; cosine of "
        f"the shipped model's embeddings of both, the least of {alike['frames']} frames."
    )
    result.targets = [
        Target.at_least("CLIP's preprocessing against open_clip's own", 5.0, times),
        Target(
            "Cosine between the two",
            f"at least {WANTED_COSINE}",
            f"{cosine:.6f}",
            cosine >= WANTED_COSINE,
        ),
    ]
    result.bars = [Bar("preprocessing for CLIP", times)]
    return result


def _asking(program: Program, way: str) -> Subject:
    async def once() -> float:
        return (await program.ask({"way": way}))["milliseconds"]

    return once
