"""What a part of the benchmarks hands to the report."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.measuring import Spread


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of words and figures that are ready to be read."""

    title: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Target:
    """Something that we set out to show, and what came of it."""

    what: str
    wanted: str
    found: str
    met: bool | None
    """``None``: it could not be measured here; ``found`` says why."""

    @classmethod
    def at_least(cls, what: str, wanted: float, found: Spread, unit: str = "x") -> Target:
        words = f"{shown(found, unit)}"
        return cls(what, f"at least {number(wanted)}{unit}", words, found.median >= wanted)

    @classmethod
    def at_most(cls, what: str, wanted: float, found: Spread, unit: str) -> Target:
        words = f"{shown(found, unit)}"
        return cls(what, f"at most {number(wanted)}{unit}", words, found.median <= wanted)

    @classmethod
    def unknown(cls, what: str, wanted: str, why: str) -> Target:
        return cls(what, wanted, why, None)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the chart: how many times as much the other way takes."""

    label: str
    ratio: Spread


@dataclass(slots=True)
class Result:
    """All that a part found out."""

    title: str
    tables: list[Table] = field(default_factory=list[Table])
    targets: list[Target] = field(default_factory=list[Target])
    bars: list[Bar] = field(default_factory=list[Bar])
    notes: list[str] = field(default_factory=list[str])
    skipped: str = ""
    """Why nothing was measured, in words for people."""
    failed: bool = False
    """Whether some of it went wrong; ``notes`` say what."""


def number(value: float) -> str:
    """Three significant digits, no more than a person compares."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}".rstrip("0").rstrip(".")


def shown(spread: Spread, unit: str = "") -> str:
    """``2.5x (2.3 to 2.6)``: the median, and the extremes of the rounds."""
    words = f"{number(spread.median)}{unit}"
    if spread.count < 2 or spread.low == spread.high:
        return words
    return f"{words} ({number(spread.low)} to {number(spread.high)})"
