"""What asks for a card is run here without one: torch's CUDA build on the stand-in for CUDA."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.measurements import VARIABLE
from tests.gpu.program import ROOT
from tests.standin import cuda


@pytest.fixture
def standin(tmp_path: Path) -> cuda.StandinCuda:
    if why := cuda.why_not():
        pytest.skip(why)
    try:
        return cuda.build(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def passed(standin: cuda.StandinCuda, *options: str, **environment: str) -> None:
    """The tests that want a card, in a process that has the stand-in's."""
    alone = ["-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *alone, *options, "tests/gpu"],
        cwd=ROOT,
        env=standin.environment(**environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    summary = done.stdout.splitlines()[-1]
    assert "passed" in summary
    assert "skipped" not in summary


def test_every_test_that_wants_a_card_passes_on_two_of_the_stand_in(
    standin: cuda.StandinCuda, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    passed(standin, **{VARIABLE: str(figures)})
    [entry] = json.loads(figures.read_text("utf-8"))
    assert "stand-in" in entry["card"], "nobody takes its figures for real"


@pytest.mark.parametrize("accounts", ["other pids", "no sizes"])
def test_vision_makes_room_where_the_driver_tells_little_of_processes(
    standin: cuda.StandinCuda, accounts: Any
) -> None:
    standin.write(replace(cuda.TWO_CARDS, accounts=accounts))
    passed(standin, "-k", "makes_room_for_the_program")


def test_a_kernel_that_nobody_computes_is_an_error_that_names_it(
    standin: cuda.StandinCuda,
) -> None:
    code = "import torch; torch.cuda._sleep(1000)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=standin.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "stand-in CUDA: nobody computes" in done.stderr
    assert "spin_kernel" in done.stderr
