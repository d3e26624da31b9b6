"""Model files: where they lie, what they hash to, which of them were pulled. No torch.

A folder of models has a ``manifest.json``: from a file's path within it to
``{"sha256": ..., ...}``. What a manifest names is opened only if it hashes to that.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.vision.refusal import Refusal

CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = "open_clip_model.safetensors"
MANIFEST = "manifest.json"
MAX_HEADER_BYTES = 16 << 20
MAX_ENTRIES = 100_000
"""A YOLO has some hundred tensors, each an entry of the archive."""
PULLED = Path("models/pulled")
_PROJECT = Path(__file__).resolve().parent.parent.parent


class FileRefused(Refusal):
    """A model file that is not what it should be."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What the manifest says of one file."""

    sha256: str
    image_size: int | None = None


def locate(path: str | Path) -> Path:
    """A configured path; a relative one from the working folder, else beside the program."""
    path = Path(path).expanduser()
    if path.is_absolute() or path.exists():
        return path
    beside = _PROJECT / path
    return beside if beside.exists() else path


def pulled_folder(model_name: str) -> Path:
    """Where ``danzar models pull`` puts open_clip's ``ViT-B/32`` and its like.

    Raises:
        FileRefused: the name could leave the folder.
    """
    name = folder_name(model_name)
    return locate(PULLED) / name


def folder_name(model_name: str) -> str:
    """``ViT-B/32`` as a folder: ``ViT-B-32``. Raises ``FileRefused``."""
    name = model_name.strip().replace("/", "-")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise FileRefused(f"{model_name!r} is no model name", "take one such as ViT-B/32")
    return name


def pin_of(path: Path) -> Pin | None:
    """What a manifest beside the file, or one folder above, says of it.

    Raises:
        FileRefused: there is a manifest, but it can't be read.
    """
    for folder in (path.parent, path.parent.parent):
        manifest = folder / MANIFEST
        if not manifest.is_file():
            continue
        entry = read_manifest(manifest).get(path.relative_to(folder).as_posix())
        if entry is not None:
            size = entry.get("imgsz")
            return Pin(str(entry["sha256"]), size if isinstance(size, int) else None)
    return None


def read_manifest(manifest: Path) -> dict[str, dict[str, Any]]:
    """Entries by file. Raises ``FileRefused`` when it is damaged."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if isinstance(content, dict) and all(
            isinstance(v, dict) and re.fullmatch(r"[0-9a-f]{64}", str(v.get("sha256")))
            for v in content.values()
        ):
            return content
    except (OSError, ValueError):
        pass
    raise FileRefused(f"{manifest} is damaged", "restore it from the repository")


def sha256_of(path: Path) -> str:
    """The file's hash. Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_checkpoint(path: Path) -> None:
    """Refuse what no ``torch.save`` has written, before anything in it is unpacked.

    Such a file is a zip archive that compresses nothing, so it unpacks to its own size: there is
    no room for a bomb in it. Older kinds, bare pickles, are not opened at all.

    Raises:
        FileRefused: it is another kind of file, or would unpack to more than it holds.
    """
    remedy = "use a checkpoint that ultralytics has saved"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        size = path.stat().st_size
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise FileRefused(f"{path.name} is no checkpoint ({error})", remedy) from None
    if len(entries) > MAX_ENTRIES:
        raise FileRefused(f"{path.name} holds {len(entries)} files, too many", remedy)
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise FileRefused(
            f"{path.name} has {size} bytes and would unpack to {unpacked}: no checkpoint does",
            remedy,
        )


def safetensors_parameters(path: Path) -> int:
    """How many numbers a safetensors file holds; 0 if its header can't be read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER_BYTES:
                return 0
            header = json.loads(file.read(length))
        tensors = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(int(side) for side in shape) for shape in tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0


def check_hash(path: Path, expected: str | None) -> None:
    """Raises ``FileRefused`` if the file hashes to something else than ``expected``."""
    if expected is None:
        return
    try:
        found = sha256_of(path)
    except OSError as error:
        raise FileRefused(f"{path} can't be read: {error.strerror}", "check the file") from None
    if found != expected:
        raise FileRefused(
            f"{path.name} is not the file it should be: SHA-256 {found[:16]}... instead of "
            f"{expected[:16]}...",
            "restore it from the repository (or pull it again), or copy it elsewhere and name "
            "that path if the change is meant",
        )
