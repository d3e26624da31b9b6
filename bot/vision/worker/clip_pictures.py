"""open_clip's picture transform without PIL's slow way from a whole screen: same result.

Two ways: uint8 tensors where torch computes, and arrays for OpenVINO, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

HALVE_UNTIL = 2.0
"""Pictures are halved exactly (means of 2 x 2) while they stay this many times too large; the
rest is the library's own filter. At 2.0 the features' cosine to the long way is over 0.999."""

REACH = 3.0
"""Pixels of the result round each of its own that a filter takes into account (bicubic: 2)."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Preprocess:
    """What open_clip does with a picture before its model sees it."""

    def __init__(self, config: dict[str, Any]) -> None:
        size = config.get("size", 224)
        self.height, self.width = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.mean = tuple(float(v) for v in config["mean"])
        self.std = tuple(float(v) for v in config["std"])
        self._bilinear = config.get("interpolation") == "bilinear"
        self._resize_mode = config.get("resize_mode", "shortest")
        self._fill = int(config.get("fill_color", 0) or 0)
        self._constants: dict[Any, tuple[Any, Any]] = {}

    # --- arrays -------------------------------------------------------------------------------

    def arrays(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """BGR uint8 images to one batch, N x height x width x 3, BGR uint8; not normalised."""
        return np.stack([self.array(image) for image in images])

    def array(self, image: np.ndarray) -> np.ndarray:
        """One of them."""
        height, width = self._target(*image.shape[:2])
        halvings = _halvings(image.shape, height, width)
        rows, columns = image.shape[0] >> halvings, image.shape[1] >> halvings
        top, left = max(0, height - self.height), max(0, width - self.width)
        top, left = round(top / 2), round(left / 2)
        if (rows, columns) != (height, width):
            how = Image.Resampling.BILINEAR if self._bilinear else Image.Resampling.BICUBIC
            # Only what stays is computed; the filter still sees what lies around it.
            down, right = rows / height, columns / width
            height, width = min(height, self.height), min(width, self.width)
            box = (left * right, top * down, (left + width) * right, (top + height) * down)
            part, box = _seen(image, halvings, box, REACH * max(down, right, 1.0))
            image = np.asarray(Image.fromarray(part).resize((width, height), how, box))
        else:
            image = image[top : top + self.height, left : left + self.width]
        down, right = self.height - image.shape[0], self.width - image.shape[1]
        if down or right:
            borders = (down // 2, down - down // 2, right // 2, right - right // 2)
            fill = (self._fill,) * 3
            image = cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=fill)
        return image

    # --- tensors ------------------------------------------------------------------------------

    def __call__(self, images: Sequence[np.ndarray]) -> Any:
        """BGR uint8 images to a normalised float tensor in host memory, N x 3 x height x width."""
        import torch

        return self.normalised(
            torch.cat([self.fitted(torch.from_numpy(image)[None]) for image in images])
        )

    def fitted(self, frames: Any) -> Any:
        """N x height x width x 3 on any device, BGR uint8, to N x 3 x ..., RGB, values 0 to 255."""
        import torch

        tensor = frames.permute(0, 3, 1, 2)
        on_card = frames.device.type != "cpu"
        if on_card:
            tensor = tensor.float()  # only the CPU resizes uint8
        target = self._target(*tensor.shape[-2:])
        # CUDA's filter fails where its window outgrows a block's shared memory: at a scale of 10 to
        # 20, a screen of 1440 lines for a model of 128.
        for _ in range(_halvings(tensor.shape[-2:], *target) if on_card else 0):
            tensor = torch.nn.functional.avg_pool2d(tensor, 2)
        if target != tuple(tensor.shape[-2:]):
            mode = "bilinear" if self._bilinear else "bicubic"
            tensor = torch.nn.functional.interpolate(tensor, target, mode=mode, antialias=True)
        if on_card:
            tensor = tensor.round_().clamp_(0, 255)
        return self._centre(tensor).flip(1)

    def normalised(self, tensor: Any) -> Any:
        """Values 0 to 255 as the model wants them, in float32."""
        mean, std = self._on(tensor.device)
        return tensor.float().div_(255).sub_(mean).div_(std)

    def _on(self, device: Any) -> tuple[Any, Any]:
        """Mean and deviation on a device, made once: a CUDA graph may not copy from the host."""
        import torch

        if device not in self._constants:
            mean = torch.tensor(self.mean, device=device).view(1, 3, 1, 1)
            self._constants = {device: (mean, torch.tensor(self.std, device=device).view_as(mean))}
        return self._constants[device]

    def _centre(self, tensor: Any) -> Any:
        """Crop what is too much, fill what is missing, both evenly."""
        import torch

        height, width = tensor.shape[-2:]
        if height > self.height:
            top = round((height - self.height) / 2)
            tensor = tensor[..., top : top + self.height, :]
        if width > self.width:
            left = round((width - self.width) / 2)
            tensor = tensor[..., left : left + self.width]
        down, right = self.height - tensor.shape[-2], self.width - tensor.shape[-1]
        if down or right:
            padding = (right // 2, right - right // 2, down // 2, down - down // 2)
            tensor = torch.nn.functional.pad(tensor, padding, value=self._fill)
        return tensor

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self._resize_mode == "squash":
            return self.height, self.width
        if self._resize_mode == "longest":
            ratio = max(height / self.height, width / self.width)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        if self.height == self.width:  # torchvision's Resize truncates the longer side
            short = self.height
            if height <= width:
                return short, int(short * width / height)
            return int(short * height / width), short
        ratio = min(height / self.height, width / self.width)
        return round(height / ratio), round(width / ratio)


def _halvings(shape: Sequence[int], height: int, width: int) -> int:
    """How often a picture is halved before the filter makes it ``height`` x ``width``."""
    times = 0
    while (
        shape[0] >> times >= 2 * HALVE_UNTIL * height
        and shape[1] >> times >= 2 * HALVE_UNTIL * width
    ):
        times += 1
    return times


def _seen(image: np.ndarray, halvings: int, box: Box, reach: float) -> tuple[np.ndarray, Box]:
    """What a filter sees that resizes ``box`` of a halved picture, and where the box lies in it.

    The sides of a wide screen are cut away beforehand: nobody will look at them.
    """
    # An odd last line is left out: it would shift all the others.
    rows, columns = image.shape[0] >> halvings, image.shape[1] >> halvings
    left, top = max(0, math.floor(box[0] - reach)), max(0, math.floor(box[1] - reach))
    right = min(columns, math.ceil(box[2] + reach))
    bottom = min(rows, math.ceil(box[3] + reach))
    part = image[top << halvings : bottom << halvings, left << halvings : right << halvings]
    for _ in range(halvings):
        half = (part.shape[1] // 2, part.shape[0] // 2)
        part = cv2.resize(part, half, interpolation=cv2.INTER_AREA)
    return part, (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
