"""How long a decision takes, and how long a simulated day: ``python -m benchmarks.decision``.

Processor time of this thread: what else the machine does is not counted.
"""

from __future__ import annotations

import statistics
import time

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import Footprint, HolderMemory, Ledger, Request
from danzar_gpu.memory import GIB, DeviceMemory, GpuProcess, MemorySnapshot
from danzar_gpu.placement import place
from danzar_gpu.rebalance import rebalance
from danzar_gpu.simulate import POLICIES, Trace, percent, play

CARDS = 8
LEASES = 20
DECISIONS = 3000
DAY = 86_400.0


def reading(now: float) -> MemorySnapshot:
    """Eight cards with four programs each."""
    devices: list[DeviceMemory] = []
    for index in range(CARDS):
        rows = [GpuProcess(100 * index + n, f"program{n}", GIB) for n in range(3)]
        rows.append(GpuProcess(7 + index % 4, "python", 2 * GIB))
        if index == 0:
            rows.append(GpuProcess(4242, "ollama", 7 * GIB))
        used = sum(r.used_bytes or 0 for r in rows)
        devices.append(
            DeviceMemory(
                index=index,
                uuid=f"GPU-{index}",
                name="RTX 4090",
                total_bytes=24 * GIB,
                free_bytes=24 * GIB - used,
                allocated_bytes=used,
                processes=tuple(rows),
                compute_capability=(8, 9),
                source="benchmark",
                read_at=now,
            )
        )
    return MemorySnapshot(now, "benchmark", tuple(devices), now)


def ledger() -> Ledger:
    """Twenty leases of four processes."""
    book = Ledger()
    for holder in range(4):
        book.set_holder(f"worker{holder}", HolderMemory(7 + holder, {}))
    for n in range(LEASES):
        need = Footprint(GIB // 4, GIB // 8, GIB // 3)
        request = Request(f"model{n}", need, f"worker{n % 4}", n)
        book.grant(request, f"GPU-{n % CARDS}", f"cuda:{n % CARDS}", "", 0.0)
    return book


def microseconds(work: object, count: int = DECISIONS) -> tuple[float, float]:
    """(median, 95th percentile) of one call."""
    assert callable(work)
    times: list[float] = []
    for _ in range(count):
        began = time.thread_time_ns()
        work()
        times.append((time.thread_time_ns() - began) / 1000)
    times.sort()
    return statistics.median(times), times[int(0.95 * len(times))]


def a_day() -> Trace:
    """Eight cards, models all day, programs that come and go each quarter of an hour."""
    models = [
        {"at": 60.0 * n, "name": f"model{n}", "priority": n, "need_gb": 0.6 + 0.1 * n}
        for n in range(8)
    ]
    foreign: list[dict[str, object]] = [
        {"at": 30.0, "device": 0, "process": "ollama", "gb": 18.0, "llm": True}
    ]
    foreign += [
        {
            "at": 900.0 * n + 100,
            "until": 900.0 * n + 700,
            "device": 1 + n % (CARDS - 1),
            "process": "game.exe",
            "gb": 22.5,
        }
        for n in range(int(DAY // 900))
    ]
    return Trace.model_validate(
        {
            "name": "a day",
            "duration": DAY,
            "rig": [{"name": f"card {n}", "total_gb": 24} for n in range(CARDS)],
            "gpu_memory": {"main_llm_memory_reservation_gb": 20.0},
            "models": models,
            "foreign": foreign,
        }
    )


def main() -> None:
    config = GPUMemoryConfig()
    snapshot, book = reading(0.0), ledger()
    request = Request("newcomer", Footprint(GIB, GIB // 4, GIB // 3), "worker1", 10)
    large = Request("too large", Footprint(30 * GIB), "worker1", 0)
    print(f"{CARDS} cards, {LEASES} leases, microseconds (median, 95th percentile):")
    for name, work in {
        "a model is placed": lambda: place(request, snapshot, book, config, 0.0),
        "a model fits nowhere": lambda: place(large, snapshot, book, config, 0.0),
        "a reading is looked at": lambda: rebalance(snapshot, book, config, 0.0),
    }.items():
        median, high = microseconds(work)
        print(f"  {name:24} {median:7.1f} {high:7.1f}")
    began = time.thread_time()
    score = play(a_day(), POLICIES["danzar"]())
    seconds = time.thread_time() - began
    print(
        f"a simulated day with {CARDS} cards: {seconds:.1f} s "
        f"({percent(score.gpu_fraction)} on cards, {score.moves} moves)"
    )


if __name__ == "__main__":
    main()
