"""How many cores are this process's: of a container's share, not of the whole machine."""

from __future__ import annotations

import os
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def usable(groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUP) -> int:
    """Whole cores, at least 1.

    What a container or service was given (``docker run --cpus``, systemd's ``CPUQuota``) counts:
    more threads than that are stopped in the middle of their work.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Windows and macOS
        cores = os.cpu_count() or 1
    quota = _quota(groups, own)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _quota(groups: Path, own: Path) -> float | None:
    """Cores that the kernel allows at most (cgroup v2); ``None``: no limit is known."""
    try:
        (line,) = [row for row in own.read_text().splitlines() if row.startswith("0::")]
        group = groups / line.removeprefix("0::").lstrip("/")
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
