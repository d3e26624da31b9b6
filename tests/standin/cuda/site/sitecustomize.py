"""Python imports this at its start where the folder is in ``PYTHONPATH``: a torch that is imported
later computes on the cards of the stand-in."""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

WITH_KERNELS = ("torch", "torchvision")
LIBRARY = "libcudart.so.13"
_kernels: Any = None


class _Loader(importlib.abc.Loader):
    """Theirs, and our kernels after it."""

    def __init__(self, theirs: Any) -> None:
        self._theirs = theirs

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._theirs.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        global _kernels
        self._theirs.exec_module(module)
        if _kernels is None:
            path = Path(__file__).parents[1] / "kernels.py"
            spec = importlib.util.spec_from_file_location("standin_kernels", path)
            assert spec is not None and spec.loader is not None
            _kernels = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(_kernels)
        _kernels.override(module.__name__)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self) -> None:
        self._left = set(WITH_KERNELS)

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        if name not in self._left:
            return None
        self._left.remove(name)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


if LIBRARY in os.environ.get("LD_PRELOAD", ""):
    sys.meta_path.insert(0, _Finder())
