"""Settings that must be made before ultralytics, torch or open_clip are imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def prepare() -> None:
    """Keep the libraries offline, safe in what they open, and from spinning on shared cores."""
    folder = Path(tempfile.gettempdir()) / "danzar-ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {
        "ULTRALYTICS_SAFE_LOAD": "1",
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "0",
        "YOLO_CONFIG_DIR": str(folder),
        "YOLO_VERBOSE": "False",
        "HF_HUB_OFFLINE": "1",
        # Threads that wait for one another give their core away: on a shared machine
        # that made a training step three times as fast.
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
