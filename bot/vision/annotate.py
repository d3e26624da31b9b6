"""Draws a report onto its frame. Imported by the worker process only."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bot.vision.reports import FrameReport

JPEG_QUALITY = 85
MAX_SIDE = 1920
"""A larger frame is scaled down: chat services limit what may be uploaded."""
MAX_INSIGHTS = 5
COLOURS = (
    (255, 99, 71),
    (64, 196, 255),
    (255, 202, 40),
    (102, 219, 112),
    (214, 130, 255),
    (255, 145, 60),
    (77, 235, 214),
    (255, 120, 190),
)
KNOWN = {"boss": 0, "minimap": 1, "enemy": 2, "player": 3, "health_bar": 7}
"""The guide's classes keep colours that are easy to tell apart."""


def annotate(image: np.ndarray, report: FrameReport) -> bytes:
    """The frame (BGR, uint8) with boxes, labels and the likeliest phrases, as a JPEG."""
    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    scale = min(1.0, MAX_SIDE / max(picture.size))
    if scale < 1.0:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    draw = ImageDraw.Draw(picture, "RGBA")
    unit = max(1.0, min(picture.size) / 540)
    font = ImageFont.load_default(size=round(13 * unit))
    # The surest last, so that its label lies on top.
    for detection in reversed(report.detections):
        box = [value * scale for value in detection.box]
        label = f"{detection.label.replace('_', ' ')} {detection.confidence:.0%}"
        _box(draw, picture.size, box, label, colour_of(detection.label), font, unit)
    lines = [f"{i.text}  {i.probability:.0%}" for i in report.insights[:MAX_INSIGHTS]]
    if lines:
        _panel(draw, picture.size, lines, font, unit)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def colour_of(label: str) -> tuple[int, int, int]:
    """The same label always has the same colour."""
    return COLOURS[KNOWN.get(label, zlib.crc32(label.encode()) % len(COLOURS))]


def _box(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: list[float],
    label: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    unit: float,
) -> None:
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        return
    width = round(2 * unit)
    draw.rectangle((x1, y1, x2, y2), outline=(0, 0, 0, 160), width=width + 2)
    draw.rectangle((x1, y1, x2, y2), outline=(*colour, 255), width=width)
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    pad = round(3 * unit)
    wide, high = right - left + 2 * pad, bottom - top + 2 * pad
    # Above the box, or inside it where the picture ends.
    x = min(max(0.0, x1), max(0.0, size[0] - wide))
    y = y1 - high if y1 >= high else min(y1 + width, size[1] - high)
    draw.rectangle((x, y, x + wide, y + high), fill=(*colour, 235))
    draw.text((x + pad - left, y + pad - top), label, font=font, fill=(0, 0, 0, 255))


def _panel(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    lines: list[str],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    unit: float,
) -> None:
    """The phrases, bottom left: HUDs keep that corner free more often than the top."""
    text = "\n".join(lines)
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
    pad = round(7 * unit)
    x, y = pad, size[1] - (bottom - top) - 3 * pad
    draw.rectangle(
        (x, y, x + right - left + 2 * pad, y + bottom - top + 2 * pad), fill=(0, 0, 0, 170)
    )
    draw.multiline_text((x + pad - left, y + pad - top), text, font=font, fill=(255, 255, 255, 255))
