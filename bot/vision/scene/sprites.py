"""Procedural figures: humanoids (players, hostile soldiers) and monsters (enemies, bosses)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from bot.vision.scene.canvas import Colour, Layer, Point, hsv, mix

MONSTERS = (
    "beast",
    "biped",
    "dragon",
    "blob",
    "spider",
    "eye",
    "mech",
    "serpent",
    "wraith",
    "skull",
)
FACINGS = ("back", "side", "front", "top")
INK: Colour = (16, 14, 18)


@dataclass(frozen=True, slots=True)
class Skin:
    """How a style draws its figures. ``light`` and ``texture`` are 0..1."""

    light: float = 0.6
    texture: float = 0.3
    outline: float = 0.4
    pixel: int = 0
    saturation: float = 1.0


def _finish(layer: Layer, rng: np.random.Generator, skin: Skin, size: float) -> Layer:
    layer.shade(rng, skin.light * rng.uniform(0.4, 1.1), skin.texture * rng.uniform(0.3, 1.2))
    if rng.random() < skin.outline:
        ink = INK if rng.random() < 0.85 else (240, 240, 240)
        layer.outline(ink, max(1, round(size * rng.uniform(0.006, 0.02))))
    if skin.pixel:
        layer.pixelate(max(2, min(skin.pixel, int(size / 14) or 2)))
    return layer.trim()


def humanoid(
    rng: np.random.Generator,
    height: float,
    skin: Skin,
    facing: str = "back",
    hostile: bool = False,
    pose: float = 0.0,
) -> Layer:
    """A two-legged figure about ``height`` pixels tall; ``pose`` is the walk's phase in turns."""
    h = float(height)
    if facing == "top":
        return _top_figure(rng, h, skin, hostile)
    layer = Layer(h * 1.9, h * 1.25)
    cx, top = layer.w / 2, h * 0.14
    sat = skin.saturation
    hue = float(rng.random())
    cloth = hsv(hue, rng.uniform(0.0, 0.9) * sat, rng.uniform(0.15, 0.95))
    trousers = hsv(float(rng.random()), rng.uniform(0, 0.6) * sat, rng.uniform(0.12, 0.7))
    flesh = hsv(rng.uniform(0.04, 0.09), rng.uniform(0.25, 0.6) * sat, rng.uniform(0.35, 0.98))
    if hostile:
        flesh = hsv(
            float(rng.choice([0.0, 0.3, 0.75, 0.12])),
            rng.uniform(0, 0.8) * sat,
            rng.uniform(0.2, 0.9),
        )
        if rng.random() < 0.5:
            cloth = hsv(rng.uniform(-0.03, 0.03), rng.uniform(0.5, 1) * sat, rng.uniform(0.2, 0.9))
    hair = hsv(rng.uniform(0, 0.15), rng.uniform(0, 0.9) * sat, rng.uniform(0.05, 0.9))
    head = h * rng.uniform(0.065, 0.11) if rng.random() < 0.7 else h * rng.uniform(0.12, 0.19)
    neck_y = top + 2 * head
    hip_y = neck_y + (h + top - neck_y) * rng.uniform(0.42, 0.55)
    foot_y = top + h * 0.98
    shoulder = h * rng.uniform(0.09, 0.17)
    waist = shoulder * rng.uniform(0.6, 1.05)
    limb = h * rng.uniform(0.045, 0.1)
    swing = math.sin(2 * math.pi * (pose if pose else float(rng.random())))
    stride = h * rng.uniform(0.03, 0.14) * swing
    side = facing == "side"
    cape = facing != "front" and rng.random() < (0.35 if not side else 0.2)
    leg_gap = waist * (0.25 if side else 0.6)
    for sign in (-1, 1):
        foot = (
            cx + sign * (leg_gap + (stride if side else 0)),
            foot_y - (0 if side else max(0, sign * stride) * 0.5),
        )
        hip = (cx + sign * leg_gap, hip_y - limb * 0.3)
        shade = trousers if sign > 0 else mix(trousers, INK, 0.25)
        layer.taper(hip, foot, shade, limb * 1.25, limb * 0.9)
        shoe = mix(trousers, INK, 0.5)
        layer.ellipse(
            (foot[0] + (limb * 0.4 if side else 0), foot[1]), (limb * 0.8, limb * 0.42), shoe
        )
    arm_len = (hip_y - neck_y) * rng.uniform(0.85, 1.15)
    armed = rng.random() < 0.7
    hands: list[Point] = []
    for sign in (-1, 1):
        reach = float(rng.uniform(0.05, 0.35 if not (armed and sign > 0) else 0.9))
        start = (cx + sign * shoulder * (0.3 if side else 0.95), neck_y + limb * 0.6)
        angle = reach * 1.3 + (swing * 0.4 * sign if side else 0)
        hand = (start[0] + sign * math.sin(angle) * arm_len, start[1] + math.cos(angle) * arm_len)
        layer.taper(start, hand, mix(cloth, INK, 0.15), limb * 1.05, limb * 0.8)
        layer.ellipse(hand, (limb * 0.45, limb * 0.45), flesh)
        hands.append(hand)
    layer.poly(
        [
            (cx - shoulder, neck_y),
            (cx + shoulder, neck_y),
            (cx + waist, hip_y),
            (cx - waist, hip_y),
        ],
        cloth,
    )
    if rng.random() < 0.5:
        belt = mix(cloth, INK, 0.6)
        layer.poly(
            [
                (cx - waist, hip_y - limb * 0.5),
                (cx + waist, hip_y - limb * 0.5),
                (cx + waist, hip_y),
                (cx - waist, hip_y),
            ],
            belt,
        )
    if cape:
        colour = hsv(float(rng.random()), rng.uniform(0.3, 1) * sat, rng.uniform(0.2, 0.9))
        drift = h * rng.uniform(-0.1, 0.1) - (h * 0.12 if side else 0)
        layer.poly(
            [
                (cx - shoulder * 0.9, neck_y),
                (cx + shoulder * 0.9, neck_y),
                (cx + waist * 1.3 + drift, foot_y - h * 0.12),
                (cx - waist * 1.3 + drift, foot_y - h * 0.1),
            ],
            colour,
        )
    elif facing == "back" and rng.random() < 0.4:
        pack = mix(trousers, (120, 90, 50), 0.5)
        layer.ellipse((cx, (neck_y + hip_y) / 2), (waist * 0.75, (hip_y - neck_y) * 0.42), pack)
    layer.ellipse((cx, top + head), (head * rng.uniform(0.8, 1.0), head), flesh)
    cover = float(rng.random())
    if cover < 0.45:
        arc = (0.0, 360.0) if facing == "back" else (180.0, 360.0)
        layer.ellipse((cx, top + head * 0.95), (head * 1.05, head * 1.08), hair, 0, arc)
    elif cover < 0.75:
        metal = hsv(hue, rng.uniform(0, 0.5) * sat, rng.uniform(0.3, 0.9))
        layer.ellipse((cx, top + head * 0.9), (head * 1.12, head * 1.1), metal, 0, (170, 370))
    if facing != "back":
        eye = (255, 40, 20) if hostile and rng.random() < 0.6 else (20, 20, 30)
        spots = (0.45,) if side else (-0.4, 0.4)
        for spot in spots:
            layer.ellipse((cx + spot * head, top + head * 1.05), (head * 0.16, head * 0.16), eye)
    if armed:
        _weapon(layer, rng, hands[1], h, sat)
    if rng.random() < 0.2:
        shield = hsv(float(rng.random()), rng.uniform(0, 0.8) * sat, rng.uniform(0.3, 0.9))
        layer.ellipse(hands[0], (h * 0.1, h * 0.13), shield)
        layer.ellipse(hands[0], (h * 0.05, h * 0.06), mix(shield, (255, 255, 255), 0.4))
    if rng.random() < 0.5:
        layer.flip()
    return _finish(layer, rng, skin, h)


def _weapon(layer: Layer, rng: np.random.Generator, hand: Point, h: float, sat: float) -> None:
    x, y = hand
    kind = int(rng.integers(4))
    steel = hsv(rng.uniform(0.5, 0.65), rng.uniform(0, 0.25) * sat, rng.uniform(0.55, 0.98))
    lean = float(rng.uniform(-0.5, 0.9))
    if kind == 0:
        length = h * rng.uniform(0.25, 0.5)
        tip = (x + math.sin(lean) * length, y - math.cos(lean) * length)
        layer.taper(hand, tip, steel, h * 0.04, h * 0.012)
        layer.line([(x - h * 0.04, y - h * 0.02), (x + h * 0.04, y + h * 0.01)], INK, h * 0.018)
    elif kind == 1:
        layer.poly(
            [
                (x - h * 0.04, y - h * 0.03),
                (x + h * 0.24, y - h * 0.04),
                (x + h * 0.24, y),
                (x, y + h * 0.03),
            ],
            mix(steel, INK, 0.7),
        )
    elif kind == 2:
        length = h * rng.uniform(0.4, 0.6)
        top = (x + math.sin(lean * 0.3) * length, y - length)
        layer.line([(x, y + h * 0.2), top], (110, 75, 40), h * 0.022)
        layer.ellipse(top, (h * 0.04, h * 0.04), hsv(float(rng.random()), 0.8 * sat, 1.0))
    else:
        layer.line([(x, y - h * 0.2), (x + h * 0.09, y), (x, y + h * 0.2)], (120, 80, 40), h * 0.02)


def _top_figure(rng: np.random.Generator, h: float, skin: Skin, hostile: bool) -> Layer:
    size = h * 0.8
    layer = Layer(size * 1.5, size * 1.5)
    c = layer.w / 2
    sat = skin.saturation
    hue = rng.uniform(-0.03, 0.04) if hostile else float(rng.random())
    cloth = hsv(hue, rng.uniform(0.3, 0.9) * sat, rng.uniform(0.3, 0.95))
    turn = float(rng.uniform(-0.5, 0.5))
    barrel = (c + math.sin(turn) * size * 0.55, c - math.cos(turn) * size * 0.55)
    layer.line([(c + size * 0.12, c), barrel], (50, 50, 55), size * 0.09)
    for sign in (-1, 1):
        layer.line(
            [(c + sign * size * 0.24, c), (c + sign * size * 0.12, c - size * 0.3)],
            mix(cloth, INK, 0.2),
            size * 0.12,
        )
    layer.ellipse((c, c), (size * 0.32, size * 0.2), cloth, math.degrees(turn))
    hair = hsv(rng.uniform(0, 0.15), rng.uniform(0, 0.8) * sat, rng.uniform(0.1, 0.9))
    layer.ellipse((c, c), (size * 0.15, size * 0.16), hair)
    return _finish(layer, rng, skin, size)


def monster(rng: np.random.Generator, size: float, skin: Skin, kind: str | None = None) -> Layer:
    """A creature or machine drawn in a square of about ``size`` pixels."""
    plan = kind or MONSTERS[int(rng.integers(len(MONSTERS)))]
    sat = skin.saturation
    hue = float(rng.random())
    if rng.random() < 0.3:
        hue = float(rng.uniform(-0.05, 0.08))
    body = hsv(hue, rng.uniform(0.1, 0.9) * sat, rng.uniform(0.15, 0.85))
    second = hsv(hue + rng.normal(0, 0.12), rng.uniform(0.1, 0.9) * sat, rng.uniform(0.15, 0.9))
    glow = hsv(float(rng.choice([0.0, 0.08, 0.15, 0.33, 0.5, 0.8])), 0.9 * sat, 1.0)
    if rng.random() < 0.15:
        glow = (245, 245, 245)
    layer = Layer(size * 1.3, size * 1.3)
    artist = _Artist(layer, rng, size, body, second, glow)
    getattr(artist, plan)()
    if rng.random() < 0.5:
        layer.flip()
    return _finish(layer, rng, skin, size)


class _Artist:
    """Draws one monster; coordinates are in units of its size, origin at the middle."""

    def __init__(
        self,
        layer: Layer,
        rng: np.random.Generator,
        size: float,
        body: Colour,
        second: Colour,
        glow: Colour,
    ) -> None:
        self.layer, self.rng, self.s = layer, rng, size
        self.body, self.second, self.glow = body, second, glow
        self.dark = mix(body, INK, 0.45)
        self.bone = mix((235, 225, 195), second, float(rng.uniform(0, 0.5)))

    def u(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def p(self, x: float, y: float) -> Point:
        return self.layer.w / 2 + x * self.s, self.layer.h / 2 + y * self.s

    def poly(self, points: list[Point], colour: Colour) -> None:
        self.layer.poly([self.p(*q) for q in points], colour)

    def oval(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Colour,
        angle: float = 0,
        arc: tuple[float, float] = (0.0, 360.0),
    ) -> None:
        self.layer.ellipse(self.p(x, y), (rx * self.s, ry * self.s), colour, angle, arc)

    def limb(self, points: list[Point], colour: Colour, wide: float, thin: float) -> None:
        for i, (a, b) in enumerate(itertools.pairwise(points)):
            n = len(points) - 1
            w1, w2 = (wide + (thin - wide) * k / n for k in (i, i + 1))
            self.layer.taper(self.p(*a), self.p(*b), colour, w1 * self.s, w2 * self.s)
            self.oval(b[0], b[1], w2 / 2, w2 / 2, colour)

    def eyes(self, x: float, y: float, gap: float, radius: float, count: int = 2) -> None:
        for i in range(count):
            ex = x + (i - (count - 1) / 2) * gap
            ey = y - (abs(i - (count - 1) / 2) - 0.5) * radius * 0.7 * (count > 2)
            if self.rng.random() < 0.6 or count == 1:
                self.oval(ex, ey, radius * 1.3, radius * 1.3, mix(self.glow, INK, 0.6))
            self.oval(ex, ey, radius, radius, self.glow)
            self.oval(ex, ey, radius * 0.4, radius * 0.6, INK)

    def horns(self, x: float, y: float, gap: float, length: float) -> None:
        if self.rng.random() < 0.25:
            return
        bend = self.u(-0.3, 0.9)
        for sign in (-1, 1):
            root, middle = (x + sign * gap, y), (x + sign * (gap + length * 0.5), y - length * 0.5)
            tip = (x + sign * (gap + length * bend), y - length)
            self.limb([root, middle, tip], self.bone, length * 0.35, length * 0.06)

    def mouth(self, x: float, y: float, rx: float, ry: float) -> None:
        self.oval(
            x, y, rx, ry, (40, 8, 12), 0, (0.0, 180.0) if self.rng.random() < 0.5 else (0.0, 360.0)
        )
        n = int(self.rng.integers(3, 8))
        step = 2 * rx / n
        for i in range(n):
            left = x - rx * 0.9 + i * step * 0.9
            self.poly(
                [
                    (left, y - ry * 0.2),
                    (left + step * 0.8, y - ry * 0.2),
                    (left + step * 0.4, y + ry * 0.6),
                ],
                self.bone,
            )

    def spots(self, x: float, y: float, rx: float, ry: float) -> None:
        if self.rng.random() < 0.5:
            return
        for _ in range(int(self.rng.integers(3, 9))):
            a, r = self.u(0, 6.28), self.u(0.1, 0.75)
            size = self.u(0.06, 0.2) * min(rx, ry)
            self.oval(x + math.cos(a) * rx * r, y + math.sin(a) * ry * r, size, size, self.second)

    def wings(self, x: float, y: float, span: float) -> None:
        lift = self.u(0.1, 0.4)
        for sign in (-1, 1):
            tips = [
                (x + sign * span, y - lift),
                (x + sign * span * 0.95, y + 0.02),
                (x + sign * span * 0.75, y - lift * 0.15),
                (x + sign * span * 0.6, y + 0.14),
                (x + sign * span * 0.42, y),
                (x + sign * span * 0.3, y + 0.16),
            ]
            self.poly(
                [(x, y - 0.04), (x + sign * span * 0.5, y - lift * 1.1), *tips, (x, y + 0.1)],
                self.second,
            )
            for tip in tips[::2]:
                self.limb([(x + sign * 0.05, y), tip], self.dark, 0.02, 0.008)

    def beast(self) -> None:
        long, fat = self.u(0.24, 0.36), self.u(0.13, 0.22)
        leg = self.u(0.05, 0.1)
        for i, x in enumerate((-0.8, -0.5, 0.45, 0.75)):
            self.limb(
                [(x * long, 0.08), (x * long + self.u(-0.05, 0.05), 0.25), (x * long, 0.42)],
                self.dark if i % 2 else self.body,
                leg * 1.5,
                leg,
            )
        self.limb(
            [(-long * 0.8, 0), (-long - 0.1, self.u(-0.2, 0.1)), (-long - 0.2, self.u(-0.3, 0.1))],
            self.body,
            0.09,
            0.02,
        )
        self.oval(0, 0.03, long, fat, self.body)
        self.spots(0, 0.03, long, fat)
        for i in range(int(self.rng.integers(0, 7))):
            x = -long * 0.7 + i * 0.08
            self.poly([(x, -fat * 0.7), (x + 0.07, -fat * 0.7), (x + 0.03, -fat - 0.08)], self.bone)
        hx, hy, hr = long + self.u(0.0, 0.06), -self.u(0.05, 0.2), self.u(0.11, 0.18)
        self.limb([(long * 0.6, 0), (hx, hy)], self.body, fat * 1.1, hr * 1.3)
        self.horns(hx, hy - hr * 0.6, hr * 0.4, self.u(0.08, 0.2))
        self.oval(hx, hy, hr, hr * 0.85, self.body)
        self.oval(hx + hr * 0.6, hy + hr * 0.35, hr * 0.7, hr * 0.45, self.dark)
        self.mouth(hx + hr * 0.6, hy + hr * 0.5, hr * 0.55, hr * 0.3)
        self.eyes(hx + hr * 0.2, hy - hr * 0.2, hr * 0.6, hr * 0.18, int(self.rng.integers(1, 3)))

    def biped(self) -> None:
        wide, hip = self.u(0.18, 0.34), self.u(0.1, 0.18)
        if self.rng.random() < 0.25:
            self.wings(0, -0.15, self.u(0.45, 0.62))
        for sign in (-1, 1):
            self.limb(
                [(sign * hip * 0.7, 0.12), (sign * hip * 1.3, 0.28), (sign * hip, 0.46)],
                self.dark,
                self.u(0.12, 0.18),
                0.1,
            )
            self.oval(sign * hip * 1.05, 0.46, 0.09, 0.04, self.dark)
            hand = (sign * (wide + self.u(0.05, 0.2)), self.u(-0.35, 0.3))
            elbow = (sign * (wide + self.u(0.06, 0.16)), self.u(-0.1, 0.08))
            self.limb([(sign * wide * 0.9, -0.2), elbow, hand], self.body, self.u(0.12, 0.2), 0.1)
            for k in (-1, 0, 1):
                self.poly(
                    [
                        (hand[0] + k * 0.035 - 0.018, hand[1]),
                        (hand[0] + k * 0.035 + 0.018, hand[1]),
                        (hand[0] + k * 0.05, hand[1] + 0.1),
                    ],
                    self.bone,
                )
        self.poly(
            [
                (-wide, -0.24),
                (-wide * 0.5, -0.32),
                (wide * 0.5, -0.32),
                (wide, -0.24),
                (hip, 0.18),
                (-hip, 0.18),
            ],
            self.body,
        )
        self.oval(0, -0.02, hip * 0.8, 0.15, self.second)
        self.spots(0, -0.1, wide * 0.8, 0.16)
        r = self.u(0.08, 0.14)
        self.horns(0, -0.36 - r * 0.4, r * 0.6, self.u(0.08, 0.2))
        self.oval(0, -0.34, r, r * 1.1, self.body)
        self.eyes(0, -0.36, r * 0.9, r * 0.2)
        self.mouth(0, -0.34 + r * 0.5, r * 0.6, r * 0.4)

    def dragon(self) -> None:
        self.wings(0, -0.08, self.u(0.45, 0.62))
        self.limb([(0, 0.15), (-0.2, 0.3), (-0.4, 0.28), (-0.5, 0.15)], self.body, 0.16, 0.02)
        for sign in (-1, 1):
            self.limb(
                [(sign * 0.1, 0.15), (sign * 0.2, 0.32), (sign * 0.17, 0.44)], self.dark, 0.13, 0.06
            )
        fat = self.u(0.14, 0.22)
        self.oval(0, 0.1, fat, 0.24, self.body)
        self.oval(0, 0.13, fat * 0.6, 0.18, self.second)
        lean = self.u(-0.2, 0.2)
        self.limb([(0, -0.05), (lean * 0.6, -0.2), (lean, -0.34)], self.body, 0.16, 0.11)
        r = self.u(0.09, 0.13)
        self.horns(lean, -0.4, r * 0.5, self.u(0.08, 0.16))
        self.oval(lean, -0.36, r, r * 0.9, self.body)
        self.oval(lean, -0.31, r * 0.7, r * 0.5, self.dark)
        self.eyes(lean, -0.38, r, r * 0.2)
        self.mouth(lean, -0.29, r * 0.55, r * 0.3)

    def blob(self) -> None:
        wide, tall = self.u(0.3, 0.46), self.u(0.25, 0.5)
        points: list[Point] = []
        for k in range(25):
            a = math.pi * k / 24
            wobble = 1 + self.u(-0.06, 0.06)
            points.append(
                (-math.cos(a) * wide * wobble, 0.4 - math.sin(a) ** 0.8 * tall * wobble * 1.5)
            )
        points += [(wide * (1 - k / 4), 0.4 + (0.05 if k % 2 else 0.0)) for k in range(9)]
        self.poly(points, self.body)
        self.spots(0, 0.15, wide * 0.8, tall * 0.6)
        self.horns(0, 0.4 - tall * 1.35, wide * 0.35, self.u(0.06, 0.16))
        self.eyes(
            0,
            0.35 - tall * 0.8,
            wide * self.u(0.4, 0.8),
            self.u(0.03, 0.08),
            int(self.rng.integers(1, 4)),
        )
        if self.rng.random() < 0.8:
            self.mouth(0, 0.38 - tall * 0.4, wide * self.u(0.3, 0.6), tall * 0.2)

    def spider(self) -> None:
        pairs = int(self.rng.integers(3, 5))
        reach = self.u(0.38, 0.58)
        for i in range(pairs):
            for sign in (-1, 1):
                y = -0.1 + i * 0.12
                self.limb(
                    [
                        (sign * 0.08, y * 0.6),
                        (sign * reach * 0.6, y - self.u(0.1, 0.25)),
                        (sign * reach, y + self.u(0.1, 0.3)),
                    ],
                    self.dark,
                    0.055,
                    0.015,
                )
        self.oval(0, -0.12, self.u(0.16, 0.26), self.u(0.16, 0.24), self.body)
        self.spots(0, -0.12, 0.18, 0.18)
        self.oval(0, 0.1, 0.14, 0.13, self.second)
        self.eyes(0, 0.08, 0.06, 0.022, int(self.rng.integers(2, 6)))
        self.mouth(0, 0.17, 0.08, 0.06)

    def eye(self) -> None:
        for _ in range(int(self.rng.integers(5, 12))):
            a = self.u(0, 6.28)
            tip = (math.cos(a) * 0.5, math.sin(a) * 0.5)
            mid = (math.cos(a + 0.3) * 0.38, math.sin(a + 0.3) * 0.38)
            self.limb([(math.cos(a) * 0.2, math.sin(a) * 0.2), mid, tip], self.dark, 0.07, 0.03)
        r = self.u(0.27, 0.36)
        self.oval(0, 0, r, r, self.body)
        self.spots(0, 0, r, r)
        self.oval(0, -0.02, r * 0.65, r * 0.55, (235, 225, 220))
        self.oval(0, -0.02, r * 0.32, r * 0.36, self.glow)
        self.oval(0, -0.02, r * 0.12, r * 0.3, INK)
        self.mouth(0, r * 0.7, r * 0.5, r * 0.2)

    def mech(self) -> None:
        wide, high = self.u(0.17, 0.28), self.u(0.15, 0.24)
        metal = mix(self.body, (130, 135, 140), self.u(0.1, 0.7))
        for sign in (-1, 1):
            self.limb(
                [(sign * wide * 0.6, high), (sign * wide * 0.95, 0.3), (sign * wide * 0.8, 0.46)],
                self.dark,
                0.1,
                0.08,
            )
            x = sign * wide * 0.85
            self.poly([(x - 0.1, 0.44), (x + 0.1, 0.44), (x + 0.1, 0.5), (x - 0.1, 0.5)], metal)
            ax = sign * (wide + 0.09)
            self.poly(
                [
                    (ax - 0.09, -high - 0.05),
                    (ax + 0.09, -high - 0.05),
                    (ax + 0.08, 0.0),
                    (ax - 0.08, 0.0),
                ],
                self.second,
            )
            end = self.u(0.12, 0.3)
            self.poly(
                [(ax - 0.05, 0), (ax + 0.05, 0), (ax + 0.05, end), (ax - 0.05, end)], self.dark
            )
            self.oval(ax, end, 0.05, 0.03, self.glow)
        self.poly([(-wide, -high), (wide, -high), (wide * 0.8, high), (-wide * 0.8, high)], metal)
        for k in range(3):
            y = -high * 0.2 + k * high * 0.35
            self.poly(
                [
                    (-wide * 0.6, y),
                    (wide * 0.6, y),
                    (wide * 0.6, y + 0.02),
                    (-wide * 0.6, y + 0.02),
                ],
                self.dark,
            )
        hw, hh = self.u(0.07, 0.14), self.u(0.06, 0.11)
        self.poly([(-hw, -high - hh * 2), (hw, -high - hh * 2), (hw, -high), (-hw, -high)], metal)
        self.poly(
            [
                (-hw * 0.8, -high - hh * 1.3),
                (hw * 0.8, -high - hh * 1.3),
                (hw * 0.8, -high - hh * 0.8),
                (-hw * 0.8, -high - hh * 0.8),
            ],
            self.glow,
        )

    def serpent(self) -> None:
        phase, swing = self.u(0, 6.28), self.u(0.15, 0.32)
        path = [(math.sin(phase + k * 0.55) * swing, 0.46 - k * 0.085) for k in range(10)]
        for i, (x, y) in enumerate(path):
            r = 0.05 + 0.09 * min(1.0, (i + 2) / 8)
            self.oval(x, y, r, r, self.body if i % 2 else self.second)
        x, y = path[-1]
        if self.rng.random() < 0.4:
            self.poly(
                [
                    (x - 0.2, y - 0.05),
                    (x, y - 0.14),
                    (x + 0.2, y - 0.05),
                    (x + 0.1, y + 0.2),
                    (x - 0.1, y + 0.2),
                ],
                self.second,
            )
        self.horns(x, y - 0.08, 0.06, self.u(0.06, 0.15))
        self.oval(x, y, 0.14, 0.12, self.body)
        self.eyes(x, y - 0.03, 0.13, 0.028)
        self.mouth(x, y + 0.06, 0.1, 0.07)

    def wraith(self) -> None:
        wide = self.u(0.2, 0.36)
        n = int(self.rng.integers(5, 10))
        hem = [(wide - 2 * wide * k / n, 0.34 + (0.12 if k % 2 else 0.0)) for k in range(n + 1)]
        for sign in (-1, 1):
            hand = (sign * self.u(0.3, 0.48), self.u(-0.2, 0.2))
            self.limb([(sign * 0.12, -0.15), hand], self.body, 0.16, 0.07)
            self.oval(hand[0], hand[1], 0.04, 0.04, self.bone)
        self.poly(
            [(0, -0.46), (0.14, -0.34), (0.18, -0.15), *hem, (-0.18, -0.15), (-0.14, -0.34)],
            self.body,
        )
        self.oval(0, -0.27, 0.1, 0.12, INK)
        self.eyes(0, -0.28, 0.09, 0.025)

    def skull(self) -> None:
        r = self.u(0.3, 0.4)
        self.horns(0, -0.2, r * 0.7, self.u(0.1, 0.22))
        pale = mix(self.bone, self.body, self.u(0, 0.6))
        self.oval(0, -0.08, r, r * 0.9, pale)
        self.poly([(-r * 0.6, 0.1), (r * 0.6, 0.1), (r * 0.5, 0.4), (-r * 0.5, 0.4)], pale)
        for sign in (-1, 1):
            self.oval(sign * r * 0.42, -0.05, r * 0.26, r * 0.26, INK)
            self.oval(sign * r * 0.42, -0.05, r * 0.1, r * 0.1, self.glow)
        self.poly([(0, 0.05), (r * 0.12, 0.15), (-r * 0.12, 0.15)], INK)
        self.mouth(0, 0.28, r * 0.45, 0.09)
