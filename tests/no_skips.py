"""In CI nothing may be skipped but what needs an NVIDIA card: a skip there is a failure.

A suite that quietly skips what the machine lacks looks green and proves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

ALLOWED = "gpu"


def strict() -> bool:
    return os.environ.get("CI", "").strip().lower() in {"1", "true", "yes"}


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"in CI nothing may be skipped but `{ALLOWED}` tests: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected = hasattr(report, "wasxfail") or item.get_closest_marker(ALLOWED) is not None
    if report.skipped and not expected and strict():
        _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.outcome == "skipped" and strict():
        _refuse(report)
    return report
