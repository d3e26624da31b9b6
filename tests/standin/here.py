"""The stand-in driver in this very process: for tests that turn clocks and need no subprocess."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml

from tests.standin.nvml import SCENARIO_VARIABLE, StandinNvml


@contextlib.contextmanager
def driver_here(standin: StandinNvml, *, installed: bool = True) -> Iterator[StandinNvml]:
    """The real pynvml of this process asks the stand-in; not ``installed``: it finds no library."""
    before = os.environ.get(SCENARIO_VARIABLE)
    os.environ[SCENARIO_VARIABLE] = str(standin.scenario_path)
    with _libraries():
        if installed:
            install(standin.library)
        try:
            yield standin
        finally:
            if before is None:
                os.environ.pop(SCENARIO_VARIABLE, None)
            else:
                os.environ[SCENARIO_VARIABLE] = before


def install(library: Path) -> None:
    """From now on pynvml finds the driver's library."""
    module: Any = pynvml
    module.nvmlLib = ctypes.CDLL(str(library))
    module._nvmlGetFunctionPointer_cache.clear()


@contextlib.contextmanager
def _libraries() -> Iterator[None]:
    module: Any = pynvml
    before = module.nvmlLib
    module.nvmlLib = None
    module._nvmlGetFunctionPointer_cache.clear()
    try:
        yield
    finally:
        module.nvmlLib = before
        module._nvmlGetFunctionPointer_cache.clear()
