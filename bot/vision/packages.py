"""Whether what vision needs is installed, without importing any of it."""

from __future__ import annotations

import importlib.util

PACKAGES = ("torch", "torchvision", "ultralytics", "open_clip", "cv2", "av", "mss")
"""What the worker can't do without, by the names that are imported (the extra ``vision``)."""


def missing_packages() -> tuple[str, ...]:
    """Those of ``PACKAGES`` that can't be found here."""
    return tuple(name for name in PACKAGES if importlib.util.find_spec(name) is None)


def why_no_vision(missing: tuple[str, ...]) -> str:
    """What people are told when there are some."""
    return (
        f"vision is not part of this installation ({', '.join(missing)} missing); the rest works. "
        'Install it with `pip install -e ".[vision]"`, or take the image\'s target `full`'
    )
