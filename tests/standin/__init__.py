"""A stand-in NVIDIA driver, so that the real pynvml runs on a machine without a card."""

from tests.standin.nvml import (
    GUIDE,
    RTX_4070,
    RTX_4070_SUPER,
    Card,
    Fault,
    Process,
    Scenario,
    StandinNvml,
    build,
    gib,
)

__all__ = [
    "GUIDE",
    "RTX_4070",
    "RTX_4070_SUPER",
    "Card",
    "Fault",
    "Process",
    "Scenario",
    "StandinNvml",
    "build",
    "gib",
]
