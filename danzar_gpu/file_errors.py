"""What the system has against a file, in words."""

from __future__ import annotations

import os
from pathlib import Path


def why(error: OSError, path: Path) -> str:
    """Why a file can't be read or written. Of a folder Windows says that permission is denied."""
    # Path.is_dir raises where the folder above may not be searched.
    is_folder = os.path.isdir(path)  # noqa: PTH112
    return "it is a folder, not a file" if is_folder else error.strerror or str(error)
