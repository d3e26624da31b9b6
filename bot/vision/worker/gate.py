"""The near-duplicate gate: is this frame worth looking at, or is it what was seen already?"""

from __future__ import annotations

import cv2
import numpy as np

STRIDE = 3
"""Every third pixel in both directions is compared: digits are drawn with strokes of two."""
BLOCK = 10
"""Compared pixels are averaged over blocks of this side: 30 x 30 pixels of the frame."""
THRESHOLD = 2.5
"""Least mean difference of a block in one channel, of 255, that counts as a change."""
PEAK = 40
"""Least difference of one pixel, of 255, that counts by itself: a digit's stroke is too little for
a block's mean. Screens have no noise, and a camera's is far below."""


class DuplicateGate:
    """Compares pixel by pixel and block by block, and lets the largest difference decide.

    A mean over the whole frame would miss a health bar that drops: few pixels, a great change.
    The noise of a camera or codec differs everywhere by little and averages out in each block.
    The comparison is with the last frame that passed, so that slow changes add up.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._last: np.ndarray | None = None

    def passes(self, image: np.ndarray) -> bool:
        """Whether the frame (H x W x 3, uint8) differs from the last one that passed."""
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
            height, width = difference.shape[:2]
            blocks = (max(1, -(-width // BLOCK)), max(1, -(-height // BLOCK)))
            means = cv2.resize(difference, blocks, interpolation=cv2.INTER_AREA)
            # The most changed channel decides: red that turns black differs in one alone.
            if float(means.max()) < self._threshold:
                return False
        self._last = sample
        return True

    def forget(self) -> None:
        """Let the next frame pass whatever it shows."""
        self._last = None
