"""Why torch finds no card at all where the driver shows some, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

RIGHT_BUILD = (
    "install torch and torchvision again, by the command that https://pytorch.org/get-started "
    "shows for this system and CUDA (on Windows plain `pip install torch` brings none)"
)
KNOWN = {
    # NVML is there, and libcuda is not.
    "found no nvidia driver": (
        "install the NVIDIA driver whole; a container needs "
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        True,
    ),
    "driver on your system is too old": (
        "update the NVIDIA driver, or install a torch for an older CUDA",
        True,
    ),
    "no cuda gpus are available": (
        "look at CUDA_VISIBLE_DEVICES, and in a container at the devices that it was given",
        False,
    ),
}
"""What torch says; the way out, and whether it lasts, whoever tries, until something is
installed."""
STUCK = (
    "restart the machine; on Linux `sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm` may "
    "do (after a suspend), and a container needs /dev/nvidia-uvm"
)
"""Else it is the driver's state. From what people found: pytorch/pytorch issues 49081, 88639."""
NUMBERED = re.compile(r"Error (\d+: .+)")


@dataclass(frozen=True, slots=True)
class NoCuda:
    """What keeps CUDA from starting in this process."""

    error: Exception
    why: str
    """In torch's words."""
    remedy: str
    lasting: bool
    """Another process would have no more luck."""


def why_no_cuda(torch: Any) -> NoCuda | None:
    """``None`` where CUDA does start."""
    try:
        torch.cuda.init()
    except AssertionError as error:  # torch was built without CUDA, or lacks a part of it
        return NoCuda(error, _shortened(str(error)), RIGHT_BUILD, lasting=True)
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        words = str(error)
        fitting = (known for sign, known in KNOWN.items() if sign in words.lower())
        remedy, lasting = next(fitting, (STUCK, False))
        return NoCuda(error, _shortened(words), remedy, lasting)
    return None


def _shortened(words: str) -> str:
    """The cause alone. Torch goes on with what it supposes: mostly a variable that nobody has
    touched. Of errors that it does not expect it tells the cause last."""
    if (cause := NUMBERED.search(words)) is not None:
        return f"error {cause[1]}"
    return words.strip().split("\n")[0].split(". ")[0].split(" - ")[0]
