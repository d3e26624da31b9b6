"""What reads GPU memory. A probe is synchronous, may be slow, and is never called on the loop."""

from __future__ import annotations

from typing import Literal, Protocol

from danzar_gpu.memory import MemorySnapshot

ProbeName = Literal["auto", "nvml", "torch", "simulated", "none"]


class ProbeError(Exception):
    """A reading failed. ``cause`` says what happened, ``remedy`` what to do about it."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        self.cause = cause
        self.remedy = remedy
        super().__init__(f"{cause}. {remedy[:1].upper()}{remedy[1:]}" if remedy else cause)


class ProbeUnavailable(ProbeError):
    """This way of reading does not exist here: no driver, no library, no CUDA."""


class MemoryProbe(Protocol):
    """Reads all devices. Calls come one at a time, from one thread."""

    @property
    def source(self) -> str:
        """What answers: ``nvml``, ``torch``, ``simulated``, ``none``."""
        ...

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        """One reading, stamped ``now`` (seconds of the caller's clock).

        ``processes`` asks for fresh process lists, which are costly on a real driver; otherwise
        the last ones are carried over. Raises ``ProbeError``.
        """
        ...

    def close(self) -> None:
        """Give back what the probe holds of the driver. Never raises."""
        ...


class NoProbe:
    """For a machine without an NVIDIA GPU: a truthful reading of nothing."""

    source = "none"

    def __init__(self, why: str = "") -> None:
        self.why = why

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        faults = (self.why,) if self.why else ()
        return MemorySnapshot(now, self.source, (), now, faults)

    def close(self) -> None:
        pass


def open_probe(name: ProbeName = "auto") -> MemoryProbe:
    """The probe called ``name``; ``auto`` takes NVML, then torch, then none at all, at each
    reading anew, so that a driver that comes later is found; it asks nobody before the first.

    A simulated rig is never chosen by itself. A named probe may take a second (a driver call, a
    subprocess for torch): not for the event loop. Raises ``ProbeUnavailable`` if it isn't here.
    """
    from danzar_gpu.probes.auto import AutoProbe
    from danzar_gpu.probes.nvml import NvmlProbe
    from danzar_gpu.probes.simulated import SimulatedProbe
    from danzar_gpu.probes.torch_cuda import TorchProbe

    if name == "nvml":
        return NvmlProbe.open()
    if name == "torch":
        return TorchProbe.open()
    if name == "simulated":
        return SimulatedProbe()
    if name == "none":
        return NoProbe()
    return AutoProbe()
