"""Figures from a card: written by ``pytest -m gpu``, made into ``docs/measurements.md``.

``DANZAR_MEASUREMENTS=FILE.json pytest -m gpu`` adds one entry to the file;
``python -m tests.gpu.measurements [FILE.json] > docs/measurements.md`` writes the page.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VARIABLE = "DANZAR_MEASUREMENTS"

HEAD = """\
# What was measured on cards

Made by `python -m tests.gpu.measurements`; written by hand is nothing here.

To measure a card of yours (any NVIDIA card that torch can use, also an H100 or H200; close what
holds its memory, the tests take nearly all of it for a moment):

```
DANZAR_MEASUREMENTS=measurements.json .venv/bin/python -m pytest -m gpu tests/gpu --durations=0
.venv/bin/python -m tests.gpu.measurements measurements.json > docs/measurements.md
.venv/bin/python -m benchmarks gpu
```

The first is meant to take four minutes at most, the last, speed and memory beside the plain loop,
two; it writes its own section below, so it comes last (`--quick`: one pair of models). Where
something fails the rest is measured all the same, and the failure says what was seen: memory,
processes, leases, the last events.

Each run adds an entry to the file. A second process takes memory on the card as an LLM's server
would; vision has to leave, the process must never be refused, and vision has to return. Measured
are how long that takes, how long models need to load, to leave and to come back, what they take
there and what was predicted, and when the driver shows memory that was given up.
"""
NOTHING = """\

**No card has been measured yet**: where Danzar was built there is none. What can be shown without
one is in the other tests: every decision on scripted rigs, and these very tests with torch's CUDA
build on a stand-in for NVIDIA's runtime, which computes on the CPU. Its figures say nothing.
"""


@dataclass
class Row:
    """One figure; several values of the same thing make a median and a worst."""

    what: str
    unit: str
    values: list[float] = field(default_factory=list[float])


@dataclass
class Measurements:
    """What one run found on one card."""

    card: str
    driver: str
    torch: str
    date: str
    total_gb: float
    rows: list[Row] = field(default_factory=list[Row])

    def add(self, what: str, unit: str, *values: float) -> None:
        row = next((r for r in self.rows if (r.what, r.unit) == (what, unit)), None)
        if row is None:
            row = Row(what, unit)
            self.rows.append(row)
        row.values += values

    def save(self, path: Path) -> None:
        """Add this run to those in the file."""
        known: list[Any] = json.loads(path.read_text("utf-8")) if path.exists() else []
        path.write_text(json.dumps([*known, asdict(self)], indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Measurements]:
    return [
        Measurements(**{**entry, "rows": [Row(**row) for row in entry["rows"]]})
        for entry in json.loads(path.read_text("utf-8"))
    ]


def page(entries: Iterable[Measurements]) -> str:
    """The whole page."""
    sections = [_section(entry) for entry in entries]
    return HEAD + ("".join(sections) or NOTHING)


def _section(entry: Measurements) -> str:
    lines = [
        "",
        f"## {entry.card}, {entry.total_gb:.0f} GB",
        "",
        f"{entry.date}, driver {entry.driver}, torch {entry.torch}",
        "",
        "| what | median | worst | of |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in entry.rows:
        if row.values:
            middle, worst = statistics.median(row.values), max(row.values)
            lines.append(
                f"| {row.what} | {middle:.3g} {row.unit} | {worst:.3g} {row.unit} "
                f"| {len(row.values)} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page([m for name in sys.argv[1:] for m in load(Path(name))]), end="")
