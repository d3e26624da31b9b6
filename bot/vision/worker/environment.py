"""The worker's surroundings: what must be set before torch and ultralytics are imported."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path

MIN_TORCH = (2, 6)
MIN_ULTRALYTICS = (8, 4, 100)
PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT_BYTES = 64 << 20
LARGEST_KEPT_BYTES = 32 << 20
"""glibc's limit; an 8K frame is larger, all others are smaller."""

_IMPORTS = threading.Lock()


class UnsafeSurroundings(RuntimeError):
    """Checkpoints could not be opened safely here."""


def prepare(environment: MutableMapping[str, str], threads: int) -> None:
    """Fix what the libraries read from the environment when they are imported."""
    # Ordinals as the bus numbers them and NVML counts; CUDA's own order is fastest first.
    environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    environment["ULTRALYTICS_SAFE_LOAD"] = "1"
    environment["YOLO_AUTOINSTALL"] = "0"
    environment["YOLO_OFFLINE"] = "1"
    environment["YOLO_VERBOSE"] = "0"
    environment["HF_HUB_OFFLINE"] = "1"
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # ultralytics would set 1 where nothing is set.
    environment["OMP_NUM_THREADS"] = str(threads)
    environment["MKL_NUM_THREADS"] = str(threads)
    # torch's threads would spin for a while after each step, on cores that OpenVINO, the other
    # model or the game could use.
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    environment["GOMP_SPINCOUNT"] = "0"
    # From its first call on: ultralytics sets OpenCV's threads to 0 when it is imported, and a pool
    # that computes in another thread at that moment (the capture's) then divides by zero: SIGFPE.
    environment["OPENCV_FOR_THREADS_NUM"] = "1"
    # torch takes 32 MiB for each computation of cuBLAS on Hopper and later, and a graph keeps that
    # for good; these 8 MiB are what other cards get, and more than our small products use.
    environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8")
    environment.setdefault("YOLO_CONFIG_DIR", str(_config_dir()))
    # OpenVINO reports each conversion to a statistics service unless this package is not there;
    # it has no switch of its own, and falls back to a stub that sends nothing.
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def _config_dir() -> Path:
    """A folder of ours for ultralytics' settings file; it need not outlive the process."""
    user = getattr(os, "getuid", lambda: "user")()
    folder = Path(tempfile.gettempdir()) / f"danzar-ultralytics-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        # The name can be foreseen: a link that somebody else laid there is not followed.
        if mine and stat.S_ISDIR(found.st_mode) and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="danzar-ultralytics-"))


def keep_freed_memory() -> None:
    """Let glibc use the memory of the last frame for the next one.

    It would give blocks of this size back at once, and the kernel clears each page that it gives
    out again: for a frame that takes longer than to fill it. The threads share one arena: one of
    their own has parts of 64 MiB, and those go back as soon as a few frames have left them.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Give the system what is kept for a next frame, when none is expected soon."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """``None`` where another C library is in its place."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def die_with(parent: int) -> None:
    """Linux kills us when the parent dies, even while we are stopped or busy."""
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return  # the end of the pipe tells us, too
    if os.getppid() != parent:
        os._exit(0)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """One heavy import at a time: two threads that import torch can each see half of it."""
    with _IMPORTS:
        yield


def use_threads(threads: int) -> None:
    """One pool of this size for torch; OpenCV without threads of its own. Needs torch."""
    import torch

    torch.set_num_threads(threads)
    one_thread_for_opencv()


def one_thread_for_opencv() -> None:
    """Its steps are short; a pool of its own would only compete with the models'."""
    import cv2

    cv2.setNumThreads(1)


def require_safe_loading() -> None:
    """Make sure that ultralytics really opens checkpoints with its restricted loader.

    Raises:
        UnsafeSurroundings: it would fall back to running whatever a pickle says.
    """
    import torch
    import ultralytics
    from ultralytics.utils import SAFE_LOAD, SETTINGS

    if _version(torch.__version__) < MIN_TORCH or not SAFE_LOAD:
        raise UnsafeSurroundings(
            f"torch {torch.__version__} with ULTRALYTICS_SAFE_LOAD={SAFE_LOAD} opens checkpoints "
            "unsafely; torch 2.6 or later is needed"
        )
    if _version(ultralytics.__version__) < MIN_ULTRALYTICS:
        raise UnsafeSurroundings(
            f"ultralytics {ultralytics.__version__} opens checkpoints unsafely; 8.4.100 or later "
            "is needed"
        )
    if SETTINGS.get("sync"):
        SETTINGS.update({"sync": False})


def _version(text: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in text.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
