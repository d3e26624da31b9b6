"""Faults, one after another, in a real bot process: what is said, when it is well again, what is
lost. ``python -m benchmarks.reliability`` prints a table; ``--write docs/reliability.md`` puts it
there, with the soak's figures if ``--soak PATH`` (its ``--json``) is given. ``--only PATTERN``
tries those faults alone whose name it finds.

The whole program, a real worker, the real pynvml on the stand-in driver of the tests, the real
discord.py on the stand-in for Discord, real SQLite, real signals. Linux with a C compiler; no card
is needed. The status is 1 if a fault was not survived.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import PATIENCE, Group, Trial, chat, data, driver, program, worker
from benchmarks.host import Bench, a_host

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NOT_SURVIVED = "NOT SURVIVED"


@dataclass(frozen=True)
class Row:
    """One fault of the table; see ``benchmarks.faults.Seen``."""

    fault: str
    how: str
    said: str
    noticed: float | None
    recovered: float | None
    lost: str


EVERYTHING = Group(
    lambda: a_host(every=0.2, vision={"worker_memory_limit_gb": worker.LIMIT_GB}),
    (*driver.TRIALS, *worker.TRIALS, *chat.TRIALS, *data.TRIALS, *program.TRIALS, driver.ADDED),
)
GROUPS = (driver.LATE, EVERYTHING, data.FULL_DISK, program.START)


def all_rows(only: str) -> Iterator[Row]:
    """Every fault whose name has ``only`` in it, a group of them on one bot.

    A fault that is not survived costs the bot; the next one meets a new bot.
    """
    for group in GROUPS:
        waiting = [trial for trial in group.trials if re.search(only, trial.fault)]
        while waiting:
            with ExitStack() as stack:
                try:
                    bench = stack.enter_context(group.opened())
                except PermissionError as error:
                    yield from (_not_run(trial, error) for trial in waiting)
                    break
                stack.callback(lambda bench=bench: bench.host.kill())
                while waiting:
                    row = _row(waiting.pop(0), bench, group)
                    yield row
                    if NOT_SURVIVED in row.lost:
                        break


def _row(trial: Trial, bench: Bench, group: Group) -> Row:
    try:
        bench.host.wait_for(group.ready, PATIENCE)
        seen = trial.run(bench)
    except Exception as error:  # whatever it is, the other faults are to be tried
        traceback.print_exc()
        words = str(error).partition("\n")[0] or type(error).__name__
        return Row(trial.fault, trial.how, words, None, None, NOT_SURVIVED)
    return Row(trial.fault, trial.how, seen.said, seen.noticed, seen.recovered, seen.lost)


def _not_run(trial: Trial, error: PermissionError) -> Row:
    return Row(trial.fault, trial.how, "", None, None, f"not tried here: {error}")


def as_table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| Fault | How it is injected | What is said | Noticed | Well again | Lost |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        said = row.said.replace("|", "/").replace("\n", " ")
        said = said if len(said) <= 260 else f"{said[:257]}..."
        noticed = "" if row.noticed is None else f"{row.noticed:.1f} s"
        recovered = "" if row.recovered is None else f"{row.recovered:.1f} s"
        lines.append(f"| {row.fault} | {row.how} | {said} | {noticed} | {recovered} | {row.lost} |")
    return "\n".join(lines)


def as_text(rows: list[Row], soak: dict[str, Any] | None) -> str:
    """What is between the marks of ``docs/reliability.md``."""
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    text = [f"Measured on {machine}, load average {os.getloadavg()[0]:.1f}.", "", as_table(rows)]
    if soak is not None:
        faults = ", ".join(f"{n} x {name}" for name, n in sorted(soak["faults"].items()))
        text += [
            "",
            f"## Soak: {soak['minutes']:g} minutes in real time",
            "",
            f"Load average {soak['load']:.1f} at its start. Faults: {faults}.",
            "",
            "| What | Seen |",
            "|---|---|",
            *(f"| {what} | {seen} |" for what, seen in soak["seen"].items()),
        ]
    return "\n".join(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Faults, injected one after another.")
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    parser.add_argument("--soak", type=Path, help="what `benchmarks.soak --json` wrote")
    parser.add_argument("--only", default="", metavar="PATTERN", help="faults with this name")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for row in all_rows(arguments.only):
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    soak = json.loads(arguments.soak.read_text("utf-8")) if arguments.soak else None
    text = as_text(rows, soak)
    survived = all(NOT_SURVIVED not in row.lost for row in rows)
    if arguments.write is None:
        print(text)
        return 0 if survived else 1
    page = arguments.write.read_text("utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    arguments.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return 0 if survived else 1


if __name__ == "__main__":
    sys.exit(main())
