"""Faults, each as a trial: what is done to a running bot, and what is seen of it then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.host import Bench, Line, well

PATIENCE = 120.0


@dataclass(frozen=True)
class Seen:
    """What came of a fault."""

    said: str
    noticed: float | None
    """Seconds from the fault to the words."""
    recovered: float | None
    """Seconds from the end of its cause (for the worker: from the fault) to all well."""
    lost: str


@dataclass(frozen=True)
class Trial:
    """One fault. ``run`` raises when it is not survived, or not as it should be."""

    fault: str
    how: str
    run: Callable[[Bench], Seen]


@dataclass(frozen=True)
class Group:
    """Trials on one bot, one after another."""

    opened: Callable[[], AbstractContextManager[Bench]]
    trials: tuple[Trial, ...]
    ready: Callable[[Line], bool] = well
    """What the bot has to say of itself before each of them."""


def words_of(line: Line) -> str:
    """Why not all is well, as status and health tell it."""
    return line["error"] or "; ".join(line["faults"]) or line["storage"] or line["reason"]


def asked(bench: Bench, command: str = "!gpu vision", *, times: int = 1) -> float:
    """How long the answer to a command takes; that it came once is made sure of."""
    before, began = bench.discord.answers, time.monotonic()
    bench.discord.says(command, times=times)
    return answered(bench, before, began)


def answered(bench: Bench, before: int, began: float) -> float:
    """How long one more message of the bot takes, with no other after it."""
    bench.host.wait(lambda: bench.discord.answers > before, PATIENCE)
    took = time.monotonic() - began
    time.sleep(1.0)
    count = bench.discord.answers - before
    assert count == 1, f"{count} answers came instead of one"
    return took


def logged(bench: Bench, patterns: Iterable[str], since: int) -> tuple[str, float]:
    """What the log says about any of it from that line on, and how long that took."""
    pattern = "|".join(patterns)
    took = bench.host.wait(lambda: bench.host.logged(pattern, since), PATIENCE)
    return bench.host.logged(pattern, since), took
