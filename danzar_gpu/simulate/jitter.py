"""Seeds: the same trace, a little different. Seed 0 is the trace as it is written."""

from __future__ import annotations

import random

from danzar_gpu.simulate.trace import Model, Program, SensorFault, Trace


def vary(trace: Trace, seed: int) -> Trace:
    """The trace with times and sizes shifted as ``seed`` has it.

    What happens at the same time still does, and the order of events stays. Predictions
    (``need_gb``) stay, and the LLM's allocations only shrink: they must not leave its reservation
    by chance.
    """
    if seed == 0 or not (trace.jitter.seconds or trace.jitter.size):
        return trace
    chance = random.Random(seed)
    times = _shifted_times(trace, chance)

    def size(gb: float, low: float = -1.0, high: float = 1.0) -> float:
        return gb * (1.0 + trace.jitter.size * chance.uniform(low, high))

    def when(event: Model | Program | SensorFault) -> dict[str, float | None]:
        return {"at": times[event.at], "until": times.get(event.until, event.until)}

    models = tuple(
        m.model_copy(update={**when(m), "true_gb": size(m.peak_gb)}) for m in trace.models
    )
    foreign = tuple(
        p.model_copy(update={**when(p), "gb": size(p.gb, high=0.0) if p.llm else size(p.gb)})
        for p in trace.foreign
    )
    sensor = tuple(f.model_copy(update=when(f)) for f in trace.sensor)
    return trace.model_copy(
        update={"models": models, "foreign": foreign, "sensor": sensor, "duration": trace.end}
    )


def _shifted_times(trace: Trace, chance: random.Random) -> dict[float | None, float]:
    """A new time for each time of the trace, in the same order; the start stays the start."""
    events = (*trace.models, *trace.foreign, *trace.sensor)
    times = sorted(
        {0.0} | {e.at for e in events} | {e.until for e in events if e.until is not None}
    )
    shifted: dict[float | None, float] = {}
    for position, time in enumerate(times):
        # Less than half of each gap, so that neighbours can't change places.
        before = time - times[position - 1] if position else 0.0
        after = times[position + 1] - time if position + 1 < len(times) else trace.jitter.seconds
        reach = min(trace.jitter.seconds, 0.45 * before, max(0.0, 0.45 * after))
        shifted[time] = time + chance.uniform(-reach, reach)
    return shifted
