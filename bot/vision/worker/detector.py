"""YOLO in the worker: what is asked of it, and which backend finds it.

The steps are those of ``YOLO.predict`` (tests/vision/test_detector.py compares the boxes), without
what it does anew for each call: sources, callbacks, results as objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bot.vision.model_files import FileRefused, check_hash, sha256_of
from bot.vision.reports import Detection
from bot.vision.worker.backends.conversion import NoConversion, converted, in_the_background
from bot.vision.worker.boxes import Fit, Letterbox, candidates, chosen, fits, suppress
from bot.vision.worker.devices import CPU, Place
from bot.vision.worker.environment import one_thread_for_opencv
from bot.vision.worker.models import ModelError
from bot.vision.worker.protocol import YoloSpec

if TYPE_CHECKING:
    from bot.vision.worker.backends.cache import Converted
    from bot.vision.worker.backends.openvino import Network
    from bot.vision.worker.backends.torch_yolo import TorchYolo


class Detector:
    """A YOLO model that finds the wanted classes.

    It has OpenVINO's network, torch's model, or both: torch is opened for a card, and for the CPU
    where OpenVINO can't be had.
    """

    def __init__(
        self,
        spec: YoloSpec,
        threads: int,
        torch_yolo: TorchYolo | None,
        ready: Converted | None,
        note: str = "",
    ) -> None:
        self._spec = spec
        self._threads = threads
        self._torch = torch_yolo
        self._ready = ready
        self._network: Network | None = None
        self._letterbox = Letterbox()
        facts: dict[str, Any] = ready.facts if ready else torch_yolo.facts if torch_yolo else {}
        self._stride: int = facts["stride"]
        self._end_to_end: bool = facts["end_to_end"]
        size = spec.image_size or facts["image_size"]
        self._image_size = -(-size // self._stride) * self._stride
        self.names: dict[int, str] = {int(k): v for k, v in facts["names"].items()}
        self._wanted = [i for i, name in self.names.items() if name in spec.classes]
        self.batch_size = spec.batch_size
        self.place = CPU
        self._notes = (*self._unknown_classes(), *((note,) if note else ()))
        one_thread_for_opencv()

    @classmethod
    def load(
        cls,
        spec: YoloSpec,
        threads: int,
        place: Place = CPU,
        say: Callable[[str], None] = lambda _: None,
    ) -> Detector:
        """Open the model in host memory, with what it takes to compute on ``place``.

        Raises:
            ModelError: the file is missing, is not the pinned one, or is no YOLO checkpoint.
        """
        path = Path(spec.path)
        if not path.is_file():
            raise ModelError(f"{spec.path} is missing", "check yolo.model_path")
        try:
            check_hash(path, spec.sha256)
        except FileRefused as error:
            raise ModelError(error.what, error.remedy) from error
        ready, note = None, ""
        wish = spec.computing
        if wish.backend != "torch" and wish.cache_folder:
            cache = Path(wish.cache_folder)
            sha256 = spec.sha256 or sha256_of(path)
            if place.on_card:
                # For the day on which it has to leave the card.
                in_the_background(lambda: converted("yolo", path, sha256, cache, threads))
            else:
                try:
                    ready = converted("yolo", path, sha256, cache, threads, say)
                except NoConversion as error:
                    note = f"YOLO computes with torch on the CPU, not OpenVINO: {error}"
        return cls(spec, threads, None if ready else _opened(spec, threads), ready, note)

    @property
    def notes(self) -> tuple[str, ...]:
        more = self._torch.note if self._torch and self.place.on_card else ""
        return (*self._notes, *((more,) if more else ()))

    @property
    def backend(self) -> str:
        if self._network is not None and self._ready is not None:
            return f"OpenVINO {self._ready.precision}"
        return self._torch.backend if self._torch else ""

    @property
    def weights_bytes(self) -> int:
        if self._torch is not None and (self.place.on_card or self._ready is None):
            return self._torch.weights_bytes
        return int(self._ready.facts["weights_bytes"]) if self._ready else 0

    def move(self, place: Place) -> None:
        if place.on_card:
            self._torch = self._torch or _opened(self._spec, self._threads)
            self._network = None
            self._torch.to_card(place.device, self._image_size)
        elif self._converted() is not None:
            if self._torch is not None:
                self._torch.leave()
            self._network = self._network or self._compiled()
        else:
            self._torch = self._torch or _opened(self._spec, self._threads)
            self._torch.for_cpu()
        self.place = place

    def park(self) -> None:
        """On a card the host copy stays. On the CPU OpenVINO's compiled networks go, which are
        made anew from the file; torch's weights stay, they are the host copy."""
        self._network = None
        if self._torch is not None:
            self._torch.leave()

    def analyse(self, images: Sequence[np.ndarray]) -> list[tuple[Detection, ...]]:
        """The wanted objects on each image; boxes in its pixels, surest first."""
        return [self._detections(boxes) for boxes in self.boxes(images)]

    def boxes(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One array an image: rows of x1, y1, x2, y2, confidence, class."""
        if not self._wanted:
            return [np.zeros((0, 6), np.float32) for _ in images]
        laid = fits(images, self._image_size, self._stride)
        return [
            self._kept(rows, place)
            for rows, place in zip(self._rows(images, laid), laid, strict=True)
        ]

    def _kept(self, rows: np.ndarray, place: Fit) -> np.ndarray:
        rows = chosen(rows, self._spec.confidence_threshold, self._wanted)
        most = self._spec.max_detections
        if self._end_to_end:
            return place.to_picture(rows[:most])
        return place.to_picture(suppress(rows, self._spec.iou_threshold, most))

    def _rows(self, images: Sequence[np.ndarray], laid: list[Fit]) -> list[np.ndarray]:
        least = self._spec.confidence_threshold
        if self._network is None:
            assert self._torch is not None
            return self._torch.rows(images, laid, least)
        batch = self._letterbox(images, laid)
        found: list[np.ndarray] = []
        # One by one: on the CPU a batch is hardly faster, and each size would be compiled.
        for i in range(len(batch)):
            said = self._network(batch[i : i + 1])[0]
            found.append(said.copy() if self._end_to_end else candidates(said, least))
        return found

    def _converted(self) -> Converted | None:
        """OpenVINO's files, if they lie ready: who leaves a card has no time to make them."""
        wish = self._spec.computing
        if self._ready is None and wish.backend != "torch" and wish.cache_folder:
            path = Path(self._spec.path)
            try:
                sha256 = self._spec.sha256 or sha256_of(path)
                self._ready = converted(
                    "yolo", path, sha256, Path(wish.cache_folder), self._threads, make=False
                )
            except (NoConversion, OSError):
                return None
        return self._ready

    def _compiled(self) -> Network:
        from bot.vision.worker.backends.openvino import Network

        assert self._ready is not None
        path = self._ready.network("yolo")
        return Network(path, self._threads, self._ready.precision, scale=(255.0,) * 3)

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


def _opened(spec: YoloSpec, threads: int) -> TorchYolo:
    from bot.vision.worker.backends.torch_yolo import TorchYolo

    return TorchYolo.open(Path(spec.path), threads, graphs=spec.computing.cuda_graphs)
