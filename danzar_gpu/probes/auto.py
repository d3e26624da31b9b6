"""The best way of reading that there is now: NVML, then torch, then none, looked for again.

A machine may start Danzar before its driver is loaded, or get a driver while Danzar runs.
"""

from __future__ import annotations

from danzar_gpu.memory import MemorySnapshot
from danzar_gpu.probes import MemoryProbe, NoProbe, ProbeUnavailable
from danzar_gpu.probes.nvml import NvmlProbe
from danzar_gpu.probes.torch_cuda import TorchProbe

NVML_AGAIN_SECONDS = 5.0
TORCH_AGAIN_SECONDS = 300.0
"""Where there is CUDA that torch can't use a child process is spent on each look."""


class AutoProbe:
    """``source`` says what answers at present; ``none`` before the first reading."""

    def __init__(self) -> None:
        self._probe: MemoryProbe = NoProbe("nobody was asked yet")
        self._nvml_at = float("-inf")
        self._torch_at = float("-inf")

    @property
    def source(self) -> str:
        return self._probe.source

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        """A reading of what answers. Once NVML did, it is not given up: a driver that is gone
        is an error (``ProbeError``), no machine without a card."""
        if self._probe.source != "nvml" and now - self._nvml_at >= NVML_AGAIN_SECONDS:
            self._nvml_at = now
            self._look(now)
        return self._probe.read(now, processes=processes)

    def close(self) -> None:
        self._probe.close()

    def _look(self, now: float) -> None:
        try:
            self._use(NvmlProbe.open())
        except ProbeUnavailable as no_nvml:
            if self._probe.source == "torch":
                return
            self._use(NoProbe(str(no_nvml)))
            if now - self._torch_at >= TORCH_AGAIN_SECONDS:
                self._torch_at = now
                self._look_with_torch()

    def _look_with_torch(self) -> None:
        try:
            self._use(TorchProbe.open())
        except ProbeUnavailable:
            return  # what NVML said is the better word

    def _use(self, probe: MemoryProbe) -> None:
        self._probe.close()
        self._probe = probe
