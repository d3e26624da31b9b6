"""The worker's place behind the game, the LLM and the bot, where there is one processor for all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
import time
from pathlib import Path

NICENESS = 5
SLICE_SECONDS = 0.004
"""More than the 2.8 ms at most that Linux gives (0.7 ms times 1 + log2 of up to 8 cores), and no
more than needed: who must wait for a slice to end waits for all of it."""
_TRIES = 3
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call; glibc has had a name for it since 2.41 only."""
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
"""``struct sched_attr`` in its first version: size, policy, flags, niceness, priority, runtime,
deadline, period. See sched_setattr(2)."""


def lower_priority() -> None:
    """The game and the LLM come first. For threads that are started from now on, too."""
    import psutil

    process = psutil.Process()
    if os.name == "nt":
        with contextlib.suppress(psutil.Error, OSError):
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)  # type: ignore[attr-defined]
        return
    with contextlib.suppress(psutil.Error, OSError):
        process.nice(max(int(process.nice()), NICENESS))
    if sys.platform.startswith("linux"):
        niceness = os.getpriority(os.PRIO_PROCESS, 0)
        _lower_session(niceness)
        _let_others_wake_first(niceness)


def _lower_session(niceness: int) -> None:
    """The same for our session, if it is our own.

    Linux may share a processor out between sessions before it looks at niceness, which then
    counts within one only (autogroups, see sched(7)). The bot starts us in a new one.
    """
    if os.getsid(0) != os.getpid():
        return
    for _ in range(_TRIES):
        try:
            Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")
        except BlockingIOError:  # the kernel takes one such change each 100 ms, from anybody
            time.sleep(0.1)
        except OSError:  # it has no such groups
            return
        else:
            return


def _let_others_wake_first(niceness: int) -> None:
    """Ask for long slices of the processor.

    Linux hands it over at once to who wakes up and has a shorter slice; otherwise they wait for
    the clock's next tick, as long as 4 ms. From 6.12 on (commits 857b158dc5e8 and
    85e511df3cec of its scheduler); before, it changes nothing.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    wanted = (_SCHED_ATTR.size, os.SCHED_OTHER, 0, niceness, 0, int(SLICE_SECONDS * 1e9), 0, 0)
    # Where it is refused (a sandbox's filter) all goes on as it would without it.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).syscall(number, 0, _SCHED_ATTR.pack(*wanted), 0)
