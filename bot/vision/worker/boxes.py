"""Pictures into a detector's shape, and its predictions into boxes; numpy and OpenCV alone.

Boxes are rows of x1, y1, x2, y2, confidence, class, as float32. The steps are those of
ultralytics' ``LetterBox`` and ``non_max_suppression``; tests/vision/test_detector.py compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

GREY = 114
"""What ultralytics fills borders with, in training as well."""
MOST_CANDIDATES = 30000
"""Boxes that are compared with one another at most, surest first."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture lies in a detector's input; sizes are (height, width) in pixels."""

    picture: tuple[int, int]
    inner: tuple[int, int]
    """The size that the picture is scaled to."""
    top: int
    left: int
    outer: tuple[int, int]
    """The input's size: the scaled picture and a grey border."""

    def to_picture(self, rows: np.ndarray) -> np.ndarray:
        """Boxes in the input's pixels as boxes in the picture's, cut at its edges."""
        rows = rows.copy()
        height, width = self.picture
        x, y = rows[:, 0:4:2], rows[:, 1:4:2]
        np.clip((x - self.left) / (self.inner[1] / width), 0, width, out=x)
        np.clip((y - self.top) / (self.inner[0] / height), 0, height, out=y)
        return rows


def fit(height: int, width: int, side: int, stride: int, *, square: bool) -> Fit:
    """Where a picture goes in an input of ``side``, or, not square, as little as stride allows."""
    ratio = min(side / height, side / width)
    inner = (max(round(height * ratio), 1), max(round(width * ratio), 1))
    borders = [side - inner[0], side - inner[1]]
    if not square:
        borders = [border % stride for border in borders]
    before = [round(border / 2 - 0.1) for border in borders]
    outer = (inner[0] + borders[0], inner[1] + borders[1])
    return Fit((height, width), inner, before[0], before[1], outer)


def fits(images: Sequence[np.ndarray], side: int, stride: int) -> list[Fit]:
    """One for each picture of a batch; if they differ in shape they all become squares."""
    square = len({image.shape for image in images}) > 1
    return [fit(i.shape[0], i.shape[1], side, stride, square=square) for i in images]


def letterboxed(images: Sequence[np.ndarray], laid: Sequence[Fit]) -> np.ndarray:
    """Pictures scaled into a batch of one shape: N x height x width x 3, uint8, BGR."""
    batch = np.empty((len(images), *laid[0].outer, 3), np.uint8)
    for image, place, target in zip(images, laid, batch, strict=True):
        height, width = place.inner
        bottom, right = place.top + height, place.left + width
        for border in (target[: place.top], target[bottom:]):
            border[:] = GREY
        rows = target[place.top : bottom]
        for border in (rows[:, : place.left], rows[:, right:]):
            border[:] = GREY
        inside = rows[:, place.left : right]
        if image.shape[:2] == place.inner:
            inside[:] = image
        else:
            inside[:] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return batch


def candidates(prediction: np.ndarray, confidence: float) -> np.ndarray:
    """What a detector that needs suppression is sure enough of, surest first.

    ``prediction``: (4 + classes) x places; a box is centre, width and height.
    """
    scores = prediction[4:]
    best = scores.max(axis=0)
    chosen = np.flatnonzero(best > confidence)
    chosen = chosen[np.argsort(-best[chosen], kind="stable")[:MOST_CANDIDATES]]
    rows = np.empty((len(chosen), 6), np.float32)
    centre, half = prediction[0:2, chosen].T, prediction[2:4, chosen].T / 2
    rows[:, 0:2], rows[:, 2:4] = centre - half, centre + half
    rows[:, 4] = best[chosen]
    rows[:, 5] = scores[:, chosen].argmax(axis=0)
    return rows


def chosen(rows: np.ndarray, confidence: float, wanted: Sequence[int]) -> np.ndarray:
    """Those rows that are sure enough and of a wanted class."""
    # Of few rows and classes each with each: np.isin takes ten times as long.
    known = (rows[:, 5, None] == np.asarray(wanted, np.float32)).any(axis=1)
    return rows[(rows[:, 4] > confidence) & known]


def suppress(rows: np.ndarray, overlap: float, most: int) -> np.ndarray:
    """Without the boxes that a surer one of their class overlaps; rows come surest first."""
    corners, kinds = rows[:, :4], rows[:, 5]
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    left = np.arange(len(rows))
    kept: list[int] = []
    while len(left) and len(kept) < most:
        first, left = left[0], left[1:]
        kept.append(int(first))
        low = np.maximum(corners[first, :2], corners[left, :2])
        high = np.minimum(corners[first, 2:], corners[left, 2:])
        common = np.maximum(high - low, 0).prod(axis=1)
        covered = common > overlap * (areas[first] + areas[left] - common)
        left = left[~(covered & (kinds[left] == kinds[first]))]
    return rows[kept]
