"""The rule that CI skips nothing but what needs a card, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

def test_passes():
    pass

def test_wants_a_program():
    pytest.skip("no ffmpeg here")

@pytest.mark.gpu
def test_wants_a_card():
    pytest.skip("no card here")

@pytest.mark.xfail(reason="known")
def test_known():
    assert False
"""
WHOLE_MODULE = """
import pytest

pytest.importorskip("there_is_no_such_module")
"""


def run(folder: Path, suite: str, ci: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a card\n")
    (folder / "test_suite.py").write_text(suite)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.no_skips", "-p", "no:cacheprovider", "-rs"],
        cwd=folder,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_at_home_a_skip_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE, ci="")
    assert done.returncode == 0, done.stdout
    assert "1 passed, 2 skipped, 1 xfailed" in done.stdout
    assert "no ffmpeg here" in done.stdout


def test_in_ci_only_the_card_may_be_missing(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE, ci="true")
    assert done.returncode == 1
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed" in done.stdout
    assert "nothing may be skipped but `gpu` tests: Skipped: no ffmpeg here" in done.stdout


@pytest.mark.parametrize(("ci", "status"), [("", 5), ("true", 2)])
def test_in_ci_a_module_may_not_skip_itself(tmp_path: Path, ci: str, status: int) -> None:
    done = run(tmp_path, WHOLE_MODULE, ci)
    assert done.returncode == status, done.stdout
