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
    _made: bool = False

    @property
    def rounds(self) -> int:
        """How often each subject of a comparison is asked."""
        return 2 if self.quick else 3

    def choose(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    async def materials(self) -> Path:
        """The folder with films and models, made when they are first asked for.

        Raises:
            SubjectFailed: they can't be made.
        """
        if not self._made:
            self.tell(0.0, "rendering films, making models with random weights")
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "benchmarks.subjects.materials",
                str(self.folder),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=surroundings(),
            )
            _, errors = await process.communicate()
            if process.returncode:
                raise SubjectFailed(f"no materials: {errors.decode()[-500:]}")
            self._made = True
        return self.folder


@asynccontextmanager
async def opened(quick: bool, tell: Callable[[float, str], None]) -> AsyncIterator[Run]:
    """A run with a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="danzar-benchmarks-") as folder:
        yield Run(Path(folder), quick, tell)
