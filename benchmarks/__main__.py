"""Danzar against what a person would write otherwise: ``python -m benchmarks``.

Without names all parts run and docs/performance.md is written, with its chart. With names
(``python -m benchmarks poll capture``) those parts run and their figures are printed. ``gpu``
needs a card, and writes its own section of docs/measurements.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.our_worker import NotComparable
from benchmarks.process import SubjectFailed
from benchmarks.report import Report, as_markdown, gpu_section, with_section
from benchmarks.results import Result
from benchmarks.runs import Part, opened
from bot.vision.measured_worker import NothingSeen
from bot.vision.worker.handle import WorkerGone, WorkerRefused

PARTS = {
    # Name: (module, roughly how many seconds of a full run).
    "pipeline": ("benchmarks.parts.pipeline", 330),
    "accuracy": ("benchmarks.parts.accuracy", 60),
    "preprocessing": ("benchmarks.parts.preprocessing", 15),
    "event-loop": ("benchmarks.parts.event_loop", 90),
    "startup": ("benchmarks.parts.startup", 80),
    "poll": ("benchmarks.parts.poll", 15),
    "capture": ("benchmarks.parts.capture", 15),
}
ON_REQUEST = {"gpu": ("benchmarks.parts.gpu", 150)}
FAILURES = (
    SubjectFailed,
    NotComparable,
    NothingSeen,
    WorkerGone,
    WorkerRefused,
    TimeoutError,
    OSError,
)
PAGE = Path("docs/performance.md")
CARDS_PAGE = Path("docs/measurements.md")


def main() -> int:
    known = {**PARTS, **ON_REQUEST}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n\n")[0] if __doc__ else None
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(known)} (default: all but gpu)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds")
    parser.add_argument(
        "--out", type=Path, help=f"write the page there (all parts, not quick: {PAGE})"
    )
    args = parser.parse_args()
    if unknown := [name for name in args.parts if name not in known]:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = {name: known[name] for name in args.parts or PARTS}
    report = asyncio.run(run_parts(chosen, quick=args.quick))
    report.left_out = tuple(name for name in PARTS if name not in chosen)
    if "gpu" in report.results and not report.results["gpu"][0].skipped:
        old = CARDS_PAGE.read_text(encoding="utf-8") if CARDS_PAGE.exists() else ""
        CARDS_PAGE.write_text(with_section(old, gpu_section(report)), encoding="utf-8")
        print(f"{CARDS_PAGE} has the cards' figures.")
    page = args.out or (PAGE if not args.parts and not args.quick else None)
    if page is None:
        print(as_markdown(report))
    else:
        from benchmarks.chart import draw

        picture = page.parent / "images" / "performance.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(report.bars, picture)
        page.write_text(as_markdown(report, picture=f"images/{picture.name}"), encoding="utf-8")
        print(f"{page} and {picture} are written.")
    return 1 if report.failed else 0


async def run_parts(chosen: dict[str, tuple[str, int]], *, quick: bool) -> Report:
    """Run them one after another behind a progress bar."""
    report = Report.begin(quick=quick)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=sum(seconds for _, seconds in chosen.values()))
        before = 0

        def tell(share: float, words: str) -> None:
            progress.update(bar, completed=before + share * seconds, description=words[:70])

        for name, (module, seconds) in chosen.items():
            if not console.is_terminal:
                print(f"{name} ...", file=sys.stderr, flush=True)
            began = time.monotonic()
            part: Part = import_module(module).measure
            tell(0.0, name)
            async with opened(quick, tell) as run:
                try:
                    result = await part(run)
                except FAILURES as error:
                    result = Result(name, skipped=f"it failed: {error}")
                    report.failed = True
            report.failed = report.failed or result.failed
            report.add(name, result, time.monotonic() - began)
            before += seconds
    report.end()
    return report


if __name__ == "__main__":
    raise SystemExit(main())
