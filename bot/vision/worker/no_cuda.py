"""Why torch finds no card at all where the driver shows some, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RIGHT_BUILD = (
    "install torch and torchvision again, by the command that https://pytorch.org/get-started "
    "shows for this system and CUDA (on Windows plain `pip install torch` brings none)"
)
LASTING = {
    "torch not compiled with cuda": RIGHT_BUILD,
    # NVML is there, and libcuda is not.
    "found no nvidia driver": (
        "install the NVIDIA driver whole; a container needs "
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    ),
    "driver on your system is too old": (
        "update the NVIDIA driver, or install a torch for an older CUDA"
    ),
}
"""What torch says where CUDA won't start, whoever tries, until something is installed; the way
out."""
STUCK = (
    "restart the machine; on Linux `sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm` may "
    "do (after a suspend), and a container needs /dev/nvidia-uvm"
)
"""Else it is the driver's state. From what people found: pytorch/pytorch issues 49081, 88639."""


@dataclass(frozen=True, slots=True)
class NoCuda:
    """What keeps CUDA from starting in this process."""

    why: str
    """In torch's words."""
    remedy: str
    lasting: bool
    """Another process would have no more luck."""


def why_no_cuda(torch: Any) -> NoCuda | None:
    """``None`` where CUDA does start."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        words = str(error)
        for sign, remedy in LASTING.items():
            if sign in words.lower():
                return NoCuda(_shortened(words), remedy, lasting=True)
        return NoCuda(_shortened(words), STUCK, lasting=False)
    return None


def _shortened(words: str) -> str:
    """Without what torch supposes: mostly a variable that nobody has touched."""
    return words.strip().split("\n")[0].split(". ")[0].split(" - ")[0]
