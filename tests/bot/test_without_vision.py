"""The bot alone, as the small image has it: vision's packages are hidden from real processes."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest

from bot.cli.exits import Exit
from bot.vision.packages import PACKAGES
from tests.bot.running import ADDRESS, ROOT, danzar, started

HIDE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = {names!r}
found = PathFinder.find_spec


def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in HIDDEN else found(name, path, target)


PathFinder.find_spec = find_spec
"""
SAYS = "vision is not part of this installation (torch, torchvision, ultralytics"


@pytest.fixture
def bot_alone(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that can't import what vision needs."""
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(names=set(PACKAGES)))
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_the_bot_answers_and_says_that_vision_is_not_here(
    bot_alone: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("capture:\n  source: scene\n")
    with started(
        *("demo", "--no-browser", "--probe", "simulated", "--config", str(config)), env=bot_alone
    ) as bot:
        bot.wait_for(ADDRESS)
        bot.type("!gpu status")
        bot.wait_for("Device 0 \\(RTX 4070\\)")
        bot.type("!vision look")
        bot.wait_for("(?i)" + SAYS.replace("(", r"\("))
        assert bot.children() == [], "no worker was started"
        assert bot.output.count("WARNING") == 1
        assert "Traceback" not in bot.output


def test_the_doctor_calls_it_a_way_to_install_danzar(bot_alone: dict[str, str]) -> None:
    done = danzar("doctor", "--json", "--probe", "simulated", env=bot_alone)
    checks = {c["check"]: c for c in json.loads(done.stdout)["checks"]}
    assert checks["python"]["state"] == "ok"
    assert checks["vision"]["state"] == "warning"
    assert checks["vision"]["what"].startswith(SAYS)
    assert ".[vision]" in checks["vision"]["remedy"]
    assert "torch" not in checks and "capture" not in checks
    assert done.returncode == Exit.OK, done.stdout


def test_watching_is_refused_in_words(bot_alone: dict[str, str]) -> None:
    done = danzar("watch", "--source", "scene", "--probe", "simulated", env=bot_alone)
    assert done.returncode == Exit.FAILED
    assert SAYS in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_bot_needs_is_installed_with_the_bot() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert not any(p.startswith(("torch", "ultralytics", "av")) for p in project["dependencies"])
    assert "danzar[vision]" in extras["demo"], "make run installs all of it"
    assert "danzar[demo]" in extras["test"]
