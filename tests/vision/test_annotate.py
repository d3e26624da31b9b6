"""The annotated frame shows the boxes where the objects are."""

import io

import numpy as np
import pytest
from PIL import Image

from bot.vision.annotate import MAX_SIDE, annotate, colour_of
from bot.vision.reports import Detection, FrameReport, Insight


def report(width: int, height: int, *detections: Detection) -> FrameReport:
    insights = (Insight("a boss fight", 0.91), Insight("low health", 0.4))
    return FrameReport(0, 0.0, "scene", width, height, {}, detections, insights)


def decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg), formats=["JPEG"]).convert("RGB")).astype(int)


@pytest.mark.parametrize(("width", "height"), [(640, 360), (1920, 1080), (3840, 2160)])
def test_a_box_is_drawn_round_its_object(width: int, height: int) -> None:
    blue = np.zeros((height, width, 3), np.uint8)
    blue[..., 0] = 120
    box = (width * 0.4, height * 0.4, width * 0.6, height * 0.7)
    picture = decoded(annotate(blue, report(width, height, Detection("boss", 0.9, box))))
    scale = picture.shape[1] / width
    assert max(picture.shape) <= MAX_SIDE
    middle = picture[round(height * 0.55 * scale), round(width * 0.5 * scale)]
    assert middle[2] > 90, "the frame is BGR and its blue stays blue"
    assert middle[0] < 30
    row = picture[round(height * 0.55 * scale)]
    red = [x for x in range(row.shape[0]) if row[x, 0] > 180]
    assert abs(min(red) - box[0] * scale) <= 4
    assert abs(max(red) - box[2] * scale) <= 4


def test_odd_boxes_and_labels_do_no_harm() -> None:
    image = np.zeros((90, 120, 3), np.uint8)
    detections = (
        Detection("bösser 龍 <@everyone>" * 9, 1.0, (-50.0, -50.0, 900.0, 900.0)),
        Detection("player", 0.5, (60.0, 60.0, 20.0, 20.0)),
        Detection("", 0.0, (0.0, 0.0, 0.0, 0.0)),
    )
    assert decoded(annotate(image, report(120, 90, *detections))).shape == (90, 120, 3)


def test_a_label_always_has_the_same_colour() -> None:
    assert colour_of("boss") == colour_of("boss")
    assert len({colour_of(name) for name in ("boss", "minimap", "enemy", "player")}) == 4
