"""YOLO in the worker: what is asked of it, and which backend finds it.

The steps are those of ``YOLO.predict`` (tests/vision/test_detector.py compares the boxes), without
what it does anew for each call: sources, callbacks, results as objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bot.vision.model_files import sha256_of
from bot.vision.reports import Detection
from bot.vision.worker.boxes import Fit, candidates, chosen, fit, fits, letterboxed, suppress
from bot.vision.worker.hybrid import HybridModel
from bot.vision.worker.protocol import YoloSpec

if TYPE_CHECKING:
    from bot.vision.worker.backends.cache import Converted
    from bot.vision.worker.backends.openvino import Network
    from bot.vision.worker.backends.torch_yolo import TorchYolo


class Detector(HybridModel[YoloSpec, "TorchYolo"]):
    """A YOLO model that finds the wanted classes."""

    title = "YOLO"

    def __init__(
        self,
        spec: YoloSpec,
        threads: int,
        torch_model: TorchYolo | None,
        ready: Converted | None,
        note: str = "",
    ) -> None:
        super().__init__(spec, threads, torch_model, ready, note)
        self._stride: int = self._facts["stride"]
        self._end_to_end: bool = self._facts["end_to_end"]
        self._image_size = _image_size(spec, self._facts)
        self.names: dict[int, str] = {int(k): v for k, v in self._facts["names"].items()}
        self._wanted = [i for i, name in self.names.items() if name in spec.classes]
        self._notes = (*self._unknown_classes(), *self._notes)

    @staticmethod
    def _files(spec: YoloSpec) -> tuple[Path, ...]:
        return (Path(spec.path),)

    @staticmethod
    def _digest(spec: YoloSpec) -> str:
        return spec.sha256 or sha256_of(Path(spec.path))

    @staticmethod
    def _open(spec: YoloSpec, threads: int) -> TorchYolo:
        from bot.vision.worker.backends.torch_yolo import TorchYolo

        model = TorchYolo.open(Path(spec.path), threads, graphs=spec.computing.cuda_graphs)
        model.image_size = _image_size(spec, model.facts)
        return model

    def _compile(self, ready: Converted) -> Network:
        from bot.vision.worker.backends.openvino import Network

        path = ready.network("yolo")
        return Network(path, self._threads, ready.precision, scale=(255.0,) * 3)

    def prepare(self, image: np.ndarray) -> Any:
        """The image in the shape of OpenVINO's network, and how it lies there."""
        if self._network is None or not self._wanted:
            return image
        height, width = image.shape[:2]
        place = fit(height, width, self._image_size, self._stride, square=False)
        return letterboxed([image], [place]), place

    def answer(self, prepared: Sequence[Any]) -> list[tuple[Detection, ...]]:
        """The wanted objects on each image; boxes in its pixels, surest first."""
        return [self._detections(boxes) for boxes in self._boxes(prepared)]

    def boxes(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One array an image: rows of x1, y1, x2, y2, confidence, class."""
        return self._boxes([self.prepare(image) for image in images])

    def _boxes(self, prepared: Sequence[Any]) -> list[np.ndarray]:
        if not self._wanted:
            return [np.zeros((0, 6), np.float32) for _ in prepared]
        if self._network is None:
            assert self._torch is not None
            laid = fits(prepared, self._image_size, self._stride)
            found = self._torch.rows(prepared, laid, self._spec.confidence_threshold)
            return [self._kept(rows, place) for rows, place in zip(found, laid, strict=True)]
        # One by one: on the CPU a batch is hardly faster, and each size would be compiled.
        return [self._kept(self._rows(picture), place) for picture, place in prepared]

    def _kept(self, rows: np.ndarray, place: Fit) -> np.ndarray:
        rows = chosen(rows, self._spec.confidence_threshold, self._wanted)
        most = self._spec.max_detections
        if self._end_to_end:
            return place.to_picture(rows[:most])
        return place.to_picture(suppress(rows, self._spec.iou_threshold, most))

    def _rows(self, picture: np.ndarray) -> np.ndarray:
        assert self._network is not None
        said = self._network(picture)[0]
        if self._end_to_end:
            return said.copy()
        return candidates(said, self._spec.confidence_threshold)

    def _detections(self, boxes: np.ndarray) -> tuple[Detection, ...]:
        return tuple(
            Detection(self.names[int(kind)], confidence, (x1, y1, x2, y2))
            for x1, y1, x2, y2, confidence, kind in boxes.tolist()
        )

    def _unknown_classes(self) -> tuple[str, ...]:
        known = set(self.names.values())
        unknown = [name for name in self._spec.classes if name not in known]
        if not unknown:
            return ()
        has = ", ".join(sorted(known)[:20]) + (" ..." if len(known) > 20 else "")
        left = "the others are kept" if self._wanted else "so it reports nothing"
        return (
            f"the YOLO model knows no {', '.join(unknown)} (it knows {has}); {left}; "
            "change yolo.classes",
        )


def _image_size(spec: YoloSpec, facts: dict[str, Any]) -> int:
    """Pixels of the longer side, rounded up to whole cells."""
    size, stride = spec.image_size or facts["image_size"], facts["stride"]
    return -(-size // stride) * stride
