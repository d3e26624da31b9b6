"""Whether the shipped models say as much that is right on each backend as in torch."""

from __future__ import annotations

from benchmarks.machine import describe
from benchmarks.process import subject
from benchmarks.results import Result, Table, Target, number
from benchmarks.runs import Run

LEAST_AGREEMENT = 0.5
"""Points of 100."""


async def measure(run: Run) -> Result:
    result = Result("Accuracy by backend")
    # Of 260 scenes one that goes another way is 0.4 points.
    count = run.choose(260, 26)
    run.tell(0.1, "accuracy: loading the models with each backend")
    async with subject("benchmarks.subjects.accuracy", str(run.folder / "accuracy")) as program:
        run.tell(0.3, f"accuracy: {count} scenes")
        scores = (await program.ask({"scenes": count}))["scores"]
    measures = list(next(iter(scores.values())))
    rows = [(name, *(f"{100 * said[m]:.2f}" for m in measures)) for name, said in scores.items()]
    headers = ("backend", "YOLO, mAP50 in %", "CLIP, first concept right in %")
    result.tables.append(Table("", headers, rows))
    result.notes.append(
        f"The shipped models on {count} held-out scenes for each, the same for each backend: "
        "`models.backends` does it with more."
    )
    (reference, expected), *others = scores.items()
    what, wanted = f"Scores against {reference}", f"within {LEAST_AGREEMENT} points"
    for name, said in others:
        far = 100 * max(abs(said[m] - expected[m]) for m in measures)
        words = f"{number(far)} points apart"
        result.targets.append(Target(f"{what}: {name}", wanted, words, far <= LEAST_AGREEMENT))
    if not describe().has_bf16:
        why = "not measured: this processor has no bf16"
        result.targets.append(Target.unknown(f"{what}: OpenVINO bf16", wanted, why))
    return result
