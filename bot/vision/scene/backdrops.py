"""Backdrops: the world behind the figures, one function for each kind of view."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from bot.vision.scene.canvas import Colour, Image, Layer, gradient, hsv, mix, noise, ramp
from bot.vision.scene.styles import Style


def pick(rng: np.random.Generator, style: Style, bright: float = 1.0) -> Colour:
    """A colour of the style's palette; ``bright`` scales its value."""
    hue = float(rng.choice(style.hues)) + float(rng.normal(0, 0.02))
    return hsv(hue, rng.uniform(*style.saturation), rng.uniform(*style.value) * bright)


def palette(rng: np.random.Generator, style: Style) -> tuple[Colour, ...]:
    """Four related ground colours."""
    base = pick(rng, style)
    other = pick(rng, style)
    return tuple(
        mix(mix(base, other, float(rng.random()) * 0.6), shade, float(rng.uniform(0, 0.35)))
        for shade in ((0, 0, 0), (255, 255, 255), (0, 0, 0), (90, 80, 70))
    )


def plain(rng: np.random.Generator, style: Style, h: int, w: int) -> Image:
    """A flat colour, a gradient, two halves, a checkerboard or a few large shapes."""
    kind = int(rng.integers(6))
    a, b = pick(rng, style), pick(rng, style)
    if kind == 0:
        return np.full((h, w, 3), a, np.uint8)
    if kind == 1:
        return gradient(h, w, (a, b), bool(rng.random() < 0.2))
    if kind == 2:
        image = np.full((h, w, 3), a, np.uint8)
        image[int(h * rng.uniform(0.4, 0.85)) :] = b
        return image
    if kind == 3:
        side = int(h * rng.uniform(0.04, 0.2))
        ys, xs = np.mgrid[0:h, 0:w]
        odd = ((ys // side + xs // side) % 2)[..., None] == 1
        pair = np.asarray((a, mix(a, b, 0.3)), np.uint8)
        return np.where(odd, pair[0], pair[1]).astype(np.uint8)
    image = np.full((h, w, 3), a, np.uint8)
    for _ in range(int(rng.integers(3, 14))):
        colour = mix(a, pick(rng, style), float(rng.uniform(0.2, 0.9)))
        x, y = int(rng.integers(0, w)), int(rng.integers(0, h))
        p, q = int(rng.uniform(0.02, 0.3) * w), int(rng.uniform(0.02, 0.3) * h)
        if kind == 4:
            cv2.rectangle(image, (x, y), (x + p, y + q), colour, -1)
        else:
            cv2.ellipse(
                image, (x, y), (p, q), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA
            )
    return image


def _sky(rng: np.random.Generator, style: Style, h: int, w: int) -> Image:
    if style.weather == "stars":
        image = ramp(noise(rng, h, w, 3, 3) * 0.6, ((4, 5, 12), pick(rng, style, 0.6)))
        for _ in range(120):
            image[int(rng.integers(h)), int(rng.integers(w))] = int(rng.integers(120, 255))
        return image
    top, low = pick(rng, style), mix(pick(rng, style), (235, 235, 235), float(rng.uniform(0, 0.5)))
    image = gradient(h, w, (top, low))
    if rng.random() < 0.5:
        clouds = noise(rng, h, w, 3, 4)[..., None] ** 2 * float(rng.uniform(0.1, 0.6))
        image = (image * (1 - clouds) + 240 * clouds * (sum(low) / 600)).astype(np.uint8)
    if rng.random() < 0.3:
        c = (int(rng.uniform(0.1, 0.9) * w), int(rng.uniform(0.1, 0.9) * h))
        cv2.circle(image, c, int(rng.uniform(0.03, 0.1) * w), (250, 240, 210), -1, cv2.LINE_AA)
    return image


def _hills(rng: np.random.Generator, image: Image, base: float, colour: Colour, rough: str) -> None:
    h, w = image.shape[:2]
    n = int(rng.integers(4, 12))
    heights = rng.random(n + 1) * h * 0.2
    xs = np.linspace(0, w, n + 1)
    if rough == "soft":
        fine = np.linspace(0, w, 60)
        heights = np.interp(fine, xs, heights)
        heights = np.convolve(np.pad(heights, 3, "edge"), np.ones(7) / 7, "valid")
        xs = fine
    points = [(float(x), base - float(y)) for x, y in zip(xs, heights, strict=True)]
    if rough == "city":
        points = [q for (x, y) in points for q in ((x, y), (x + w / n, y))]
    cv2.fillPoly(image, [np.array([(0, h), *points, (w + 1, h)], np.int32)], colour, cv2.LINE_AA)


def prop(rng: np.random.Generator, style: Style, size: float) -> Layer:
    """A thing of the world that is no figure: tree, rock, house, pillar, crate, lamp."""
    layer = Layer(size, size * 1.2)
    w, h = layer.w, layer.h
    a = pick(rng, style)
    dark = mix(a, (0, 0, 0), 0.5)
    kind = int(rng.integers(6))
    if kind == 0:
        layer.taper((w / 2, h), (w / 2, h * 0.4), (70, 50, 35), w * 0.16, w * 0.1)
        for _ in range(4):
            c = (w * rng.uniform(0.3, 0.7), h * rng.uniform(0.18, 0.45))
            layer.ellipse(c, (w * 0.25, h * 0.2), mix(a, (255, 255, 255), rng.uniform(0, 0.15)))
    elif kind == 1:
        layer.taper((w / 2, h), (w / 2, h * 0.6), (70, 50, 35), w * 0.12, w * 0.1)
        for k in range(3):
            y = h * (0.75 - k * 0.22)
            layer.poly(
                [(w / 2, y - h * 0.3), (w * (0.85 - k * 0.1), y), (w * (0.15 + k * 0.1), y)],
                mix(a, dark, k * 0.2),
            )
    elif kind == 2:
        pts = [
            (
                w / 2 + math.cos(t) * w * rng.uniform(0.32, 0.48),
                h * 0.7 + math.sin(t) * h * rng.uniform(0.2, 0.3),
            )
            for t in np.linspace(0, math.tau, 9)[:-1]
        ]
        layer.poly(pts, mix(a, (110, 110, 110), 0.6))
    elif kind == 3:
        layer.poly([(w * 0.1, h), (w * 0.1, h * 0.45), (w * 0.9, h * 0.45), (w * 0.9, h)], a)
        layer.poly([(0, h * 0.47), (w / 2, h * 0.1), (w, h * 0.47)], dark)
        layer.poly([(w * 0.4, h), (w * 0.4, h * 0.7), (w * 0.6, h * 0.7), (w * 0.6, h)], dark)
    elif kind == 4:
        layer.poly([(w * 0.35, h), (w * 0.35, 0), (w * 0.65, 0), (w * 0.65, h)], a)
        layer.poly([(w * 0.25, h * 0.08), (w * 0.25, 0), (w * 0.75, 0), (w * 0.75, h * 0.08)], dark)
    else:
        layer.poly([(w * 0.15, h), (w * 0.15, h * 0.5), (w * 0.85, h * 0.5), (w * 0.85, h)], a)
        layer.line([(w * 0.15, h * 0.5), (w * 0.85, h)], dark, w * 0.05)
        layer.line([(w * 0.85, h * 0.5), (w * 0.15, h)], dark, w * 0.05)
    layer.shade(rng, style.skin.light * 0.7, style.skin.texture * 0.6)
    return layer.trim()


def side(rng: np.random.Generator, style: Style, h: int, w: int) -> tuple[Image, float]:
    """Side view: sky, hills and a ground line; returns the image and the ground's y in pixels."""
    ground = h * float(rng.uniform(0.66, 0.88))
    image = _sky(rng, style, h, w)
    for k in range(int(rng.integers(0, 4))):
        _hills(
            rng,
            image,
            ground - h * (0.12 - k * 0.04),
            mix(pick(rng, style), (0, 0, 0), k * 0.15),
            str(rng.choice(["soft", "sharp", "city"])),
        )
    soil = palette(rng, style)
    y = int(ground)
    image[y:] = ramp(noise(rng, h - y, w, 6, 3), soil[:3])
    cv2.rectangle(image, (0, y), (w, y + max(2, h // 60)), soil[1], -1)
    if rng.random() < 0.4:
        step = int(h * rng.uniform(0.05, 0.1))
        image[y::step] = mix(soil[0], (0, 0, 0), 0.5)
        image[y:, ::step] = mix(soil[0], (0, 0, 0), 0.5)
    for _ in range(int(rng.integers(0, 4))):
        x, py = int(rng.integers(0, w)), int(rng.uniform(0.3, 0.6) * h)
        cv2.rectangle(
            image, (x, py), (x + int(w * rng.uniform(0.08, 0.2)), py + h // 30), soil[2], -1
        )
    return image, ground


def deep(rng: np.random.Generator, style: Style, h: int, w: int) -> tuple[Image, float]:
    """First or third person: ground in perspective, or a corridor; returns the horizon's y."""
    horizon = h * float(rng.uniform(0.3, 0.52))
    y = int(horizon)
    soil = palette(rng, style)
    if rng.random() < 0.3:
        return _corridor(rng, style, h, w, y), horizon
    image = np.empty((h, w, 3), np.uint8)
    image[:y] = _sky(rng, style, y, w)
    texture = noise(rng, 192, 192, 8, 4)
    if rng.random() < 0.25:
        texture = texture * 0.3 + 0.7 * ((np.indices((192, 192)) // 12).sum(0) % 2)
    rows = np.arange(1, h - y + 1, dtype=np.float32)[:, None] / h
    columns = (np.arange(w, dtype=np.float32)[None] - w / 2) / w
    depth = 0.12 / (rows + 0.01)
    map_y = (depth * 160) % 191
    map_x = (columns * depth * 300 + 96) % 191
    ground = cv2.remap(
        texture,
        map_x.astype(np.float32),
        np.broadcast_to(map_y, map_x.shape).astype(np.float32),
        cv2.INTER_LINEAR,
    )
    image[y:] = ramp(ground.astype(np.float32), soil)
    haze = np.clip(1 - rows * 6, 0, 1)[..., None] * 0.7
    image[y:] = (image[y:] * (1 - haze) + image[y - 1].mean(0) * haze).astype(np.uint8)
    for _ in range(int(rng.integers(0, 3))):
        _hills(
            rng,
            image[: y + 1],
            horizon,
            pick(rng, style),
            str(rng.choice(["soft", "sharp", "city"])),
        )
    for _ in range(int(rng.integers(0, 9))):
        far = float(rng.uniform(0.02, 0.35))
        thing = prop(rng, style, h * far * rng.uniform(0.6, 1.3))
        thing.paste(image, float(rng.uniform(-0.05, 0.95)) * w, horizon + far * h * 0.4 - thing.h)
    return image, horizon


def _corridor(rng: np.random.Generator, style: Style, h: int, w: int, y: int) -> Image:
    cx = int(w * rng.uniform(0.4, 0.6))
    half = (int(w * rng.uniform(0.08, 0.2)), int(h * rng.uniform(0.08, 0.18)))
    x1, x2, y1, y2 = cx - half[0], cx + half[0], y - half[1], y + half[1]
    image = np.zeros((h, w, 3), np.uint8)
    faces = (
        ([(0, 0), (w, 0), (x2, y1), (x1, y1)], 0.5),
        ([(0, h), (w, h), (x2, y2), (x1, y2)], 0.8),
        ([(0, 0), (0, h), (x1, y2), (x1, y1)], 1.0),
        ([(w, 0), (w, h), (x2, y2), (x2, y1)], 0.9),
        ([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], 0.4),
    )
    wall = pick(rng, style)
    for points, bright in faces:
        colour = mix((0, 0, 0), mix(wall, pick(rng, style), 0.2), bright)
        cv2.fillPoly(image, [np.array(points, np.int32)], colour)
    seam = mix(wall, (0, 0, 0), 0.6)
    for k in range(1, int(rng.integers(3, 8))):
        f = 1 / (k + 0.4)
        a = (int(cx + (0 - cx) * f), int(y + (0 - y) * f))
        b = (int(cx + (w - cx) * f), int(y + (h - y) * f))
        if a[0] < x1:
            cv2.rectangle(image, a, b, seam, max(1, int(6 * f)))
    gain = 0.75 + 0.5 * noise(rng, h, w, 12, 3)[..., None]
    return np.clip(image * gain, 0, 255).astype(np.uint8)


def tiled(
    rng: np.random.Generator, style: Style, h: int, w: int, diamond: bool = False
) -> tuple[Image, float]:
    """Top-down or isometric ground of tiles, patches, roads and props; the horizon is 0."""
    side_px = max(6, int(h * rng.uniform(0.04, 0.1)))
    ys, xs = np.mgrid[0:h, 0:w]
    if diamond:
        u = np.floor((xs + 2 * ys) / (2 * side_px)).astype(np.int32)
        v = np.floor((xs - 2 * ys) / (2 * side_px)).astype(np.int32)
    else:
        u, v = xs // side_px, ys // side_px
    u, v = u - u.min(), v - v.min()
    field = noise(rng, int(v.max()) + 2, int(u.max()) + 2, 4, 3)
    speckle = rng.random(field.shape).astype(np.float32) * 0.15
    soil = palette(rng, style)
    value = (field + speckle)[v, u] / 1.15
    image = ramp(value.astype(np.float32), soil)
    if rng.random() < 0.5:
        if diamond:
            seam = (((xs + 2 * ys) % (2 * side_px)) < 2) | (((xs - 2 * ys) % (2 * side_px)) < 2)
        else:
            seam = (xs % side_px == 0) | (ys % side_px == 0)
        image[seam] = (image[seam] * 0.75).astype(np.uint8)
    else:
        gain = 0.8 + 0.4 * noise(rng, h, w, 14, 3)[..., None]
        image = np.clip(image * gain, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        road = mix(soil[0], pick(rng, style), 0.6)
        n = int(rng.integers(1, 4))
        for _ in range(n):
            a = (int(rng.integers(0, w)), 0 if rng.random() < 0.5 else h)
            b = (w if rng.random() < 0.5 else 0, int(rng.integers(0, h)))
            cv2.line(image, a, b, road, int(h * rng.uniform(0.04, 0.12)), cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 12))):
        thing = prop(rng, style, h * float(rng.uniform(0.06, 0.18)))
        thing.paste(image, float(rng.uniform(-0.05, 0.95)) * w, float(rng.uniform(-0.05, 0.9)) * h)
    return image, 0.0


def _isometric(rng: np.random.Generator, style: Style, h: int, w: int) -> tuple[Image, float]:
    return tiled(rng, style, h, w, True)


WORLDS: dict[str, Callable[[np.random.Generator, Style, int, int], tuple[Image, float]]] = {
    "first person": deep,
    "third person": deep,
    "side": side,
    "isometric": _isometric,
    "top-down": tiled,
}


def world(rng: np.random.Generator, style: Style, view: str, h: int, w: int) -> tuple[Image, float]:
    """The backdrop of a view, (h, w, 3), and the y of its horizon or ground line in pixels."""
    if rng.random() < style.flat:
        image = plain(rng, style, h, w)
        level = {"side": 0.78, "first person": 0.4, "third person": 0.4}.get(view, 0.0)
        return image, h * level
    return WORLDS[view](rng, style, h, w)
