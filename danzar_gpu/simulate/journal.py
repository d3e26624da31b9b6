"""What happened in a run, in words and in order: the trace's events, each decision, each error."""

from __future__ import annotations

from collections.abc import Iterator

from danzar_gpu.simulate.metrics import Score
from danzar_gpu.simulate.trace import Fault, Trace

FAULTS: dict[Fault, str] = {
    "stale": "its last reading again and again",
    "not_supported": "no reading",
    "zero": "figures of 0",
    "lost": "it is lost",
    "no_processes": "no list of processes",
}
Entry = tuple[float, str]
"""Seconds since the trace began, and what happened then."""


def journal(trace: Trace, score: Score) -> list[Entry]:
    """Of a recorded run of this very trace; what happens at once stands cause first."""
    found = [*_events(trace), *score.notes, *((at, f"❌ {text}") for at, text in score.faults)]
    return sorted(found, key=lambda entry: entry[0])


def _events(trace: Trace) -> Iterator[Entry]:
    end = trace.end
    for program in [p for p in trace.foreign if p.plays(end)]:
        where = f"card {program.device}{', the main LLM' if program.llm else ''}"
        grows, grown = (", and grows", " and more") if program.growth is not None else ("", "")
        yield program.at, f"+ {program.process}: {program.gb:.1f}GB on {where}{grows}"
        if program.until is not None and program.until < end:
            yield program.until, f"- {program.process}: {program.gb:.1f}GB{grown} on {where}"
    for model in [m for m in trace.models if m.plays(end)]:
        size = f"{model.need_gb:.1f}GB expected, {model.peak_gb:.1f}GB taken"
        yield model.at, f"+ {model.name} is wanted (priority {model.priority}, {size})"
        if model.until is not None and model.until < end:
            yield model.until, f"- {model.name} is wanted no more"
    for fault in [f for f in trace.sensor if f.plays(end)]:
        where = "all cards" if fault.device is None else f"card {fault.device}"
        yield fault.at, f"! {where}: {FAULTS[fault.kind]}"
        if fault.until is not None and fault.until < end:
            yield fault.until, f"! {where}: over ({FAULTS[fault.kind]})"
