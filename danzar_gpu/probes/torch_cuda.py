"""Readings from torch where there is CUDA but no NVML (Jetson, some containers).

torch never enters this process: a small child (``torch_reader``) holds it and answers one JSON
line for each line it is sent. Its CUDA contexts cost memory on each card, so NVML comes first.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from typing import Any

from danzar_gpu.memory import DeviceMemory, MemorySnapshot
from danzar_gpu.probes import ProbeError, ProbeUnavailable
from danzar_gpu.probes.cards import short_name


class TorchProbe:
    """What ``torch.cuda.mem_get_info`` says of every device; no processes, no temperature."""

    source = "torch"

    def __init__(self, reader: subprocess.Popen[str]) -> None:
        self._reader = reader

    @classmethod
    def open(cls) -> TorchProbe:
        """Start the reader. Takes seconds. Raises ``ProbeUnavailable`` without CUDA."""
        try:
            # Cheaper than importing torch to learn that there is no driver.
            ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        except OSError:
            raise ProbeUnavailable(
                "the CUDA driver was not found", "install the NVIDIA driver, or use the CPU"
            ) from None
        probe = cls(_start_reader())
        try:
            if not probe._ask():
                raise ProbeUnavailable("torch sees no CUDA device", "see `danzar doctor`")
        except ProbeError as error:
            probe.close()
            raise ProbeUnavailable(error.cause, error.remedy) from None
        return probe

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        """One reading of every device. Raises ``ProbeError``."""
        if self._reader.poll() is not None:
            self._reader = _start_reader()
        devices = tuple(
            DeviceMemory(
                index=row["index"],
                uuid=row["uuid"],
                name=short_name(row["name"]),
                total_bytes=row["total"],
                free_bytes=row["free"],
                allocated_bytes=row["total"] - row["free"],
                processes=None,
                compute_capability=tuple(row["capability"]),
                cores=row["cores"],
                source=self.source,
                read_at=now,
            )
            for row in self._ask()
        )
        return MemorySnapshot(now, self.source, devices, None)

    def close(self) -> None:
        self._reader.kill()
        self._reader.wait()

    def _ask(self) -> list[dict[str, Any]]:
        assert self._reader.stdin and self._reader.stdout
        try:
            self._reader.stdin.write("read\n")
            self._reader.stdin.flush()
            line = self._reader.stdout.readline()
        except OSError as error:
            raise ProbeError(f"the torch reader is gone: {error}") from None
        if not line:
            raise ProbeError("the torch reader ended", "it is started again at the next reading")
        answer: Any = json.loads(line)
        if isinstance(answer, dict):
            raise ProbeError(f"torch could not read the memory: {answer['error']}")
        return answer


def _start_reader() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "danzar_gpu.probes.torch_reader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    )
