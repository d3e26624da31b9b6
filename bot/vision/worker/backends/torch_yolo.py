"""A YOLO checkpoint in torch: the reference on the CPU, and what computes on a card."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bot.vision.model_files import check_checkpoint
from bot.vision.refusal import first_line
from bot.vision.worker.backends.agreement import CONFIDENCES, boxes_differ
from bot.vision.worker.backends.torch_model import TorchModel
from bot.vision.worker.boxes import GREY, Fit, candidates, fits, letterboxed
from bot.vision.worker.contexts import on
from bot.vision.worker.devices import torch_is_ready
from bot.vision.worker.environment import (
    UnsafeSurroundings,
    importing,
    require_safe_loading,
    use_threads,
)
from bot.vision.worker.models import ModelError

DEFAULT_IMAGE_SIZE = 640
MAX_IMAGE_SIZE = 2048
ROWS_FROM_CARD = 2048
"""So many of the surest boxes of each picture leave the card, before suppression."""


class TorchYolo(TorchModel):
    """The model itself."""

    title = "YOLO"

    def __init__(self, module: Any, facts: dict[str, Any], threads: int, *, graphs: bool) -> None:
        super().__init__(module, facts, threads, graphs=graphs)
        self.image_size: int = facts["image_size"]
        """Pixels of the longer side that pictures are tried with on a new card."""

    @classmethod
    def open(cls, path: Path, threads: int, *, graphs: bool = True) -> TorchYolo:
        """Open a checkpoint on the CPU.

        Raises:
            ModelError: it is no YOLO checkpoint, or none for detection.
        """
        with importing():
            import torch  # noqa: F401 - first, so that its threads are ours
            import torchvision  # noqa: F401 - ultralytics asks for it in many places
            from ultralytics.nn.tasks import load_checkpoint

            use_threads(threads)
            torch_is_ready()
        try:
            require_safe_loading()
            check_checkpoint(path)
            # Absolute: a damaged file with the bare name of a published one would be fetched anew.
            opened: Any = load_checkpoint(str(path.absolute()), device="cpu", fuse=True)
            model, checkpoint = opened
        except UnsafeSurroundings as error:
            raise ModelError(str(error), "install the versions that Danzar asks for") from error
        except Exception as error:  # a damaged file raises whatever its reader hit upon
            raise ModelError(
                f"{path.name} is no YOLO checkpoint that can be opened safely "
                f"({first_line(error)})",
                "take a detection checkpoint of ultralytics (YOLOv8 or later)",
            ) from error
        if getattr(model, "task", "detect") != "detect":
            raise ModelError(
                f"{path.name} is made for {model.task}, not for detection", "use a detection model"
            )
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        trained = checkpoint.get("train_args", {}).get("imgsz", DEFAULT_IMAGE_SIZE)
        if not isinstance(trained, int) or not 32 <= trained <= MAX_IMAGE_SIZE:
            trained = DEFAULT_IMAGE_SIZE
        names = dict(model.names) if isinstance(model.names, dict) else dict(enumerate(model.names))
        facts = {
            "names": {str(k): str(v) for k, v in names.items()},
            "stride": max(32, int(model.stride.max())),
            "image_size": trained,
            "end_to_end": bool(getattr(model, "end2end", False)),
        }
        return cls(model, facts, threads, graphs=graphs)

    # --- where it is --------------------------------------------------------------------------

    def _settle_in(self) -> None:
        if not _decode_in_single(self.module.model[-1]):
            # It may drop tensors with another batch that a graph goes on reading.
            self._graphs.switch_off("its head is of another kind")

    def _forget(self) -> None:
        """The anchors of the last picture."""
        head = self.module.model[-1]
        head.shape = None
        head.__dict__.pop("_inference", None)

    # --- what it says -------------------------------------------------------------------------

    def rows(
        self, images: Sequence[np.ndarray], laid: list[Fit], confidence: float
    ) -> list[np.ndarray]:
        """For each picture the boxes above the confidence, in the input's pixels, surest first."""
        import torch

        with torch.inference_mode(), on(self._device):
            if self._device == "cpu":
                predictions = self(letterboxed(images, laid))
                if self.facts["end_to_end"]:
                    return list(predictions)
                return [candidates(prediction, confidence) for prediction in predictions]
            assert self._uploads is not None
            if len({image.shape for image in images}) > 1:
                pairs = zip(images, laid, strict=True)
                return [self.rows([image], [place], confidence)[0] for image, place in pairs]
            sent = self._uploads.stacked(images)
            found = self._graphs.run(partial(self._on_card, place=laid[0]), sent)
            return list(found.float().cpu().numpy())

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """On the CPU: N x height x width x 3, BGR, uint8, to what the head says."""
        import torch

        with torch.inference_mode():
            tensor = torch.from_numpy(batch).permute(0, 3, 1, 2).flip(1).contiguous()
            return _first(self.module(tensor.float().div_(255))).numpy()

    def _on_card(self, frames: Any, place: Fit) -> Any:
        """N x rows x 6 from frames; nothing here waits for the card or asks it anything."""
        import torch
        from torch.nn import functional

        half = self._half is not False
        # Half precision holds each of the 256 values exactly.
        pictures = frames.permute(0, 3, 1, 2).to(torch.float16 if half else torch.float32)
        if tuple(pictures.shape[-2:]) != place.inner:
            pictures = functional.interpolate(
                pictures, place.inner, mode="bilinear", align_corners=False
            )
        borders = (
            place.left,
            place.outer[1] - place.inner[1] - place.left,
            place.top,
            place.outer[0] - place.inner[0] - place.top,
        )
        pictures = functional.pad(pictures, borders, value=float(GREY)).flip(1).div_(255)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        said = _first(self.module(pictures))
        if self.facts["end_to_end"]:
            return said
        scores, kinds = said[:, 4:].max(1)
        scores, surest = scores.topk(min(ROWS_FROM_CARD, scores.shape[1]), dim=1)
        centre, size = (
            said[:, :4]
            .transpose(1, 2)
            .gather(1, surest[..., None].expand(-1, -1, 4))
            .split(2, dim=2)
        )
        kinds = kinds.gather(1, surest)
        corners = (centre - size / 2, centre + size / 2)
        return torch.cat((*corners, scores[..., None], kinds[..., None].to(scores.dtype)), dim=2)

    def _said(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        # Thresholds vary while the two are compared; the reference is asked for all at once.
        return [self._candidates(picture, 0.0) for picture in pictures]

    def _differs(self, reference: list[np.ndarray], pictures: Sequence[np.ndarray]) -> str:
        known = {id(p): rows for p, rows in zip(pictures, reference, strict=True)}

        def said(picture: np.ndarray, confidence: float) -> np.ndarray:
            rows = known[id(picture)]
            return rows[rows[:, 4] > confidence]

        return boxes_differ(said, self._candidates, pictures)

    def _candidates(self, picture: np.ndarray, confidence: float) -> np.ndarray:
        """Candidates of any class for the comparison with another precision."""
        laid = fits([picture], self.image_size, self.facts["stride"])
        least = max(confidence, CONFIDENCES[-1])
        rows = self.rows([picture], laid, least)[0]
        return rows[rows[:, 4] > least]


def _first(said: Any) -> Any:
    """The predictions, without what the head adds for training."""
    return said[0] if isinstance(said, (list, tuple)) else said


def _decode_in_single(head: Any) -> bool:
    """Let a head compute boxes from its last layer in single precision; whether it is of that kind.

    In half, coordinates from 512 on are known to half a pixel only: too coarse for thin bars.
    """
    from ultralytics.nn.modules.head import Detect

    if not isinstance(head, Detect) or type(head)._inference is not Detect._inference:
        return False
    known: dict[tuple[Any, ...], tuple[Any, Any]] = {}
    cell_sizes: list[float] = head.stride.tolist()

    def decoded(said: dict[str, Any]) -> Any:
        import torch

        boxes, scores = said["boxes"].float(), said["scores"].float()
        levels = tuple(tuple(level.shape[2:]) for level in said["feats"])
        key = (boxes.device, levels)
        if key not in known:  # never dropped while the model is there: a graph may read them
            known[key] = _anchors(levels, cell_sizes, boxes.device)
        anchors, strides = known[key]
        bins = int(head.reg_max)
        if bins > 1:
            count, _, places = boxes.shape
            shares = boxes.view(count, 4, bins, places).softmax(2)
            steps = torch.arange(bins, device=boxes.device, dtype=boxes.dtype)
            boxes = (shares * steps.view(1, 1, bins, 1)).sum(2)
        boxes = head.decode_bboxes(boxes, anchors) * strides
        return torch.cat((boxes, scores.sigmoid()), 1)

    # Only this object: the class goes on to serve the CPU.
    head.__dict__["_inference"] = decoded
    return True


def _anchors(
    levels: tuple[tuple[int, ...], ...], strides: list[float], device: Any
) -> tuple[Any, Any]:
    """Centres of all cells in cells, 1 x 2 x places, and their strides, 1 x places."""
    import torch

    centres, sizes = [], []
    for (height, width), stride in zip(levels, strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append(torch.stack((x, y)).flatten(1) + 0.5)
        sizes.append(torch.full((1, height * width), float(stride)))
    return torch.cat(centres, 1)[None].to(device), torch.cat(sizes, 1).to(device)
