"""Which file each model is read from: services, the doctor and ``config check`` all ask here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bot.vision.model_files import (
    CLIP_WEIGHTS,
    FileRefused,
    Pin,
    locate,
    pin_of,
    pulled_folder,
)

if TYPE_CHECKING:
    from bot.settings import ClipSettings, YoloSettings


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that is there; its hash was not looked at."""

    path: Path
    pin: Pin | None
    pulled: bool = False


def yolo_file(wish: YoloSettings) -> ModelFile:
    """YOLO's checkpoint. Raises ``FileRefused``: it is missing, or its manifest is damaged."""
    path = locate(wish.model_path)
    if not _is_file(path):
        raise FileRefused(
            f"{wish.model_path} is missing",
            "put an ultralytics checkpoint there or change yolo.model_path",
        )
    return ModelFile(path, pin_of(path))


def clip_file(wish: ClipSettings) -> ModelFile:
    """The weights of the pulled CLIP, else of the shipped one.

    Raises:
        FileRefused: neither is there, the pulled one's hash is not on record, or a manifest is
            damaged.
    """
    weights = pulled_folder(wish.model_name) / CLIP_WEIGHTS
    if _is_file(weights):
        pin = pin_of(weights)
        if pin is None:
            raise FileRefused(
                f"{weights} was not put there by `danzar models pull`: its hash is not on record",
                f"run `danzar models pull {wish.model_name}`",
            )
        return ModelFile(weights, pin, pulled=True)
    weights = locate(wish.model_path) / CLIP_WEIGHTS
    if not _is_file(weights):
        raise FileRefused(
            f"{wish.model_path}/{CLIP_WEIGHTS} is missing and {wish.model_name} is not pulled",
            f"run `danzar models pull {wish.model_name}` or restore the folder",
        )
    return ModelFile(weights, pin_of(weights))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        what = f"{path} can't be reached: {error.strerror}"
        raise FileRefused(what, "give this user the right to read it") from None
