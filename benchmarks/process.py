"""The runner's end of the line to a subject in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 600.0
ANSWER_SECONDS = 600.0
OFFLINE = {
    # Peers are measured, not updated: none of them may reach for the network.
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_VERBOSE": "0",
    "ULTRALYTICS_SAFE_LOAD": "1",
    "HF_HUB_OFFLINE": "1",
    # As in our worker: cuda:0 is the same card on both sides.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}


def surroundings(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a subject."""
    folder = Path(tempfile.gettempdir()) / "danzar-benchmarks-ultralytics"
    folder.mkdir(exist_ok=True)
    # Compiled modules are kept, as on everybody's machine.
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **OFFLINE, "YOLO_CONFIG_DIR": str(folder), **(more or {})}


class SubjectFailed(Exception):
    """The program ended or said nothing; with its last words."""


class Subject:
    """A started program."""

    def __init__(self, process: asyncio.subprocess.Process, module: str) -> None:
        self._process = process
        self._module = module
        self._errors: deque[str] = deque(maxlen=12)
        self.greeting: dict[str, Any] = {}
        """The first line that it printed."""
        self._drain = asyncio.create_task(self._collect_errors())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ``SubjectFailed``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        return await self.hear(ANSWER_SECONDS)

    async def hear(self, seconds: float) -> dict[str, Any]:
        """The next line. Raises ``SubjectFailed``."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise SubjectFailed(f"{self._module} was silent for {seconds:g} s") from None
        if not line:
            await asyncio.wait([self._drain], timeout=2)
            raise SubjectFailed(f"{self._module} ended: " + " | ".join(self._errors))
        return json.loads(line)

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(self._drain, return_exceptions=True)

    async def _collect_errors(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self._errors.append(line.decode("utf-8", "replace").strip()[:300])


@asynccontextmanager
async def subject(
    module: str, *arguments: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[Subject]:
    """``python -m module``, ready to be asked; ended at the end.

    Raises:
        SubjectFailed: it did not come up.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=surroundings(env),
    )
    started = Subject(process, module)
    try:
        started.greeting = await started.hear(START_SECONDS)
        yield started
    finally:
        await started.end()
