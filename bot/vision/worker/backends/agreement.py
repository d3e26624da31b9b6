"""Whether a backend says the same as the reference, which is torch in single precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bot.vision.worker.boxes import suppress

LEAST_OVERLAP = 0.95
"""Intersection over union with the reference's box."""
LEAST_COSINE = 0.999
CONFIDENCES = (0.25, 0.05, 0.01, 0.001)
"""The first at which the reference sees anything: foreign models may find little in our scenes."""
MARGIN = 0.05
"""Share of the confidence by which a box must be above it to be asked of the other side."""
SCENES = (3, 14, 15, 92)
"""Seeds of rendered scenes; the sizes differ as screens do."""
SIZES = ((1280, 720), (1920, 1080), (640, 480), (1280, 720))
Boxes = Callable[[np.ndarray, float], np.ndarray]
"""(picture, confidence) -> candidates above it, surest first, before any suppression."""
OVERLAP, MOST = 0.5, 300


def frames(count: int = len(SCENES)) -> list[np.ndarray]:
    """Rendered scenes as frames: height x width x 3, BGR, uint8."""
    from bot.vision.scene import render

    scenes = zip(SCENES[:count], SIZES, strict=False)
    return [np.ascontiguousarray(render(seed, size).image[..., ::-1]) for seed, size in scenes]


def boxes_differ(reference: Boxes, other: Boxes, pictures: Sequence[np.ndarray]) -> str:
    """What is different, in words; empty when every clear box has its like on both sides.

    A side's boxes are what suppression leaves of its candidates; their like is looked for among
    all candidates of the other: which of two equally sure ones stays is chance.
    """
    confidence, seen = CONFIDENCES[0], list[np.ndarray]()
    for confidence in CONFIDENCES:
        seen = [reference(picture, confidence) for picture in pictures]
        if any(len(rows) for rows in seen):
            break
    for picture, rows in zip(pictures, seen, strict=True):
        found = other(picture, confidence)
        for some, all_ in ((rows, found), (found, rows)):
            clear = suppress(some[some[:, 4] > confidence * (1 + MARGIN)], OVERLAP, MOST)
            worst = min((_best_overlap(box, all_) for box in clear), default=1.0)
            if worst < LEAST_OVERLAP:
                return f"a box has an overlap of {worst:.3f}, less than {LEAST_OVERLAP}"
    return ""


def features_differ(reference: np.ndarray, other: np.ndarray) -> str:
    """Rows of features, compared by their cosine."""
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(other, axis=1)
    cosine = float(((reference * other).sum(axis=1) / np.maximum(lengths, 1e-12)).min())
    # Not a number is not enough either.
    return "" if cosine >= LEAST_COSINE else f"a cosine of {cosine:.4f}, less than {LEAST_COSINE}"


def _best_overlap(box: np.ndarray, others: np.ndarray) -> float:
    others = others[others[:, 5] == box[5]]
    if not len(others):
        return 0.0
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:4], others[:, 2:4])
    common = np.maximum(high - low, 0).prod(axis=1)
    areas = (others[:, 2:4] - others[:, :2]).prod(axis=1) + (box[2:4] - box[:2]).prod() - common
    return float((common / np.maximum(areas, 1e-9)).max())
