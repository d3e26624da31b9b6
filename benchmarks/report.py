"""The page: machine, targets, tables, in Markdown."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass, field

from benchmarks.machine import Machine, describe, load_average
from benchmarks.results import Bar, Result, Table, Target

INTRODUCTION = """\
# Performance

Written by `make bench` (`python -m benchmarks`); nothing here is entered by hand. Every comparison
runs both sides in turns within one run, each in processes of its own. A figure is the median of
the rounds, with the lowest and the highest in parentheses. Ratios say how many times the other
way takes what Danzar takes; they carry over to other machines better than times do."""

SECTION_BEGIN = "<!-- made by `python -m benchmarks gpu`; don't edit -->"
SECTION_END = "<!-- end of what `python -m benchmarks gpu` made -->"


@dataclass(slots=True)
class Report:
    """A run's results, on one machine."""

    machine: Machine
    began_at: float
    quick: bool
    load_before: float | None
    load_after: float | None = None
    results: dict[str, tuple[Result, float]] = field(
        default_factory=dict[str, tuple[Result, float]]
    )
    seconds: float = 0.0
    failed: bool = False
    left_out: tuple[str, ...] = ()
    """Parts that a whole run would have had."""

    @classmethod
    def begin(cls, *, quick: bool) -> Report:
        return cls(describe(), time.time(), quick, load_average())

    def add(self, name: str, result: Result, seconds: float) -> None:
        self.results[name] = (result, seconds)

    def end(self) -> None:
        self.load_after = load_average()
        self.seconds = time.time() - self.began_at

    @property
    def bars(self) -> list[Bar]:
        return [bar for result, _ in self.results.values() for bar in result.bars]


def as_markdown(report: Report, picture: str = "") -> str:
    """The whole page; ``picture`` is the chart's address seen from it."""
    blocks = [INTRODUCTION, *_machine(report)]
    targets = [t for result, _ in report.results.values() for t in result.targets]
    if targets:
        blocks += ["## Targets", as_table(_targets(targets))]
    if picture and report.bars:
        blocks += [
            f"![How many times as long the plain way takes, case by case]({picture})",
        ]
    for name, (result, seconds) in report.results.items():
        blocks += _part(name, result, seconds)
    return "\n\n".join(blocks) + "\n"


def _part(name: str, result: Result, seconds: float) -> list[str]:
    blocks = [f"## {result.title}"]
    if result.skipped:
        blocks.append(f"Not measured: {result.skipped}")
    blocks += result.notes
    for table in result.tables:
        if table.title:
            blocks.append(f"### {table.title}")
        blocks.append(as_table(table))
    blocks.append(f"Run alone: `python -m benchmarks {name}` ({seconds:.0f} s here).")
    return blocks


def gpu_section(report: Report) -> str:
    """The cards' part with machine and targets, for a page that holds other things, too."""
    result, seconds = report.results["gpu"]
    first, *rest = _part("gpu", result, seconds)
    machine = [block.replace("## The machine", "### The machine") for block in _machine(report)]
    return "\n\n".join([first, *machine, as_table(_targets(result.targets)), *rest])


def with_section(page: str, section: str) -> str:
    """The page with the section in its place between the markers, or at its end."""
    block = f"{SECTION_BEGIN}\n\n{section}\n\n{SECTION_END}"
    before, begin, rest = page.partition(SECTION_BEGIN)
    _, end, after = rest.partition(SECTION_END)
    if begin and end:
        return f"{before}{block}{after}"
    return f"{page.rstrip()}\n\n{block}\n" if page.strip() else f"# Measurements\n\n{block}\n"


def as_table(table: Table) -> str:
    """A Markdown table."""
    lines = [table.headers, tuple("---" for _ in table.headers), *table.rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _machine(report: Report) -> list[str]:
    machine = report.machine
    when = datetime.datetime.fromtimestamp(report.began_at, datetime.UTC)
    extensions = ", ".join(machine.extensions) or "none of those that matter here"
    rows = [
        ("processor", f"{machine.processor}, {machine.cores} cores ({extensions})"),
        ("memory", f"{machine.memory_gib:.0f} GiB"),
        ("system", f"{machine.system}, Python {machine.python}"),
        ("when", f"{when:%Y-%m-%d %H:%M} UTC, {report.seconds / 60:.0f} minutes"),
        ("load average", _load(report)),
        ("versions", ", ".join(f"{name} {found}" for name, found in machine.packages)),
    ]
    blocks = ["## The machine", as_table(Table("", ("what", "which"), list(rows)))]
    if report.load_before is not None and report.load_before > machine.cores / 2:
        blocks.append(
            "**The machine was busy with other work during this run.** Absolute times are "
            "too high and spreads too wide; the ratios are what can be read."
        )
    if report.quick:
        blocks.append("**A quick run: fewer cases and rounds.**")
    if report.left_out:
        blocks.append(f"**Not run this time:** {', '.join(report.left_out)}.")
    return blocks


def _load(report: Report) -> str:
    if report.load_before is None or report.load_after is None:
        return "not known here"
    return f"{report.load_before:.1f} before, {report.load_after:.1f} after"


def _targets(targets: list[Target]) -> Table:
    marks = {True: "met", False: "**not met**", None: "open"}
    rows = [(t.what, t.wanted, t.found, marks[t.met]) for t in targets]
    return Table("Targets", ("what", "wanted", "found", ""), rows)
