"""One poll of the cards, ours and three others, on the stand-in driver.

    python -m benchmarks.subjects.poll

Each question names who is asked and how often; the answer is microseconds a card and poll.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.subjects.answering import answer_lines


def pollers() -> tuple[dict[str, Callable[[], object]], int]:
    """Who can be asked, and how many cards there are."""
    import pynvml

    from danzar_gpu.probes.nvml import NvmlProbe

    # Only the extra `bench` brings these; nothing else of ours knows them.
    nvitop: Any = import_module("nvitop")
    gpustat: Any = import_module("gpustat")
    gputil: Any = import_module("GPUtil")
    probe = NvmlProbe.open()
    cards = len(probe.read(time.monotonic(), processes=True).devices)
    devices: list[Any] = nvitop.Device.all()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(cards)]

    def ours() -> object:
        return probe.read(time.monotonic(), processes=False)

    def of_nvitop() -> object:
        return [(d.memory_info(), d.utilization_rates()) for d in devices]

    def bare() -> object:
        return [
            (pynvml.nvmlDeviceGetMemoryInfo(h), pynvml.nvmlDeviceGetUtilizationRates(h))
            for h in handles
        ]

    return {
        "Danzar": ours,
        "pynvml": bare,
        "nvitop": of_nvitop,
        "gpustat": gpustat.new_query,
        "GPUtil": gputil.getGPUs,
    }, cards


def main() -> None:
    known, cards = pollers()

    def do(question: dict[str, Any]) -> dict[str, Any]:
        poll = known[question["who"]]
        poll()
        times: list[int] = []
        for _ in range(question["times"]):
            began = time.perf_counter_ns()
            poll()
            times.append(time.perf_counter_ns() - began)
        return {"microseconds": statistics.median(times) / 1000 / cards, "cards": cards}

    answer_lines(do)


if __name__ == "__main__":
    main()
