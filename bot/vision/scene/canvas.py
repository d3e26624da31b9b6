"""Drawing primitives: colours, noise fields, text, and layers with an alpha channel.

Images are ``(H, W, 3)`` uint8 RGB arrays; coordinates are pixels, x to the right, y down.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ImageFont

Image = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Point = tuple[float, float]

HERSHEY_FACES = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB 0..255 of a hue in turns (it wraps), a saturation and a value in 0..1."""
    s, v = min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, s, v)
    return int(r * 255), int(g * 255), int(b * 255)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first`` with ``share`` (0..1) of ``second``."""
    r, g, b = (int(a + (z - a) * share) for a, z in zip(first, second, strict=True))
    return r, g, b


def noise(
    rng: np.random.Generator, height: int, width: int, cells: int = 4, octaves: int = 4
) -> Field:
    """Smooth noise in 0..1, shape (height, width); ``cells`` is the coarsest grid's height."""
    # Drawn at half size: the eye can't tell, and it is four times as fast.
    h, w = max(2, height // 2), max(2, width // 2)
    total = np.zeros((h, w), np.float32)
    amplitude = 1.0
    for octave in range(octaves):
        rows = max(2, min(h, cells * 2**octave))
        columns = max(2, min(w, rows * w // h))
        grid = rng.random((rows, columns), dtype=np.float32)
        total += cv2.resize(grid, (w, h), interpolation=cv2.INTER_LINEAR) * amplitude
        amplitude *= 0.55
    low, high = float(total.min()), float(total.max())
    total = (total - low) / max(high - low, 1e-6)
    return cv2.resize(total, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def ramp(field: Field, colours: Sequence[Colour]) -> Image:
    """Colour a field of 0..1 along a ramp of colours: (H, W) to (H, W, 3)."""
    stops = np.linspace(0, 255, len(colours))
    table = np.stack(
        [np.interp(np.arange(256), stops, [c[i] for c in colours]) for i in range(3)], axis=1
    ).astype(np.uint8)
    return table[(np.clip(field, 0, 1) * 255).astype(np.uint8)]


def gradient(height: int, width: int, colours: Sequence[Colour], horizontal: bool = False) -> Image:
    """A linear gradient through ``colours``, from the top (or the left)."""
    length = width if horizontal else height
    line = ramp(np.linspace(0, 1, length, dtype=np.float32)[None], colours)[0]
    strip = line[None] if horizontal else line[:, None]
    return np.ascontiguousarray(np.broadcast_to(strip, (height, width, 3)))


@lru_cache(maxsize=64)
def _font(pixels: int) -> Any:
    return ImageFont.load_default(pixels)


@lru_cache(maxsize=4096)
def _text_mask(text: str, pixels: int, face: int) -> Image:
    if face <= 0:
        mask, _ = _font(max(6, pixels)).getmask2(text, mode="L")
        width, height = mask.size
        if not width or not height:
            return np.zeros((1, 1), np.uint8)
        return np.asarray(list(mask), dtype=np.uint8).reshape(height, width)
    hershey = HERSHEY_FACES[face % len(HERSHEY_FACES)]
    scale = pixels / 30
    thick = max(1, round(pixels / 18))
    (width, height), base = cv2.getTextSize(text, hershey, scale, thick)
    image = np.zeros((height + base + thick, max(1, width)), np.uint8)
    cv2.putText(image, text, (0, height), hershey, scale, 255, thick, cv2.LINE_AA)
    return image


def text_size(text: str, pixels: float, face: int = 0) -> tuple[int, int]:
    """(width, height) in pixels of ``text`` set in a ``face`` about ``pixels`` high."""
    mask = _text_mask(text, int(pixels), face)
    return mask.shape[1], mask.shape[0]


def draw_text(
    image: Image,
    text: str,
    at: Point,
    pixels: float,
    colour: Colour = (255, 255, 255),
    face: int = 0,
    anchor: float = 0.0,
    shadow: bool = False,
) -> Box:
    """Write ``text`` with its top at ``at``; ``anchor`` 0 left, 0.5 centred, 1 right of x."""
    mask = _text_mask(text, int(pixels), face)
    x, y = int(at[0] - anchor * mask.shape[1]), int(at[1])
    if shadow:
        step = max(1, int(pixels // 14))
        _tint(image, mask, x + step, y + step, (0, 0, 0))
    _tint(image, mask, x, y, colour)
    return float(x), float(y), float(x + mask.shape[1]), float(y + mask.shape[0])


def _clip(image: Image, x: int, y: int, w: int, h: int) -> tuple[int, int, int, int] | None:
    x1, y1 = max(0, x), max(0, y)
    x2, y2 = min(image.shape[1], x + w), min(image.shape[0], y + h)
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def _tint(image: Image, mask: Image, x: int, y: int, colour: Colour) -> None:
    area = _clip(image, x, y, mask.shape[1], mask.shape[0])
    if area is None:
        return
    x1, y1, x2, y2 = area
    part = mask[y1 - y : y2 - y, x1 - x : x2 - x, None].astype(np.int32)
    roi = image[y1:y2, x1:x2]
    roi[:] = roi + ((np.asarray(colour, np.int32) - roi) * part) // 255


def fill_rect(image: Image, box: Box, colour: Colour, opacity: float = 1.0) -> None:
    """Fill ``box`` with a colour, blended at ``opacity``."""
    x, y = round(box[0]), round(box[1])
    area = _clip(image, x, y, round(box[2]) - x, round(box[3]) - y)
    if area is None:
        return
    roi = image[area[1] : area[3], area[0] : area[2]]
    if opacity >= 1:
        roi[:] = colour
    else:
        solid = np.full_like(roi, colour)
        roi[:] = cv2.addWeighted(solid, opacity, roi, 1 - opacity, 0)


def stroke_rect(image: Image, box: Box, colour: Colour, thickness: int = 1) -> None:
    """Outline ``box`` inside its edges."""
    x1, y1, x2, y2 = box
    t = thickness
    for edge in (
        (x1, y1, x2, y1 + t),
        (x1, y2 - t, x2, y2),
        (x1, y1, x1 + t, y2),
        (x2 - t, y1, x2, y2),
    ):
        fill_rect(image, edge, colour)


class Layer:
    """A picture with transparency, drawn in its own pixels and pasted onto an image."""

    def __init__(self, width: float, height: float) -> None:
        self.w, self.h = max(2, int(width)), max(2, int(height))
        self.rgb: Image = np.zeros((self.h, self.w, 3), np.uint8)
        self.alpha: Image = np.zeros((self.h, self.w), np.uint8)

    def poly(self, points: Sequence[Point], colour: Colour) -> None:
        pts = np.round(np.asarray(points, np.float64)).astype(np.int32)
        cv2.fillPoly(self.rgb, [pts], colour, cv2.LINE_AA)
        cv2.fillPoly(self.alpha, [pts], (255,), cv2.LINE_AA)

    def ellipse(
        self,
        centre: Point,
        radii: Point,
        colour: Colour,
        angle: float = 0.0,
        arc: tuple[float, float] = (0.0, 360.0),
    ) -> None:
        c = (round(centre[0]), round(centre[1]))
        r = (max(1, round(radii[0])), max(1, round(radii[1])))
        cv2.ellipse(self.rgb, c, r, angle, *arc, colour, -1, cv2.LINE_AA)
        cv2.ellipse(self.alpha, c, r, angle, *arc, (255,), -1, cv2.LINE_AA)

    def line(self, points: Sequence[Point], colour: Colour, thickness: float) -> None:
        pts = np.round(np.asarray(points, np.float64)).astype(np.int32)
        t = max(1, round(thickness))
        cv2.polylines(self.rgb, [pts], False, colour, t, cv2.LINE_AA)
        cv2.polylines(self.alpha, [pts], False, (255,), t, cv2.LINE_AA)

    def taper(self, start: Point, end: Point, colour: Colour, wide: float, thin: float) -> None:
        """A limb: ``wide`` at the start and ``thin`` at the end (full widths)."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy) or 1.0
        nx, ny = -dy / length / 2, dx / length / 2
        self.poly(
            [
                (start[0] + nx * wide, start[1] + ny * wide),
                (end[0] + nx * thin, end[1] + ny * thin),
                (end[0] - nx * thin, end[1] - ny * thin),
                (start[0] - nx * wide, start[1] - ny * wide),
            ],
            colour,
        )

    def shade(self, rng: np.random.Generator, light: float, texture: float) -> None:
        """Darken from the top left to the bottom right, and roughen with noise (0..1 each)."""
        if light <= 0 and texture <= 0:
            return
        gain = np.ones((self.h, self.w), np.float32)
        if light > 0:
            down = np.linspace(1 + light * 0.35, 1 - light * 0.55, self.h, dtype=np.float32)
            across = np.linspace(light * 0.2, -light * 0.2, self.w, dtype=np.float32)
            gain = down[:, None] + across[None]
        if texture > 0:
            gain = gain * (1 + (noise(rng, self.h, self.w, 10, 3) - 0.5) * texture)
        scaled = self.rgb.astype(np.float32) * gain[..., None]
        self.rgb = np.clip(scaled, 0, 255).astype(np.uint8)

    def outline(self, colour: Colour, pixels: int) -> None:
        """Draw a line of ``pixels`` around everything opaque, growing the layer to hold it."""
        p = max(1, pixels)
        self.pad(p)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * p + 1, 2 * p + 1))
        grown = cv2.dilate(self.alpha, kernel)
        keep = self.alpha[..., None].astype(np.int32)
        ink = np.asarray(colour, np.int32)
        self.rgb = (ink + (self.rgb - ink) * keep // 255).astype(np.uint8)
        self.alpha = grown.astype(np.uint8)

    def pad(self, pixels: int) -> None:
        """Grow by transparent pixels on each side."""
        p = pixels
        self.rgb = cv2.copyMakeBorder(self.rgb, p, p, p, p, cv2.BORDER_CONSTANT).astype(np.uint8)
        self.alpha = cv2.copyMakeBorder(self.alpha, p, p, p, p, cv2.BORDER_CONSTANT).astype(
            np.uint8
        )
        self.h, self.w = self.alpha.shape

    def pixelate(self, pixels: int) -> None:
        """Make blocks of ``pixels`` with hard edges, as in pixel art."""
        small = (max(2, self.w // pixels), max(2, self.h // pixels))
        for name in ("rgb", "alpha"):
            part = cv2.resize(getattr(self, name), small, interpolation=cv2.INTER_AREA)
            if name == "alpha":
                part = np.where(part > 110, 255, 0).astype(np.uint8)
            setattr(self, name, cv2.resize(part, (self.w, self.h), interpolation=cv2.INTER_NEAREST))

    def flip(self) -> None:
        """Mirror left to right."""
        self.rgb = np.ascontiguousarray(self.rgb[:, ::-1])
        self.alpha = np.ascontiguousarray(self.alpha[:, ::-1])

    def trim(self) -> Layer:
        """Cut to what is visible; returns itself."""
        rows, columns = np.where(self.alpha.max(1) > 40)[0], np.where(self.alpha.max(0) > 40)[0]
        if len(rows) and len(columns):
            y1, y2, x1, x2 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            self.rgb = np.ascontiguousarray(self.rgb[y1:y2, x1:x2])
            self.alpha = np.ascontiguousarray(self.alpha[y1:y2, x1:x2])
            self.h, self.w = self.alpha.shape
        return self

    def resized(self, width: float, height: float) -> Layer:
        """A copy of another size."""
        layer = Layer(width, height)
        size = (layer.w, layer.h)
        layer.rgb = cv2.resize(self.rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        layer.alpha = cv2.resize(self.alpha, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        return layer

    def paste(
        self,
        image: Image,
        x: float,
        y: float,
        opacity: float = 1.0,
        owner: Image | None = None,
        number: int = 0,
    ) -> Box | None:
        """Blend onto ``image`` with the top left at (x, y); the visible box, or None.

        Where given, ``owner`` (H, W) is marked with ``number`` under the opaque pixels.
        """
        left, top = round(x), round(y)
        area = _clip(image, left, top, self.w, self.h)
        if area is None:
            return None
        x1, y1, x2, y2 = area
        cut = (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
        alpha = self.alpha[cut]
        if opacity < 1:
            alpha = (alpha * opacity).astype(np.uint8)
        roi = image[y1:y2, x1:x2]
        weight = alpha[..., None].astype(np.int16)
        roi[:] = roi + (((self.rgb[cut].astype(np.int16) - roi) // 2 * weight) >> 7)
        if owner is not None:
            owner[y1:y2, x1:x2][alpha > 100] = number
        return float(x1), float(y1), float(x2), float(y2)
