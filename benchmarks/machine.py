"""On what was measured, and with what: a figure without its machine says nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = (
    "torch",
    "openvino",
    "onnxruntime",
    "ultralytics",
    "open_clip_torch",
    "discord.py",
    "mss",
    "nvidia-ml-py",
    "nvitop",
    "gpustat",
    "GPUtil",
)
WORTH_NAMING = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Machine:
    """For people."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    extensions: tuple[str, ...]
    """Which of the processor's extensions matter to the models."""
    packages: tuple[tuple[str, str], ...]

    @property
    def has_bf16(self) -> bool:
        return bool({"avx512_bf16", "amx_bf16"} & set(self.extensions))


def describe() -> Machine:
    """This machine."""
    name, flags = _processor()
    return Machine(
        processor=name,
        cores=cores(),
        memory_gib=psutil.virtual_memory().total / (1 << 30),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        extensions=tuple(flag for flag in WORTH_NAMING if flag in flags),
        packages=tuple((name, found) for name in PACKAGES if (found := _version(name))),
    )


def cores() -> int:
    """Those that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def load_average() -> float | None:
    """Of the last minute; ``None`` where the system keeps none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _processor() -> tuple[str, frozenset[str]]:
    name, flags = platform.processor() or "unknown processor", frozenset[str]()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return name, flags
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() == "flags":
            flags = frozenset(value.split())
    return name, flags


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
