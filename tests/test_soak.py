"""The soak's verdict finds a leak, and nothing where there is none; the page has its table."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("the trials kill and stop processes as Unix does", allow_module_level=True)

from benchmarks.host import RealRun
from benchmarks.reliability import BEGIN, END, Row, as_table
from benchmarks.soak import GROWTH, growth, verdicts, virtual_run

ROOT = Path(__file__).parents[1]


def lines(**slope: float) -> list[dict[str, Any]]:
    """A run whose figures start high, settle, and then grow by ``slope`` each second."""
    base = {"rss": 70 * 1024**2, "descriptors": 20, "threads": 6, "tasks": 9}
    return [
        {
            **{key: value + slope.get(key, 0) * n for key, value in base.items()},
            "late_p99": 0.001,
            "late_worst": 0.01,
            "frames": n,
            "moves": 1,
            "workers": 1,
        }
        for n in range(100)
    ]


def test_a_run_without_a_leak_is_well() -> None:
    assert all(fine for _, _, fine in verdicts(RealRun(lines()), 1.0))


@pytest.mark.parametrize("key", sorted(GROWTH))
def test_a_leak_is_found(key: str) -> None:
    run = RealRun(lines(**{key: GROWTH[key] / 20}))
    found = {what: fine for what, _, fine in verdicts(run, 1.0)}
    assert not found[f"growth: {key}"]
    assert growth(run.lines, key) > GROWTH[key]


@pytest.mark.parametrize(
    ("run", "seconds", "what"),
    [
        (RealRun(lines(rss=2 * 1024**2)), 1.0, "RSS of the bot's process, worst"),
        (RealRun(lines()), 9.0, "end after it was asked for"),
        (RealRun(lines(), traceback="Traceback ..."), 1.0, "tracebacks in the log"),
    ],
)
def test_what_is_not_well_is_said(run: RealRun, seconds: float, what: str) -> None:
    assert what in [name for name, _, fine in verdicts(run, seconds) if not fine]


def test_virtual_time_passes_with_all_that_happens_in_it() -> None:
    run = asyncio.run(virtual_run(0.5, seed=1))
    assert run.readings + run.failures == 180
    assert run.leases > 0
    assert run.trouble is None
    assert run.file_bytes > 0


def test_a_row_of_the_table_is_one_line() -> None:
    row = Row("a", "b", "one | two\nthree" * 50, 1.0, None, "nothing")
    table = as_table([row]).splitlines()
    assert len(table) == 3
    assert table[2].count("|") == 7


def test_the_page_has_a_table_made_by_the_command() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    measured = page.split(BEGIN)[1].split(END)[0]
    assert "Measured on" in measured
    assert measured.count("\n|") > 10
