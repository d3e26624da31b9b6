"""How many cores are this process's: of a container's share, not of the whole machine."""

from __future__ import annotations

import math
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
    return cores if quota is None else max(1, int(min(cores, quota)))


def _quota(groups: Path, own: Path) -> float | None:
    """Cores that the kernel allows at most; ``None``: no limit is known.

    The smallest share counts, this group's or that of one above it: the kernel keeps all of them.
    """
    try:
        rows = [row.split(":", 2) for row in own.read_text().splitlines()]
    except OSError:
        return None
    shares: list[float] = []
    for _, controllers, path in (row for row in rows if len(row) == 3):
        if not controllers:
            top, share = groups, _share
        elif "cpu" in controllers.split(","):
            top, share = groups / "cpu", _share_v1
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path may be the host's, of which only the top is to be seen.
        shares += [share(g) for g in (group, *group.parents) if g.is_relative_to(top)]
    return min(shares, default=None)


def _share(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)  # "max" is no number
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _share_v1(group: Path) -> float:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else math.inf  # -1: no limit
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
