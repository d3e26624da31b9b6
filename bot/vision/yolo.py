"""YOLO as a service: which checkpoint, and what it is expected to need."""

from __future__ import annotations

import math

from bot.vision.chosen_files import yolo_file
from bot.vision.service import CONTEXT_BYTES, ModelService, Plan
from bot.vision.worker.protocol import YoloSpec
from danzar_gpu import Footprint

DEFAULT_IMAGE_SIZE = 640
NANO_FILE_BYTES = 6 << 20
NANO_ACTIVATIONS_BYTES = 64 << 20
WORKSPACE_BYTES = 64 << 20


class YoloService(ModelService):
    """Finds objects. More important than CLIP: boxes are what a HUD is read with."""

    name = "yolo"
    title = "YOLO"
    priority = 20

    @property
    def enabled(self) -> bool:
        return self.settings.yolo.enabled

    def plan(self) -> Plan:
        wish = self.settings.yolo
        found = yolo_file(wish)
        path, pin = found.path, found.pin
        size = wish.image_size or (pin.image_size if pin else None)
        spec = YoloSpec(
            path=str(path),
            sha256=pin.sha256 if pin else None,
            classes=wish.classes,
            confidence_threshold=wish.confidence_threshold,
            iou_threshold=wish.iou_threshold,
            max_detections=wish.max_detections,
            batch_size=wish.batch_size,
            image_size=size,
        )
        need = predict(path.stat().st_size, size or DEFAULT_IMAGE_SIZE, wish.batch_size)
        return Plan(spec, path.name, need)


def predict(file_bytes: int, image_size: int, batch_size: int) -> Footprint:
    """What a checkpoint will take on a card, before it was ever measured.

    Weights: checkpoints hold half precision, in which a card computes as well.
    Activations: 64 MiB for a nano model and one square picture of 640, growing with the pixels,
    the batch and the root of the file (width grows with it), and 64 MiB for cuDNN's workspace.
    """
    pictures = batch_size * (image_size / DEFAULT_IMAGE_SIZE) ** 2
    width = max(1.0, math.sqrt(file_bytes / NANO_FILE_BYTES))
    return Footprint(
        weights_bytes=file_bytes,
        activations_bytes=WORKSPACE_BYTES + int(pictures * width * NANO_ACTIVATIONS_BYTES),
        context_bytes=CONTEXT_BYTES,
    )
