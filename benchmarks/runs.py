"""What every part is given: how thorough to be, where the materials lie, whom to tell."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import cores
from benchmarks.process import SubjectFailed, surroundings
from benchmarks.results import Result

Part = Callable[["Run"], Awaitable[Result]]


@dataclass(slots=True)
class Run:
    """One run of some parts."""

    folder: Path
    """For films, models and whatever else a part makes; gone at the end."""
    quick: bool
    tell: Callable[[float, str], None]
    """Told how far the part is (0 to 1) and what it does."""
    threads: int = field(default_factory=cores)
    """What "equal threads" means: all cores that this process may use."""
    _made: set[str] = field(default_factory=set[str])

    @property
    def rounds(self) -> int:
        """How often each subject of a comparison is asked."""
        return 2 if self.quick else 3

    def choose(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    async def films(self) -> Path:
        """The folder, with ``moving.mp4`` and the others in it. Raises ``SubjectFailed``."""
        return await self._make("films", "rendering films")

    async def models(self) -> Path:
        """The folder, with the well-known architectures in it. Raises ``SubjectFailed``."""
        return await self._make("models", "making models with random weights")

    async def _make(self, what: str, words: str) -> Path:
        if what not in self._made:
            self.tell(0.0, words)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "benchmarks.subjects.materials",
                what,
                str(self.folder),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=surroundings(),
            )
            _, errors = await process.communicate()
            if process.returncode:
                raise SubjectFailed(f"no {what}: {errors.decode()[-500:]}")
            self._made.add(what)
        return self.folder


@asynccontextmanager
async def opened(quick: bool, tell: Callable[[float, str], None]) -> AsyncIterator[Run]:
    """A run with a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="danzar-benchmarks-") as folder:
        yield Run(Path(folder), quick, tell)
