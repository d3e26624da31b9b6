"""``danzar config check``: does a configuration that can be read fit this machine?"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bot.cli.exits import Exit
from bot.misfits import lines_of, misfits
from bot.missing_files import missing_files
from danzar_gpu.probes import ProbeError, ProbeName, open_probe

if TYPE_CHECKING:
    from bot.settings import Settings
    from danzar_gpu.memory import MemorySnapshot


def run(settings: Settings, path: Path, probe: ProbeName) -> int:
    """Print what does not fit, each with its place in the file; the exit status."""
    found = [*misfits(settings.gpu_memory, _cards(probe)), *missing_files(settings)]
    lines = lines_of(path)
    for misfit in found:
        print(f"{path}:{lines.get(misfit.key, 1)}: {misfit}", file=sys.stderr)
    if any(misfit.fatal for misfit in found):
        print("\nMend the lines above; docs/configuration.md has every key.", file=sys.stderr)
        return Exit.CONFIGURATION
    if found:
        print(f"{path}: it can be used, but look at the lines above.")
    elif path.exists():
        print(f"{path}: all is well.")
    else:
        print(f"{path} does not exist; the defaults apply, and they are well.")
    return Exit.OK


def _cards(probe: ProbeName) -> MemorySnapshot | None:
    """This machine's cards; nothing where there is no driver, or where it can't be read."""
    try:
        opened = open_probe("nvml" if probe == "auto" else probe)
        try:
            return opened.read(time.monotonic(), processes=False)
        finally:
            opened.close()
    except ProbeError:
        return None
