"""What NVML's return codes mean, in words, with what to do about each."""

from __future__ import annotations

import sys

from danzar_gpu.probes import ProbeError

UNINITIALISED, NOT_SUPPORTED, NO_PERMISSION, NOT_LOADED, LOST, MISMATCH = 1, 3, 4, 9, 15, 18

RESTART_CODES = frozenset({UNINITIALISED, NOT_LOADED, LOST, MISMATCH, 999})
"""After these the handles may be worth nothing: the library is started again."""

_ON_WINDOWS = sys.platform == "win32"

_REMEDIES: dict[int, tuple[str, str]] = {
    UNINITIALISED: ("NVML is not initialised", "Danzar starts it again by itself"),
    NOT_SUPPORTED: (
        "the driver does not support this reading",
        "nothing can be done about it here; `danzar doctor` tells what is known",
    ),
    NO_PERMISSION: (
        "no permission to ask the driver",
        "run as a user of the `video` group, or as in compose",
    ),
    NOT_LOADED: (
        "the NVIDIA driver is not loaded",
        "load or install it (`nvidia-smi` must work); Danzar finds it by itself",
    ),
    12: (
        f"{'nvml.dll' if _ON_WINDOWS else 'libnvidia-ml.so.1'} was not found",
        "install the NVIDIA driver"
        + ("" if _ON_WINDOWS else "; in a container give it the `utility` capability"),
    ),
    13: ("the driver's library is too old for this reading", "update the NVIDIA driver"),
    LOST: ("a GPU is lost", "it fell off the bus or was reset; reboot if it does not come back"),
    MISMATCH: (
        "the driver and its library are of different versions",
        "an update is half done: reboot, or reload the nvidia module; in a container make it anew",
    ),
    999: (
        "the driver reports an unknown error",
        "in a container the device may have been withdrawn: restart it",
    ),
}


def describe(error: BaseException) -> ProbeError:
    """A driver's error in words, with what to do about it."""
    cause, remedy = _REMEDIES.get(
        error_code(error), (f"the driver answered: {error}", "see `danzar doctor`")
    )
    return ProbeError(cause, remedy)


def error_code(error: BaseException) -> int:
    """NVML's return code; -1 for what is no NVML error."""
    value = getattr(error, "value", -1)
    return value if isinstance(value, int) else -1
