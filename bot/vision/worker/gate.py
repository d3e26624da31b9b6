"""The near-duplicate gate: is this frame worth looking at, or is it what was seen already?"""

from __future__ import annotations

import math

import cv2
import numpy as np

from bot.vision.frames import Frame

STRIDE = 3
"""Every third pixel in both directions is compared: digits are drawn with strokes of two."""
BLOCK = 10
"""Compared pixels are averaged over blocks of this side: 30 x 30 pixels of the frame."""
THRESHOLD = 2.5
"""Least mean difference of a block in one channel, of 255, that counts as a change."""
PEAK = 40
"""Least difference of one pixel, of 255, that counts by itself: a digit's stroke is too little for
a block's mean. Screens have no noise, and a camera's is far below."""
SURE = 0.65
"""The few pixels that are compared in colours may differ by more than what is round them."""
BRIGHTNESS_SHARE = 1.17
COLOUR_SHARE = 2.2
"""How much a difference of 1 in a decoder's plane changes red, green or blue at most (ITU-R
BT.601, 709 and 2020, both ranges: 255 / 219 = 1.164 for Y; 2.142 for Cb to blue is the largest)."""


class DuplicateGate:
    """Compares pixel by pixel and block by block, and lets the largest difference decide.

    A mean over the whole frame would miss a health bar that drops: few pixels, a great change.
    The noise of a camera or codec differs everywhere by little and averages out in each block.
    The comparison is with the last frame that passed, so that slow changes add up.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._last: np.ndarray | None = None
        self._planes: list[np.ndarray] = []

    def passes(self, frame: Frame) -> bool:
        """Whether the frame differs from the last one that passed."""
        height = frame.size[0]
        # A plane of colours may have half the rows: of those every other one is as dense.
        rows = [plane[:: round(STRIDE * len(plane) / height) or 1] for plane in frame.planes]
        if self._surely_the_same(rows):
            return False
        passed = self._differs(frame.image)
        if passed:
            self._planes = [plane.copy() for plane in rows]
        return passed

    def _surely_the_same(self, rows: list[np.ndarray]) -> bool:
        """Whether the planes differ by so little that no colour can reach a threshold."""
        last = self._planes
        if not rows or [r.shape for r in rows] != [r.shape for r in last]:
            return False
        differences: list[np.ndarray] = []
        peaks: list[float] = []
        for one, other in zip(rows, last, strict=True):
            differences.append(cv2.absdiff(one, other))
            peaks.append(float(differences[-1].max()))
            if _most(peaks) >= PEAK:
                return False  # most often after the first
        height, width = rows[0].shape
        blocks = _blocks(height, width / STRIDE)
        means = [_largest_mean(difference, blocks) for difference in differences]
        return _most(means) < SURE * self._threshold

    def _differs(self, image: np.ndarray) -> bool:
        height, width = image.shape[:2]
        few = (max(1, width // STRIDE), max(1, height // STRIDE))
        # Nearest takes pixels as they are, several times faster than a strided copy.
        sample = cv2.resize(image, few, interpolation=cv2.INTER_NEAREST)
        last = self._last
        if last is not None and last.shape == sample.shape:
            difference = cv2.absdiff(sample, last)
            if int(difference.max()) >= PEAK:
                self._last = sample
                return True
            # The most changed channel decides: red that turns black differs in one alone.
            if _largest_mean(difference, _blocks(*difference.shape[:2])) < self._threshold:
                return False
        self._last = sample
        return True


def _most(differences: list[float]) -> float:
    """What red, green or blue can differ by where brightness and colours differ by so much."""
    return BRIGHTNESS_SHARE * differences[0] + COLOUR_SHARE * max(differences[1:], default=0.0)


def _blocks(height: float, width: float) -> tuple[int, int]:
    """How many there are down and across for so many compared pixels."""
    return math.ceil(height / BLOCK), math.ceil(width / BLOCK)


def _largest_mean(difference: np.ndarray, blocks: tuple[int, int]) -> float:
    """Of one block in one channel. Sums from the corner make each block's four look-ups."""
    down, across = (
        np.arange(count + 1) * size // count
        for count, size in zip(blocks, difference.shape[:2], strict=True)
    )
    corners = cv2.integral(difference)[np.ix_(down, across)]
    sums = np.diff(np.diff(corners, axis=0), axis=1)
    sizes = np.outer(np.diff(down), np.diff(across))
    return float((sums.reshape(*sizes.shape, -1) / sizes[..., None]).max())
