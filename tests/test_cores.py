"""How many cores count as ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bot import cores
from bot.settings import VisionSettings


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 16 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        ("max 100000", 16),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("6400000 100000", 16),
        ("nonsense", 16),
        ("100000 0", 16),
    ],
)
def test_a_containers_share_counts(tmp_path: Path, limit: str, found: int) -> None:
    group = tmp_path / "system.slice"
    group.mkdir()
    (group / "cpu.max").write_text(limit + "\n")
    own = tmp_path / "own"
    own.write_text("1:cpu:/\n0::/system.slice\n")
    assert cores.usable(tmp_path, own) == found


def test_the_smallest_share_above_a_group_counts(tmp_path: Path) -> None:
    group = tmp_path / "danzar.slice/bot.service"
    group.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/danzar.slice/bot.service\n")
    (group / "cpu.max").write_text("800000 100000\n")
    (group.parent / "cpu.max").write_text("300000 100000\n")
    (tmp_path.parent / "cpu.max").write_text("100000 100000\n")  # no control group any more
    assert cores.usable(tmp_path, own) == 3
    (group / "cpu.max").write_text("max 100000\n")
    assert cores.usable(tmp_path, own) == 3


def test_a_containers_share_counts_where_its_path_is_the_hosts(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    own = tmp_path / "own"
    own.write_text("0::/docker/0123\n")
    assert cores.usable(tmp_path, own) == 2


@pytest.mark.parametrize(("quota", "found"), [("400000", 4), ("-1", 8), ("nonsense", 8)])
def test_the_first_version_of_control_groups_counts(tmp_path: Path, quota: str, found: int) -> None:
    group = tmp_path / "cpu/docker/0123"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text(quota + "\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    (group.parent / "cpu.cfs_quota_us").write_text("800000\n")
    (group.parent / "cpu.cfs_period_us").write_text("100000\n")
    own = tmp_path / "own"
    own.write_text("3:memory:/other\n2:cpu,cpuacct:/docker/0123\n1:name=systemd:/\n")
    assert cores.usable(tmp_path, own) == found


def test_without_control_groups_all_cores_count(tmp_path: Path) -> None:
    assert cores.usable(tmp_path, tmp_path / "none") == 16


@pytest.mark.parametrize(
    ("usable", "budget", "threads"),
    [(1, None, 1), (2, None, 1), (6, None, 3), (16, None, 4), (2, 12, 12)],
)
def test_vision_takes_half_of_them_but_few_unless_told(
    monkeypatch: pytest.MonkeyPatch, usable: int, budget: int | None, threads: int
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: usable)
    assert VisionSettings(cpu_budget=budget).threads == threads
