"""Converted models on disk: made once, checked when they are opened, renewed by themselves.

A model's folder is named by a hash of everything that the result depends on: the model's file,
the versions of the libraries and what the processor can do. It holds networks in OpenVINO's
format, ``about.json``, and the embeddings of phrases that were asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from bot.vision.model_files import sha256_of

FORMAT = 1
"""Raised whenever what is converted, or how, changes."""
ABOUT = "about.json"
LIBRARIES = ("openvino", "torch", "ultralytics", "open_clip_torch")
MOST_FOLDERS = 12
"""The ones that were not used for longest go: old models, old versions."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A model in OpenVINO's format that was found to be right."""

    folder: Path
    precision: Literal["f32", "bf16"]
    facts: dict[str, Any]
    """What the code around the network must know: class names, sizes."""
    note: str = ""
    """What went another way than planned while it was made."""

    def network(self, name: str) -> Path:
        return self.folder / f"{name}.xml"


def folder_for(cache: Path, kind: str, sha256: str, capabilities: str) -> Path:
    """Where the conversion of a model belongs.

    Raises:
        PackageNotFoundError: openvino is not installed.
    """
    versions = [f"{name} {_version(name)}" for name in LIBRARIES if name != "openvino"]
    parts = (FORMAT, kind, sha256, f"openvino {version('openvino')}", *versions, capabilities)
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return cache / f"{kind}-{key[:24]}"


def opened(folder: Path) -> Converted | None:
    """What lies there, if it is whole."""
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        for name, digest in about["files"].items():
            if Path(name).name != name or sha256_of(folder / name) != digest:
                return None
        os.utime(folder)
        return Converted(folder, about["precision"], about["facts"], about.get("note", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def being_made(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place in one step; on an error nothing is left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield made
        if folder.exists():
            shutil.rmtree(folder)
        try:
            made.rename(folder)
        except OSError:
            # Another worker made the same and was first.
            if opened(folder) is None:
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    _forget_old(folder.parent)


def describe(folder: Path, *, precision: str, facts: dict[str, Any], note: str) -> None:
    """Write ``about.json`` for what lies in the folder now."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    about = {"precision": precision, "facts": facts, "note": note, "files": files}
    (folder / ABOUT).write_text(json.dumps(about, indent=1), "utf-8")


def _forget_old(cache: Path) -> None:
    folders = [path for path in cache.iterdir() if (path / ABOUT).is_file()]
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in folders[MOST_FOLDERS:]:
        shutil.rmtree(path, ignore_errors=True)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
