"""Heads-up displays: health bars and minimaps (labelled), and what surrounds them (not)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from bot.vision.scene.canvas import (
    Box,
    Colour,
    Image,
    Layer,
    draw_text,
    fill_rect,
    hsv,
    mix,
    noise,
    ramp,
    stroke_rect,
    text_size,
)

BAR_SHAPES = ("rect", "rect", "rect", "round", "slant", "segments", "bevel")


@dataclass(slots=True)
class Bar:
    """A level bar. The box is the bar with its frame, without icon and text; pixels."""

    box: Box
    shape: str
    colours: tuple[Colour, Colour]
    back: Colour
    frame: Colour
    border: int
    back_opacity: float = 1.0
    gloss: float = 0.0
    ticks: int = 0
    right_to_left: bool = False
    vertical: bool = False
    text: str = ""
    face: int = 0
    icon: str = ""
    trail: float = 0.0
    mask: Image | None = None

    def draw(self, image: Image, level: float) -> Box | None:
        """Draw it filled to ``level`` (0..1); returns the box clipped to the image."""
        height, width = image.shape[:2]
        x1, y1 = max(0, round(self.box[0])), max(0, round(self.box[1]))
        x2, y2 = min(width, round(self.box[2])), min(height, round(self.box[3]))
        if x2 - x1 < 3 or y2 - y1 < 2:
            return None
        roi = image[y1:y2, x1:x2]
        part = self._render(y2 - y1, x2 - x1, level, roi)
        mask = self._mask(y2 - y1, x2 - x1)
        if mask is None:
            roi[:] = part
        else:
            m = mask[..., None].astype(np.int32)
            roi[:] = roi + (part.astype(np.int32) - roi) * m // 255
        self._lettering(image, level)
        return float(x1), float(y1), float(x2), float(y2)

    def _render(self, h: int, w: int, level: float, under: Image) -> Image:
        b = min(self.border, h // 3, w // 3)
        part = np.empty((h, w, 3), np.uint8)
        if self.back_opacity < 1:
            solid = np.full_like(under, self.back)
            part[:] = cv2.addWeighted(solid, self.back_opacity, under, 1 - self.back_opacity, 0)
        else:
            part[:] = self.back
        length = (h if self.vertical else w) - 2 * b
        full = round(length * min(max(level, 0.0), 1.0))
        strip = ramp(np.linspace(0, 1, max(length, 1), dtype=np.float32)[None], self.colours)[0]
        if self.trail > 0 and not self.vertical:
            end = min(length, full + round(length * self.trail))
            fill_rect(part, self._span(b, full, end, h, w), (240, 220, 180))
        if full > 0:
            if self.vertical:
                part[h - b - full : h - b, b : w - b] = strip[:full][::-1, None]
            elif self.right_to_left:
                part[b : h - b, w - b - full : w - b] = strip[:full][::-1][None]
            else:
                part[b : h - b, b : b + full] = strip[:full][None]
        if self.gloss > 0:
            top = part[b : b + max(1, (h - 2 * b) // 2), b : w - b].astype(np.int32)
            part[b : b + max(1, (h - 2 * b) // 2), b : w - b] = np.minimum(
                255, top + int(70 * self.gloss)
            )
        cell = length / self.ticks if self.ticks else 0
        for k in range(1, self.ticks):
            at = b + round(k * cell)
            gap = max(1, (h if not self.vertical else w) // (4 if self.shape == "segments" else 10))
            if self.vertical:
                part[at : at + gap, b : w - b] = self.back
            else:
                part[b : h - b, at : at + gap] = self.back
        if b:
            stroke_rect(part, (0, 0, w, h), self.frame, b)
        if self.shape == "bevel" and b:
            fill_rect(part, (0, 0, w, max(1, b // 2)), mix(self.frame, (255, 255, 255), 0.5))
        return part

    def _span(self, b: int, start: int, end: int, h: int, w: int) -> Box:
        if self.right_to_left:
            return float(w - b - end), float(b), float(w - b - start), float(h - b)
        return float(b + start), float(b), float(b + end), float(h - b)

    def _mask(self, h: int, w: int) -> Image | None:
        if self.shape not in ("round", "slant"):
            return None
        if self.mask is None or self.mask.shape != (h, w):
            mask = np.zeros((h, w), np.uint8)
            if self.shape == "round":
                r = min(h, w) // 2
                cv2.rectangle(mask, (r, 0), (w - r, h), (255,), -1)
                cv2.rectangle(mask, (0, r), (w, h - r), (255,), -1)
                for c in ((r, r), (w - r - 1, r), (r, h - r - 1), (w - r - 1, h - r - 1)):
                    cv2.circle(mask, c, r, (255,), -1, cv2.LINE_AA)
            else:
                cut = min(h, w // 4)
                pts = np.array([(cut, 0), (w, 0), (w - cut, h), (0, h)], np.int32)
                cv2.fillPoly(mask, [pts], (255,), cv2.LINE_AA)
            self.mask = mask
        return self.mask

    def _lettering(self, image: Image, level: float) -> None:
        x1, y1, x2, y2 = self.box
        h = y2 - y1
        if self.icon and not self.vertical:
            heart_or_cross(
                image, (x1 - h * 0.85, (y1 + y2) / 2), h * 0.62, self.icon, self.colours[1]
            )
        if not self.text or self.vertical:
            return
        size = max(7.0, h * 0.72)
        if "%" in self.text or "/" in self.text:
            most = 100 if "%" in self.text else 1000
            label = f"{int(level * most)}%" if "%" in self.text else f"{int(level * most)}/{most}"
            draw_text(
                image,
                label,
                ((x1 + x2) / 2, y1 + h * 0.18),
                size,
                (250, 250, 250),
                self.face,
                0.5,
                True,
            )
        else:
            width, _ = text_size(self.text, size, self.face)
            left = x1 - width - h * 0.3 - (h * 1.3 if self.icon else 0)
            if left < 2:
                left = x1 + h * 0.3
            draw_text(
                image, self.text, (left, y1 + h * 0.15), size, (245, 245, 245), self.face, 0, True
            )


def heart_or_cross(
    image: Image, centre: tuple[float, float], r: float, icon: str, c: Colour
) -> None:
    """A small sign beside a bar: ``heart``, ``cross`` or ``drop``; ``r`` is its half size."""
    layer = Layer(r * 2.4, r * 2.4)
    m = r * 1.2
    if icon == "cross":
        layer.poly(
            [
                (m - r * 0.3, m - r),
                (m + r * 0.3, m - r),
                (m + r * 0.3, m + r),
                (m - r * 0.3, m + r),
            ],
            c,
        )
        layer.poly(
            [
                (m - r, m - r * 0.3),
                (m + r, m - r * 0.3),
                (m + r, m + r * 0.3),
                (m - r, m + r * 0.3),
            ],
            c,
        )
    else:
        for s in (-1, 1):
            layer.ellipse((m + s * r * 0.45, m - r * 0.3), (r * 0.5, r * 0.5), c)
        layer.poly([(m - r * 0.92, m - r * 0.1), (m + r * 0.92, m - r * 0.1), (m, m + r)], c)
    layer.paste(image, centre[0] - m, centre[1] - m)


def health_colours(rng: np.random.Generator, saturation: float = 1.0) -> tuple[Colour, Colour]:
    """A fill that says health: mostly red, often green, at times amber."""
    roll = rng.random()
    if roll < 0.58:
        hue = rng.uniform(-0.03, 0.03)
    elif roll < 0.9:
        hue = rng.uniform(0.25, 0.4)
    else:
        hue = rng.uniform(0.05, 0.12)
    s = rng.uniform(0.65, 1.0) * (0.6 + 0.4 * saturation)
    v = rng.uniform(0.55, 1.0)
    first = hsv(hue, s, v)
    if rng.random() < 0.5:
        return first, first
    return hsv(hue + rng.normal(0, 0.02), s, v * rng.uniform(0.5, 0.8)), first


def other_colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """A fill that says something else: mana, stamina, shield, experience."""
    hue = float(
        rng.choice([rng.uniform(0.48, 0.68), rng.uniform(0.72, 0.85), rng.uniform(0.12, 0.16)])
    )
    first = hsv(hue, rng.uniform(0.4, 1.0), rng.uniform(0.5, 1.0))
    if rng.random() < 0.1:
        first = (225, 225, 225)
    return mix(first, (0, 0, 0), 0.25 * float(rng.random())), first


def make_bar(
    rng: np.random.Generator,
    box: Box,
    colours: tuple[Colour, Colour],
    lettering: bool = True,
    health: bool = True,
) -> Bar:
    """A bar of a random build at ``box``."""
    h = box[3] - box[1]
    shape = BAR_SHAPES[int(rng.integers(len(BAR_SHAPES)))]
    back = hsv(float(rng.random()), rng.uniform(0, 0.5), rng.uniform(0.02, 0.28))
    if rng.random() < 0.12:
        back = mix(colours[0], (0, 0, 0), 0.65)
    if rng.random() < 0.05:
        back = hsv(0, 0, rng.uniform(0.5, 0.95))
    frames: list[Colour] = [
        (0, 0, 0),
        (20, 20, 24),
        (235, 235, 235),
        (150, 150, 150),
        (200, 165, 80),
        (90, 70, 50),
        back,
    ]
    bar = Bar(
        box,
        shape,
        colours,
        back,
        frames[int(rng.choice(7, p=[0.3, 0.15, 0.2, 0.1, 0.1, 0.05, 0.1]))],
        border=int(rng.integers(0, max(2, round(h * 0.2))))
        if rng.random() < 0.3
        else max(1, round(h * rng.uniform(0.05, 0.18))),
        back_opacity=1.0 if rng.random() < 0.7 else float(rng.uniform(0.35, 0.9)),
        gloss=float(rng.uniform(0.2, 1)) if rng.random() < 0.3 else 0.0,
        right_to_left=bool(rng.random() < 0.08),
    )
    if shape == "segments" or rng.random() < 0.1:
        bar.ticks = int(rng.integers(3, 14))
    if lettering and rng.random() < 0.6:
        words = ["HP", "HP", "Health", "LIFE", "/", "%", "/"] if health else ["MP", "SP", "/", "%"]
        bar.text = words[int(rng.integers(len(words)))]
        bar.face = int(rng.integers(0, 5))
    if lettering and health and rng.random() < 0.3:
        bar.icon = "heart" if rng.random() < 0.5 else "cross"
    if rng.random() < 0.12:
        bar.trail = float(rng.uniform(0.03, 0.15))
    return bar


def minimap(rng: np.random.Generator, size: float, ground: tuple[Colour, ...]) -> Layer:
    """A map ``size`` pixels across: round, square, hexagonal or turned; border included."""
    s = max(24, int(size))
    tall = s if rng.random() < 0.75 else int(s * rng.uniform(0.7, 1.0))
    shape = str(
        rng.choice(
            ["circle", "square", "rounded", "hexagon", "diamond"], p=[0.44, 0.36, 0.12, 0.04, 0.04]
        )
    )
    if shape == "circle" or shape == "hexagon":
        tall = s
    base = _map_picture(rng, tall, s, ground)
    _map_marks(rng, base)
    border = max(1, int(s * rng.uniform(0.008, 0.05)))
    frames: list[Colour] = [
        (10, 10, 12),
        (230, 230, 230),
        (190, 155, 80),
        (110, 115, 125),
        (60, 45, 35),
        hsv(float(rng.random()), 0.7, 0.8),
    ]
    frame = frames[int(rng.integers(len(frames)))]
    layer = Layer(s, tall)
    inner = np.zeros((tall, s), np.uint8)
    outer = np.zeros((tall, s), np.uint8)
    c = (s // 2, tall // 2)
    if shape == "circle":
        cv2.circle(outer, c, s // 2 - 1, (255,), -1, cv2.LINE_AA)
        cv2.circle(inner, c, s // 2 - 1 - border, (255,), -1, cv2.LINE_AA)
    elif shape in ("hexagon", "diamond"):
        n, turn = (6, math.pi / 6) if shape == "hexagon" else (4, 0.0)
        for mask, r in ((outer, s / 2 - 1), (inner, s / 2 - 1 - border * 1.2)):
            pts = np.array(
                [
                    (
                        c[0] + math.cos(turn + k * math.tau / n) * r,
                        c[1] + math.sin(turn + k * math.tau / n) * r * tall / s,
                    )
                    for k in range(n)
                ],
                np.int32,
            )
            cv2.fillPoly(mask, [pts], (255,), cv2.LINE_AA)
    else:
        outer[:] = 255
        inner[border : tall - border, border : s - border] = 255
        if shape == "rounded":
            r = s // 8
            outer[:] = 0
            cv2.rectangle(outer, (r, 0), (s - r, tall), (255,), -1)
            cv2.rectangle(outer, (0, r), (s, tall - r), (255,), -1)
            for p in ((r, r), (s - r - 1, r), (r, tall - r - 1), (s - r - 1, tall - r - 1)):
                cv2.circle(outer, p, r, (255,), -1, cv2.LINE_AA)
            inner = cv2.erode(
                outer, np.ones((2 * border + 1, 2 * border + 1), np.uint8), borderValue=(0,)
            ).astype(np.uint8)
    m = inner[..., None].astype(np.int32)
    layer.rgb = ((base * m + np.asarray(frame, np.int32) * (255 - m)) // 255).astype(np.uint8)
    layer.alpha = outer
    if rng.random() < 0.2:
        layer.alpha = (outer * rng.uniform(0.65, 0.95)).astype(np.uint8)
    if rng.random() < 0.3:
        draw_text(layer.rgb, "N", (s / 2, border + 1), s * 0.1, (255, 255, 255), 0, 0.5, True)
    return layer


def _map_picture(
    rng: np.random.Generator, h: int, w: int, ground: tuple[Colour, ...], world: bool = False
) -> Image:
    kind = float(rng.random())
    dark = hsv(float(rng.random()), rng.uniform(0, 0.6), rng.uniform(0.04, 0.3))
    if kind < 0.35 or world:
        colours = (
            ground
            if rng.random() < 0.5
            else tuple(
                hsv(u, rng.uniform(0.2, 0.7), rng.uniform(0.2, 0.8))
                for u in (0.58, 0.12, 0.3, 0.28, 0.1)
            )
        )
        field = noise(rng, h, w, int(rng.integers(2, 6)), 3)
        if rng.random() < 0.5:
            field = (np.round(field * 5) / 5).astype(np.float32)
        picture = ramp(field, colours)
    elif kind < 0.55:
        picture = np.full((h, w, 3), dark, np.uint8)
        floor = mix(dark, (200, 200, 190), rng.uniform(0.3, 0.8))
        last = (w // 2, h // 2)
        for _ in range(int(rng.integers(4, 10))):
            x, y = int(rng.integers(0, w)), int(rng.integers(0, h))
            rw, rh = int(rng.integers(w // 10, w // 4)), int(rng.integers(h // 10, h // 4))
            cv2.rectangle(
                picture, (x - rw // 2, y - rh // 2), (x + rw // 2, y + rh // 2), floor, -1
            )
            cv2.line(picture, last, (x, last[1]), floor, max(2, w // 22))
            cv2.line(picture, (x, last[1]), (x, y), floor, max(2, w // 22))
            last = (x, y)
    elif kind < 0.75:
        base = dark if rng.random() < 0.6 else hsv(float(rng.random()), 0.15, rng.uniform(0.5, 0.9))
        picture = np.full((h, w, 3), base, np.uint8)
    else:
        picture = np.full((h, w, 3), mix(dark, (0, 40, 10), 0.5), np.uint8)
        line = hsv(float(rng.choice([0.33, 0.5, 0.12])), 0.7, rng.uniform(0.4, 0.9))
        for k in (0.16, 0.32, 0.47):
            cv2.circle(picture, (w // 2, h // 2), int(w * k), line, 1, cv2.LINE_AA)
        cv2.line(picture, (w // 2, 0), (w // 2, h), line, 1)
        cv2.line(picture, (0, h // 2), (w, h // 2), line, 1)
    if kind < 0.75 and rng.random() < 0.6:
        road = mix((235, 225, 200), dark, rng.uniform(0, 0.6))
        for _ in range(int(rng.integers(2, 7))):
            a = (int(rng.integers(0, w)), int(rng.integers(0, h)))
            b = (int(rng.integers(0, w)), int(rng.integers(0, h)))
            if rng.random() < 0.6:
                b = (a[0], h) if rng.random() < 0.5 else (w, a[1])
                a = (a[0], 0) if b[0] == a[0] else (0, a[1])
            cv2.line(picture, a, b, road, max(1, int(w * rng.uniform(0.01, 0.05))), cv2.LINE_AA)
    if rng.random() < 0.15:
        hide = noise(rng, h, w, 3, 2)[..., None] > 0.6
        picture = np.where(hide, (picture * 0.25).astype(np.uint8), picture)
    return np.ascontiguousarray(picture)


def _map_marks(rng: np.random.Generator, picture: Image) -> None:
    h, w = picture.shape[:2]
    r = max(2, int(w * rng.uniform(0.018, 0.04)))
    for _ in range(int(rng.integers(0, 9))):
        colour = hsv(float(rng.choice([0.0, 0.0, 0.15, 0.33, 0.55, 0.85])), rng.uniform(0.6, 1), 1)
        x, y = int(rng.uniform(0.12, 0.88) * w), int(rng.uniform(0.12, 0.88) * h)
        if rng.random() < 0.7:
            cv2.circle(picture, (x, y), r, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(picture, (x - r, y - r), (x + r, y + r), colour, -1)
    if rng.random() < 0.75:
        x, y, a = w / 2, h / 2, float(rng.uniform(0, math.tau))
        q = r * 2.2
        pts = [
            (x + math.cos(a + k) * q * f, y + math.sin(a + k) * q * f)
            for k, f in ((0, 1.0), (2.5, 0.8), (math.pi, 0.3), (-2.5, 0.8))
        ]
        colour = (255, 255, 255) if rng.random() < 0.6 else hsv(float(rng.random()), 0.8, 1.0)
        cv2.fillPoly(picture, [np.array(pts, np.int32)], colour, cv2.LINE_AA)


def panel(rng: np.random.Generator, image: Image, box: Box, opacity: float | None = None) -> Colour:
    """A window frame for menus; returns a text colour that reads on it."""
    light = rng.random() < 0.25
    fill = hsv(
        float(rng.random()),
        rng.uniform(0, 0.4),
        rng.uniform(0.7, 0.95) if light else rng.uniform(0.04, 0.3),
    )
    fill_rect(image, box, fill, opacity if opacity is not None else float(rng.uniform(0.6, 1.0)))
    if rng.random() < 0.75:
        edge = mix(
            fill, (200, 170, 90) if rng.random() < 0.4 else (255, 255, 255), rng.uniform(0.2, 0.9)
        )
        stroke_rect(image, box, edge, max(1, int((box[3] - box[1]) * 0.006)))
    return (25, 22, 20) if light else (238, 236, 228)


WORDS = (
    "Find the old key",
    "Reach the tower",
    "Press E to open",
    "New quest added",
    "Ammo 24/120",
    "Lv. 12",
    "Level up!",
    "Score 004210",
    "x3 combo",
    "Gold 1,250",
    "Wave 4",
    "02:41",
    "FPS 60",
    "Objective updated",
    "Player1: gg",
    "Kira: follow me",
    "Checkpoint reached",
    "+120 XP",
    "Talk to the smith",
    "Zone B",
    "Round 2",
    "Save complete",
    "Quest: The Last Gate",
)


def clutter(rng: np.random.Generator, image: Image, u: float, kind: str, at: Box) -> None:
    """Draw one unlabelled HUD element of a ``kind`` inside the box ``at``; ``u`` is H / 720."""
    x1, y1, x2, y2 = at
    face = int(rng.integers(0, 5))
    if kind == "text":
        colour = (245, 245, 240) if rng.random() < 0.7 else hsv(float(rng.random()), 0.6, 1)
        for i in range(int(rng.integers(1, 4))):
            draw_text(
                image,
                WORDS[int(rng.integers(len(WORDS)))],
                (x1, y1 + i * 26 * u),
                rng.uniform(14, 26) * u,
                colour,
                face,
                0,
                True,
            )
    elif kind == "hotbar":
        n, side = int(rng.integers(3, 10)), y2 - y1
        left = (x1 + x2) / 2 - n * side / 2
        for i in range(n):
            cell = (left + i * side + 2 * u, y1, left + (i + 1) * side - 2 * u, y2)
            fill_rect(image, cell, (25, 25, 30), 0.7)
            stroke_rect(image, cell, (170, 170, 170), max(1, int(2 * u)))
            item(rng, image, cell)
    elif kind == "chat":
        fill_rect(image, at, (10, 10, 14), 0.55)
        for i in range(int((y2 - y1) / (22 * u))):
            colour = hsv(float(rng.random()), rng.uniform(0, 0.6), 1.0)
            draw_text(
                image,
                WORDS[int(rng.integers(len(WORDS)))],
                (x1 + 6 * u, y1 + i * 22 * u + 4 * u),
                15 * u,
                colour,
                face,
            )
    elif kind == "webcam":
        back = hsv(float(rng.random()), 0.3, rng.uniform(0.2, 0.7))
        fill_rect(image, at, back)
        layer = Layer(x2 - x1, y2 - y1)
        w, h = layer.w, layer.h
        flesh = hsv(0.06, rng.uniform(0.25, 0.6), rng.uniform(0.4, 0.95))
        shirt = hsv(float(rng.random()), 0.5, 0.5)
        layer.ellipse((w / 2, h * 1.05), (w * 0.34, h * 0.4), shirt)
        layer.ellipse((w / 2, h * 0.42), (h * 0.18, h * 0.24), flesh)
        layer.ellipse((w / 2, h * 0.34), (h * 0.19, h * 0.18), (40, 28, 20), 0, (180, 360))
        layer.paste(image, x1, y1)
        stroke_rect(image, at, (230, 230, 230), max(1, int(2 * u)))
    elif kind == "dial":
        r = int((y2 - y1) / 2)
        c = (int((x1 + x2) / 2), int((y1 + y2) / 2))
        colour = other_colours(rng)[1]
        cv2.circle(image, c, r, (20, 20, 24), -1, cv2.LINE_AA)
        end = int(rng.integers(60, 350))
        cv2.ellipse(
            image,
            c,
            (int(r * 0.85), int(r * 0.85)),
            -90,
            0,
            end,
            colour,
            max(2, r // 5),
            cv2.LINE_AA,
        )
        draw_text(
            image,
            str(int(rng.integers(1, 99))),
            (c[0], c[1] - r * 0.35),
            r * 0.7,
            (240, 240, 240),
            face,
            0.5,
        )
    elif kind == "crosshair":
        c = (int((x1 + x2) / 2), int((y1 + y2) / 2))
        colour = (255, 255, 255) if rng.random() < 0.6 else (60, 255, 90)
        t, r = max(1, int(2 * u)), int(rng.uniform(8, 18) * u)
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            cv2.line(
                image,
                (c[0] + dx * r // 3, c[1] + dy * r // 3),
                (c[0] + dx * r, c[1] + dy * r),
                colour,
                t,
            )
    elif kind == "compass":
        fill_rect(image, at, (10, 10, 10), 0.5)
        for i, letter in enumerate(["W", "NW", "N", "NE", "E"]):
            draw_text(
                image,
                letter,
                (x1 + (x2 - x1) * (i + 0.5) / 5, y1 + 3 * u),
                16 * u,
                (240, 240, 240),
                face,
                0.5,
            )
    elif kind == "buttons":
        for i in range(int(rng.integers(1, 4))):
            cell = (x1, y1 + i * 40 * u, x2, y1 + i * 40 * u + 32 * u)
            ink = panel(rng, image, cell)
            draw_text(
                image,
                ("Attack", "Item", "Run", "Menu")[i],
                (cell[0] + 10 * u, cell[1] + 6 * u),
                18 * u,
                ink,
                face,
            )


def item(rng: np.random.Generator, image: Image, cell: Box) -> None:
    """An item's picture in an inventory cell, or nothing."""
    if rng.random() < 0.3:
        return
    w, h = cell[2] - cell[0], cell[3] - cell[1]
    layer = Layer(w, h)
    colour = hsv(float(rng.random()), rng.uniform(0.2, 0.9), rng.uniform(0.4, 1.0))
    kind = int(rng.integers(4))
    if kind == 0:
        layer.ellipse((w / 2, h * 0.6), (w * 0.25, h * 0.25), colour)
        layer.poly(
            [
                (w * 0.42, h * 0.15),
                (w * 0.58, h * 0.15),
                (w * 0.58, h * 0.45),
                (w * 0.42, h * 0.45),
            ],
            mix(colour, (255, 255, 255), 0.5),
        )
    elif kind == 1:
        layer.taper((w * 0.25, h * 0.8), (w * 0.8, h * 0.2), (200, 205, 215), w * 0.12, w * 0.05)
        layer.line([(w * 0.2, h * 0.6), (w * 0.45, h * 0.85)], colour, w * 0.08)
    elif kind == 2:
        layer.poly(
            [(w / 2, h * 0.2), (w * 0.75, h / 2), (w / 2, h * 0.8), (w * 0.25, h / 2)], colour
        )
    else:
        layer.poly(
            [(w * 0.25, h * 0.3), (w * 0.75, h * 0.3), (w * 0.7, h * 0.8), (w * 0.3, h * 0.8)],
            colour,
        )
    layer.paste(image, cell[0], cell[1])
