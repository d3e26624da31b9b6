"""A trace made of what the bot recorded on a machine: its programs, its LLM, its models. Pure.

What isn't on record is said in words rather than guessed: which of the other programs held how much
is not kept, so each card has one of that name that grows and shrinks.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.history import Measurement, MoveRecord, Sample
from danzar_gpu.learning import FootprintBook, PeakRecorder
from danzar_gpu.memory import GIB
from danzar_gpu.simulate.trace import Card, Model, Program, Trace

LEAST_SECONDS = 60.0
"""A shorter record is nothing to learn from."""
STEP_BYTES = GIB // 8
"""Smaller changes of other programs' memory are left out."""
SILENT_SECONDS = 300.0
"""Without readings for so long the bot was not running, and neither were its models."""


class TooLittle(Exception):
    """There is nothing to replay; the message says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the configuration says of a model. ``name`` is how keys of measurements begin."""

    name: str
    priority: int
    predicted_bytes: int | None
    """Without the CUDA context."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was read from the history."""

    samples: Sequence[Sample]
    """Oldest first."""
    cards: Sequence[str]
    """UUIDs in the order of the PCI bus."""
    moves: Sequence[MoveRecord] = ()
    measurements: Sequence[Measurement] = ()


def trace_of(
    recording: Recording,
    config: GPUMemoryConfig,
    models: Iterable[Known] = (),
    *,
    name: str = "history",
) -> Trace:
    """The recorded hours as a trace, from the first reading to the last.

    Raises ``TooLittle``.
    """
    samples = [s for s in recording.samples if s.total_bytes > 0]
    if not samples or samples[-1].at - samples[0].at < LEAST_SECONDS:
        raise TooLittle(
            "less than a minute of readings is on record: let the bot run (monitoring on) and "
            "try again, or look further back with --since"
        )
    start, end = samples[0].at, samples[-1].at
    duration = round(end - start, 1)
    # What came with the last reading would begin when all is over.
    found = [m for m in _models(recording, tuple(models), start, end) if m.at < duration]
    if not found:
        raise TooLittle(
            "no model was loaded in the recorded time: start vision in the bot, or look further "
            "back with --since"
        )
    seen = {s.uuid for s in samples}
    uuids = [uuid for uuid in recording.cards if uuid in seen]
    by_card = {uuid: [s for s in samples if s.uuid == uuid] for uuid in uuids}
    foreign: list[Program] = []
    for index, uuid in enumerate(uuids):
        llm = [(s.at - start, s.llm_bytes) for s in by_card[uuid]]
        others = [
            (s.at - start, s.total_bytes - s.free_bytes - s.llm_bytes - s.our_bytes)
            for s in by_card[uuid]
        ]
        foreign += _programs(llm, index, "recorded LLM", llm=True)
        foreign += _programs(others, index, "other programs", llm=False)
    names = {m.to_device: m.device_name for m in recording.moves if m.to_device != "cpu"}
    return Trace(
        name=name,
        description="what was recorded on this machine",
        duration=duration,
        rig=tuple(
            Card(
                name=names.get(f"cuda:{index}", f"card {index}"),
                total_gb=round(max(s.total_bytes for s in by_card[uuid]) / GIB, 3),
            )
            for index, uuid in enumerate(uuids)
        ),
        gpu_memory=_settled(config, samples, by_card, uuids),
        models=tuple(found),
        foreign=tuple(program for program in foreign if program.at < duration),
    )


def _settled(
    config: GPUMemoryConfig,
    samples: Sequence[Sample],
    by_card: Mapping[str, Sequence[Sample]],
    uuids: Sequence[str],
) -> GPUMemoryConfig:
    """With ``auto`` the reservation that follows from the recorded peaks."""
    if config.main_llm_memory_reservation_gb != "auto" or config.main_llm_index >= len(uuids):
        return config
    peaks = PeakRecorder()
    for sample in samples:
        peaks.add(sample.at, sample.llm_bytes)
    total = by_card[uuids[config.main_llm_index]][0].total_bytes
    size = round(peaks.reservation(config, total).size_bytes / GIB, 3)
    return config.model_copy(update={"main_llm_memory_reservation_gb": size})


def _programs(
    levels: Iterable[tuple[float, int]], index: int, process: str, *, llm: bool
) -> list[Program]:
    """A level over time as allocations that come and go; what came last goes first."""
    found: list[Program] = []
    stack: list[tuple[float, int]] = []
    held = 0

    def end(at: float, size: int) -> None:
        began, whole = stack.pop()
        if size < whole:
            stack.append((began, whole - size))
        if at > began:
            gb = round(min(size, whole) / GIB, 3)
            found.append(Program(at=began, until=at, device=index, process=process, gb=gb, llm=llm))

    for at, level in levels:
        change = max(0, level) - held
        if abs(change) < STEP_BYTES:
            continue
        held += change
        at = round(at, 1)
        if change > 0:
            stack.append((at, change))
        while change < 0 and stack:
            part = min(-change, stack[-1][1])
            end(at, part)
            change += part
    found += [
        Program(at=at, device=index, process=process, gb=round(size / GIB, 3), llm=llm)
        for at, size in stack
    ]
    return sorted(found, key=lambda program: program.at)


def _models(recording: Recording, known: Sequence[Known], start: float, end: float) -> list[Model]:
    """Each load of a model begins a life, which the next load or the bot's end ends."""
    book = FootprintBook(recording.measurements)
    silences = _silences(recording.samples)
    found: list[Model] = []
    for key in sorted({m.model for m in recording.moves if m.kind == "load"}):
        own = [m for m in recording.moves if m.model == key]
        moved = [m.seconds for m in own if m.kind in ("move", "restore") and m.seconds > 0]
        loads = [m for m in own if m.kind == "load" and m.at > start]
        about = next((k for k in known if k.name and key.startswith(k.name)), None)
        expected = book.expected(key)
        size = expected.model_bytes if expected is not None else 0
        size = size or max(m.bytes for m in own) or (about.predicted_bytes if about else 0) or 0
        if not size:
            continue  # it never was on a card, and nobody knows how large it is
        predicted = about.predicted_bytes if about and about.predicted_bytes else size
        for number, load in enumerate(loads):
            asked = max(start, load.at - load.seconds)
            ends = [at for at in silences if at >= load.at]
            ends += [later.at - later.seconds for later in loads[number + 1 : number + 2]]
            until = min(ends, default=end)
            if until <= asked:
                continue
            model = Model(
                at=round(asked - start, 1),
                until=None if until >= end else round(until - start, 1),
                name=about.name if about else key,
                priority=about.priority if about else 0,
                need_gb=round(predicted / GIB, 3),
                true_gb=round(size / GIB, 3),
                load_seconds=round(load.seconds, 2) or 2.0,
            )
            found.append(
                model.model_copy(update={"move_seconds": round(statistics.median(moved), 2)})
                if moved
                else model
            )
    return sorted(found, key=lambda model: model.at)


def _silences(samples: Sequence[Sample]) -> list[float]:
    """When readings stopped for a while."""
    times = sorted({s.at for s in samples})
    return [a for a, b in pairwise(times) if b - a > SILENT_SECONDS]
