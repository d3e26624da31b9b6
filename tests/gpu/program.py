"""A second program that takes memory on a card as an LLM's server would.

``python -m tests.gpu.program BACKEND ORDINAL`` obeys lines on its standard input: ``take BYTES``
(answered ``took BYTES`` or ``failed WHY``), ``give`` and ``quit``. The backend ``cuda`` speaks to
the driver itself: it starts in a fraction of the time that torch takes, and has no allocator of
its own between the card and the figures. ``host`` takes main memory: that needs no card.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

CHUNK_BYTES = 1 << 30
ROOT = Path(__file__).parents[2]


class Backend(Protocol):
    def take(self, size: int) -> None:
        """Raises ``MemoryError``."""
        ...

    def give(self) -> None: ...


class Host:
    """Main memory, untouched."""

    def __init__(self, ordinal: int) -> None:
        self._blocks: list[bytearray] = []

    def take(self, size: int) -> None:
        if size > 1 << 40:
            raise MemoryError("more than any test means")
        self._blocks.append(bytearray(size))

    def give(self) -> None:
        self._blocks.clear()


class Cuda:
    """The driver's own API: one context, plain allocations."""

    def __init__(self, ordinal: int) -> None:
        name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
        self._cuda: Any = ctypes.CDLL(name)
        self._blocks: list[ctypes.c_uint64] = []
        self._check("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._check("cuDeviceGet", ctypes.byref(device), ordinal)
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._check("cuCtxSetCurrent", context)

    def take(self, size: int) -> None:
        taken: list[ctypes.c_uint64] = []
        try:
            for start in range(0, size, CHUNK_BYTES):
                block = ctypes.c_uint64()
                chunk = ctypes.c_size_t(min(CHUNK_BYTES, size - start))
                self._check("cuMemAlloc_v2", ctypes.byref(block), chunk)
                taken.append(block)
        except MemoryError:
            for block in taken:
                self._check("cuMemFree_v2", block)
            raise
        self._blocks += taken

    def give(self) -> None:
        while self._blocks:
            self._check("cuMemFree_v2", self._blocks.pop())

    def _check(self, function: str, *arguments: Any) -> None:
        status = getattr(self._cuda, function)(*arguments)
        if status:
            name = ctypes.c_char_p()
            self._cuda.cuGetErrorName(status, ctypes.byref(name))
            said = (name.value or b"an unknown error").decode()
            raise MemoryError(f"{function} said {said} ({status})")


BACKENDS: dict[str, type[Host] | type[Cuda]] = {"host": Host, "cuda": Cuda}


def serve(backend: Backend) -> None:
    """Obey until ``quit`` or the end of the input."""
    print("ready", flush=True)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "quit":
            return
        try:
            if word == "take":
                backend.take(int(rest))
                print(f"took {rest}", flush=True)
            else:
                backend.give()
                print("gave", flush=True)
        except MemoryError as error:
            print(f"failed {error}", flush=True)


class Program:
    """The program, as a test uses it. Blocks until it has answered."""

    def __init__(self, backend: str, ordinal: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.program", backend, str(ordinal)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        )
        self.pid = self._process.pid
        assert self._answer() == "ready", "the program did not start: its words are above"

    def take(self, size: int) -> None:
        """Raises ``MemoryError``: it starved."""
        answer = self._say(f"take {size}")
        if not answer.startswith("took"):
            raise MemoryError(answer)

    def give(self) -> None:
        assert self._say("give") == "gave"

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(timeout=30)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _say(self, words: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


if __name__ == "__main__":
    serve(BACKENDS[sys.argv[1]](int(sys.argv[2])))
