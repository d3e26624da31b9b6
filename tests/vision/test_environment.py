"""What is set before torch and ultralytics are imported, and that it had its effect."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bot.vision.worker import contexts, devices, environment
from bot.vision.worker.devices import PlaceError, bare_uuid, held, resolve
from bot.vision.worker.protocol import Destination


def test_everything_is_set() -> None:
    found: dict[str, str] = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST", "ULTRALYTICS_SAFE_LOAD": "0"}
    environment.prepare(found, threads=3)
    assert found["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert found["ULTRALYTICS_SAFE_LOAD"] == "1"
    assert found["YOLO_OFFLINE"] == "1"
    assert found["YOLO_AUTOINSTALL"] == "0"
    assert found["HF_HUB_OFFLINE"] == "1"
    assert found["OMP_NUM_THREADS"] == "3"
    # In the words that torch and cuBLAS both read; each product that a graph has keeps so much.
    sizes = re.findall(r":(\d+):(\d+)", found["CUBLAS_WORKSPACE_CONFIG"])
    assert 0 < sum(int(kib) * int(count) for kib, count in sizes) <= 10 << 10
    assert os.access(found["YOLO_CONFIG_DIR"], os.W_OK)


def test_what_a_person_named_is_kept() -> None:
    found = {"YOLO_CONFIG_DIR": "/somewhere", "CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    environment.prepare(found, threads=1)
    assert found["YOLO_CONFIG_DIR"] == "/somewhere"
    assert found["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


CHECK = """
import os
from bot.vision.worker import environment
{setup}
import torch, ultralytics.nn.tasks
environment.use_threads(3)
environment.require_safe_loading()
import cv2
print(torch.get_num_threads(), cv2.getNumThreads())
"""


def test_safe_loading_is_effective_and_the_threads_are_ours() -> None:
    program = CHECK.format(setup="environment.prepare(os.environ, 3)")
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[-2:] == ["3", "1"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows' OpenCV has another pool")
def test_opencv_never_has_a_pool_whose_threads_ultralytics_could_take_away() -> None:
    program = (
        "import os; from bot.vision.worker import environment; environment.prepare(os.environ, 3);"
        "import cv2; print(cv2.getNumThreads())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["1"]


def test_unsafe_loading_is_noticed() -> None:
    clean = {k: v for k, v in os.environ.items() if k != "ULTRALYTICS_SAFE_LOAD"}
    shown = subprocess.run(
        [sys.executable, "-c", CHECK.format(setup="")], capture_output=True, text=True, env=clean
    )
    assert shown.returncode != 0
    assert "UnsafeSurroundings" in shown.stderr


FRAMES = """
import json, resource, sys, threading
from collections import deque
import numpy as np, psutil
from bot.vision.worker import environment

environment.keep_freed_memory()
resident = lambda: psutil.Process().memory_info().rss >> 20
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
found = {}

def film():
    waiting = deque(maxlen=8)
    def another():
        waiting.append(None)  # the oldest goes before the new one comes
        waiting[-1] = [np.full(size << 20, 1, np.uint8) for size in (3, 6)]
    for _ in range(16):
        another()
    before = faults()
    for _ in range(64):
        another()
    found["faults"] = (faults() - before) / 64
    found["full"] = resident()
    for _ in range(5):
        waiting.pop()
    found["kept"] = resident()
    environment.return_freed_memory()
    found["returned"] = resident()

thread = threading.Thread(target=film)
thread.start()
thread.join()
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_frames_take_the_memory_of_those_before_them_until_it_is_returned() -> None:
    program = [sys.executable, "-c", FRAMES]
    shown = subprocess.run(program, capture_output=True, text=True, check=True)
    found = json.loads(shown.stdout)
    # 9 MiB are 2304 pages: each was cleared by the kernel again where memory came and went.
    assert found["faults"] < 20, found
    assert found["kept"] > found["full"] - 20, found
    assert found["returned"] < found["kept"] - 30, found


def test_whoever_gives_back_returns_the_hosts_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[bool] = []
    monkeypatch.setattr(devices, "return_freed_memory", lambda: returned.append(True))
    devices.give_back()
    assert returned == [True]


def test_without_glibc_nothing_is_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: None) -> None:
        raise OSError("a program without a dynamic loader")

    monkeypatch.setattr(environment.ctypes, "CDLL", none)
    environment.keep_freed_memory()
    environment.return_freed_memory()


class FakeCuda:
    """Two cards as torch would see them."""

    class DeferredCudaCallError(Exception):
        """As torch's: something that was put off until CUDA starts has failed."""

    def __init__(self, *uuids: str) -> None:
        self.uuids = uuids
        self.shares: dict[int, float] = {}
        self.contexts: list[int] = []
        self.fault: Exception | None = None
        self.no_start: Exception | None = None

    def init(self) -> None:
        if self.no_start is not None:
            raise self.no_start

    def device_count(self) -> int:
        return len(self.uuids)

    def get_device_properties(self, index: int) -> SimpleNamespace:
        if index >= len(self.uuids):
            raise AssertionError("Invalid device id")
        name = ("NVIDIA GeForce RTX 4070 SUPER", "NVIDIA GeForce RTX 4070")[index]
        return SimpleNamespace(uuid=self.uuids[index], name=name, total_memory=12 << 30)

    def set_per_process_memory_fraction(self, share: float, index: int) -> None:
        self.shares[index] = share

    def synchronize(self, index: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.contexts.append(index)

    def memory_reserved(self, index: int) -> int:
        return 100 * (index + 1)

    def memory_allocated(self, index: int) -> int:
        return 50 * (index + 1)

    def memory_stats(self, index: int) -> dict[str, int]:
        return {}


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    import torch

    fake = FakeCuda("aaaa-1", "bbbb-2")
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(contexts, "_made", {})
    return fake


def test_the_card_that_is_meant_is_taken_and_capped(cuda: FakeCuda) -> None:
    place = resolve(
        Destination(device="cuda:1", uuid="GPU-BBBB-2", card="RTX 4070", limit_bytes=3 << 30)
    )
    assert (str(place.device), place.shown, place.on_card) == ("cuda:1", "cuda:1", True)
    assert cuda.shares == {1: 0.25}


def test_a_card_has_its_uuid_whatever_torch_s_number_is(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first card was lost; the bot goes on calling the second one cuda:1.
    cuda.uuids = ("bbbb-2",)
    used = iter((1000 << 20, 1430 << 20))
    monkeypatch.setattr(contexts, "_used_bytes", lambda _: next(used))
    order = Destination(device="cuda:1", uuid="GPU-bbbb-2", limit_bytes=6 << 30)
    place = resolve(order)
    assert (place.device, place.shown) == ("cuda:0", "cuda:1")
    assert resolve(order) == place
    assert cuda.shares == {0: 0.5}
    assert cuda.contexts == [0]
    (row,) = held()
    assert (row.index, row.reserved_bytes, row.context_bytes) == (1, 100, 430 << 20)


def test_a_card_that_is_not_there_is_an_error_that_names_those_that_are(cuda: FakeCuda) -> None:
    with pytest.raises(PlaceError) as caught:
        resolve(Destination(device="cuda:0", uuid="GPU-cccc-3", card="RTX 4090"))
    words = str(caught.value)
    assert "RTX 4090 (GPU-cccc-3)" in words
    assert "RTX 4070 SUPER (GPU-aaaa-1)" in words
    assert "CUDA_VISIBLE_DEVICES" in words
    assert held() == ()


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ("CUDA error: out of memory", "memory"),
        ("CUDA-capable device(s) is/are busy or unavailable", "process"),
    ],
)
def test_a_card_that_takes_no_context_is_refused_with_its_reason(
    cuda: FakeCuda, words: str, about: str
) -> None:
    cuda.fault = RuntimeError(words)
    with pytest.raises(PlaceError, match=re.escape(words)) as caught:
        resolve(Destination(device="cuda:0", uuid="GPU-aaaa-1", card="RTX 4070 SUPER"))
    assert caught.value.about == about
    assert held() == ()


def test_a_card_that_torch_does_not_see_is_an_error(cuda: FakeCuda) -> None:
    with pytest.raises(PlaceError, match="sees 2 cards"):
        resolve(Destination(device="cuda:5", card="RTX 4090"))


def test_a_card_that_nvml_counts_and_cuda_lost_is_out_of_reach_of_this_process(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda.uuids = ("aaaa-1",)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    with pytest.raises(PlaceError, match="it was away when the worker started") as caught:
        resolve(Destination(device="cuda:1", uuid="GPU-bbbb-2", card="RTX 4070"))
    assert caught.value.about == "process"
    assert resolve(Destination(device="cuda:0", uuid="GPU-aaaa-1")).device == "cuda:0"


def test_a_broken_context_is_no_refusal_of_the_card(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(Destination(device="cuda:0", uuid="GPU-aaaa-1"))
    cuda.fault = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal memory access") as caught:
        resolve(Destination(device="cuda:1", uuid="GPU-bbbb-2"))
    assert not isinstance(caught.value, PlaceError)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (AssertionError("Torch not compiled with CUDA enabled"), "pytorch.org/get-started"),
        (AssertionError("libcudart functions unavailable"), "pytorch.org/get-started"),
        (RuntimeError("Found no NVIDIA driver on your system. Please check ..."), "utility"),
        (
            RuntimeError("The NVIDIA driver on your system is too old (found version 12020)."),
            "update the NVIDIA driver",
        ),
    ],
)
def test_cards_that_this_torch_can_never_use_are_rehearsed_on_the_cpu_in_words(
    cuda: FakeCuda, error: Exception, remedy: str
) -> None:
    cuda.no_start = error
    place = resolve(Destination(device="cuda:0", card="RTX 4090", may_rehearse=True))
    assert not place.on_card
    assert place.shown == "cuda:0 (torch can't use it; really on the CPU)"
    assert str(error).split(".")[0] in place.note
    assert remedy in place.note
    with pytest.raises(PlaceError, match=re.escape(remedy)) as caught:
        resolve(Destination(device="cuda:0", card="RTX 4090"))
    assert caught.value.about == "place"


def test_a_cuda_that_does_not_start_is_nothing_to_rehearse_for(cuda: FakeCuda) -> None:
    """As after a suspend: another process may have more luck, and the model is not on the card."""
    cuda.no_start = RuntimeError(
        "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing "
        "env variable CUDA_VISIBLE_DEVICES after program start."
    )
    with pytest.raises(PlaceError) as caught:
        resolve(Destination(device="cuda:0", card="RTX 4090", may_rehearse=True))
    assert caught.value.about == "process"
    assert "CUDA does not start for cuda:0 (RTX 4090): CUDA unknown error" in str(caught.value)
    assert "modprobe nvidia_uvm" in str(caught.value)
    assert "VISIBLE_DEVICES" not in str(caught.value)
    cuda.no_start = RuntimeError("No CUDA GPUs are available")
    with pytest.raises(PlaceError, match="look at CUDA_VISIBLE_DEVICES") as caught:
        resolve(Destination(device="cuda:0", card="RTX 4090", may_rehearse=True))
    assert caught.value.about == "process"
    unexpected = (
        "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before "
        "calling NumCudaDevices() that might have already set an error? Error %s"
    )
    for error, about in (
        ("802: system not yet initialized", "process"),
        ("2: out of memory", "memory"),
    ):
        cuda.no_start = RuntimeError(unexpected % error)
        with pytest.raises(PlaceError, match=f"RTX 4090.: error {error}") as caught:
            resolve(Destination(device="cuda:0", card="RTX 4090", may_rehearse=True))
        assert caught.value.about == about
        assert "Did you run" not in str(caught.value)
    words = "CUDA call failed lazily at initialization with error: Invalid device id\n\nCUDA ..."
    cuda.no_start = cuda.DeferredCudaCallError(words)
    with pytest.raises(PlaceError, match="with error: Invalid device id") as caught:
        resolve(Destination(device="cuda:0", card="RTX 4090", may_rehearse=True))
    assert caught.value.about == "process"
    assert "\n" not in str(caught.value)


def test_a_simulated_card_is_the_cpu_and_says_so(cuda: FakeCuda) -> None:
    place = resolve(Destination(device="cuda:1", uuid="GPU-x", simulated=True))
    assert not place.on_card
    assert place.shown == "cuda:1 (simulated; really on the CPU)"


def test_uuids_are_compared_without_nvmls_prefix() -> None:
    assert bare_uuid("GPU-0A1b") == bare_uuid("0a1B")
