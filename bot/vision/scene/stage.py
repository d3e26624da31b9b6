"""A stretch of play: a world, the figures in it and a HUD, drawn at any moment of its time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from bot.vision.scene import hud
from bot.vision.scene.backdrops import palette, world
from bot.vision.scene.canvas import (
    Box,
    Image,
    Layer,
    draw_text,
    hsv,
)
from bot.vision.scene.model import SceneObject
from bot.vision.scene.sprites import FACINGS, humanoid, monster
from bot.vision.scene.styles import VIEWS, Style

NAMES = (
    "Gorath the Burned",
    "Iron Warden",
    "Mother of Webs",
    "The Pale King",
    "Unit 07",
    "Vel'Kar",
    "Ancient Wyrm",
    "Slime Emperor",
    "Hollow Knight Captain",
    "BOSS",
    "Overseer",
    "Kraal",
)
GRUNTS = ("Goblin", "Bandit Lv 7", "Skeleton", "Drone", "Wolf", "Cultist", "Enemy", "Zombie")
MINIMUM_VISIBLE = 0.35
"""An object is labelled where at least this share of its pixels can be seen."""


@dataclass(slots=True)
class Actor:
    """A figure: its pictures by phase of the walk, and its feet's place at time 0 in pixels."""

    label: str
    frames: list[Layer]
    x: float
    y: float
    sway: float
    speed: float
    phase: float
    flying: float = 0.0
    bar: hud.Bar | None = None
    level: float = 1.0
    name: str = ""
    marker: str = ""
    arrives: float = -99.0
    """Second at which it comes in from outside."""

    def at(self, t: float, width: float) -> tuple[float, float]:
        """The feet's place in pixels at ``t`` seconds."""
        swing = math.sin(self.phase + t * self.speed) - math.sin(self.phase)
        x = self.x + self.sway * swing
        y = self.y - self.flying * (1 + 0.15 * math.sin(self.phase + 2.2 * t))
        late = min(max(1 - (t - self.arrives) / 3.0, 0.0), 1.0)
        if late > 0:
            x += (width * 1.1 - self.x) * late * late
        return x, y

    def frame(self, t: float) -> Layer:
        return self.frames[int(t * 4 + self.phase) % len(self.frames)]


@dataclass(slots=True)
class Hud:
    """The displays of a game: the same through a whole session."""

    bar: hud.Bar | None = None
    mini: Layer | None = None
    mini_at: tuple[float, float] = (0.0, 0.0)
    corner: str = ""
    others: list[tuple[hud.Bar, float]] = field(default_factory=list)
    extras: list[tuple[str, Box]] = field(default_factory=list)
    boss_box: Box = (0.0, 0.0, 0.0, 0.0)
    taken: list[Box] = field(default_factory=list)
    seed: int = 0


def overlaps(box: Box, others: list[Box], pad: float = 2.0) -> bool:
    """Whether ``box`` touches one of ``others``."""
    return any(
        box[0] < o[2] + pad and box[2] > o[0] - pad and box[1] < o[3] + pad and box[3] > o[1] - pad
        for o in others
    )


def make_hud(
    rng: np.random.Generator, style: Style, w: int, h: int, chances: dict[str, float]
) -> Hud:
    """Lay out a HUD; ``chances`` gives the probability of ``bar``, ``mini`` and ``clutter``."""
    u = h / 720
    out = Hud(seed=int(rng.integers(2**31)))
    scale = float(rng.uniform(0.75, 1.5))
    margin = float(rng.uniform(0.008, 0.05)) * h
    if rng.random() < chances["mini"]:
        out.mini = hud.minimap(rng, h * rng.uniform(0.15, 0.32), palette(rng, style))
        corner = int(rng.choice(4, p=[0.2, 0.38, 0.26, 0.16]))
        right, low = corner % 2 == 1, corner >= 2
        x = w - margin - out.mini.w if right else margin
        y = h - margin - out.mini.h if low else margin
        if rng.random() < 0.06:
            x, y = float(rng.uniform(0, w - out.mini.w)), float(rng.uniform(0, h - out.mini.h))
        out.mini_at = (x, y)
        out.corner = f"{'bottom' if low else 'top'} {'right' if right else 'left'}"
        out.taken.append((x, y, x + out.mini.w, y + out.mini.h))
    if rng.random() < chances["bar"]:
        _place_bars(rng, style, out, w, h, scale, margin)
    bw, bh = w * float(rng.uniform(0.3, 0.62)), max(9.0 * u, h * float(rng.uniform(0.015, 0.035)))
    by = h * (
        float(rng.uniform(0.03, 0.1)) if rng.random() < 0.6 else float(rng.uniform(0.84, 0.93))
    )
    out.boss_box = ((w - bw) / 2, by, (w + bw) / 2, by + bh)
    if rng.random() < chances["clutter"]:
        _place_clutter(rng, out, w, h, u)
    return out


def _place_bars(
    rng: np.random.Generator, style: Style, out: Hud, w: int, h: int, scale: float, margin: float
) -> None:
    colours = hud.health_colours(rng, style.skin.saturation)
    for _ in range(12):
        bw = w * rng.uniform(0.1, 0.3) * scale
        bh = max(h * 0.013, h * rng.uniform(0.016, 0.042) * scale)
        if rng.random() < 0.05:
            bw, bh = h * rng.uniform(0.025, 0.045), h * rng.uniform(0.2, 0.35)
        spot = float(rng.random())
        inset = margin + h * rng.uniform(0, 0.06) + (bh * 1.5 if rng.random() < 0.4 else 0)
        if spot < 0.42:
            x, y = inset, margin
        elif spot < 0.64:
            x, y = inset, h - margin - bh - h * rng.uniform(0, 0.08)
        elif spot < 0.8:
            x, y = (w - bw) / 2, h - margin - bh - h * rng.uniform(0, 0.12)
        elif spot < 0.9:
            x, y = w - inset - bw, margin
        elif spot < 0.96:
            x, y = w - inset - bw, h - margin - bh
        else:
            x, y = rng.uniform(0, w - bw), rng.uniform(0, h - bh)
        box = (float(x), float(y), float(x + bw), float(y + bh))
        if not overlaps(box, out.taken) and box[0] >= 0 and box[2] <= w:
            break
    else:
        return
    out.bar = hud.make_bar(rng, box, colours)
    out.bar.vertical = bool(box[3] - box[1] > box[2] - box[0])
    if out.bar.vertical:
        out.bar.shape = "rect"
    out.taken.append((box[0] - bh, box[1], box[2], box[3]))
    if not out.bar.vertical and rng.random() < 0.55:
        step = (bh + h * rng.uniform(0.002, 0.012)) * (1 if y < h / 2 else -1)
        for k in range(1, int(rng.integers(2, 4))):
            share = rng.uniform(0.6, 1.0)
            other = (box[0], box[1] + k * step, box[0] + bw * share, box[3] + k * step)
            if not overlaps(other, out.taken, -1) and other[1] > 0 and other[3] < h:
                made = hud.make_bar(rng, other, hud.other_colours(rng), True, False)
                made.shape, made.frame = out.bar.shape, out.bar.frame
                out.others.append((made, float(rng.uniform(0.05, 1))))
                out.taken.append(other)


def _place_clutter(rng: np.random.Generator, out: Hud, w: int, h: int, u: float) -> None:
    if rng.random() < 0.25:
        ph = h * rng.uniform(0.008, 0.018)
        box = (0.0, h - ph, float(w), float(h))
        if rng.random() < 0.4:
            box = (w * 0.25, h - ph * 2.2, w * 0.75, h - ph * 1.2)
        if not overlaps(box, out.taken, 0):
            bar = hud.make_bar(rng, box, hud.other_colours(rng), False, False)
            out.others.append((bar, float(rng.random())))
            out.taken.append(box)
    sizes = {
        "text": (0.16, 0.1),
        "hotbar": (0.42, 0.075),
        "chat": (0.24, 0.2),
        "webcam": (0.17, 0.2),
        "dial": (0.07, 0.12),
        "compass": (0.3, 0.035),
        "buttons": (0.12, 0.16),
    }
    if rng.random() < 0.25:
        out.extras.append(("crosshair", (w / 2 - 20, h / 2 - 20, w / 2 + 20, h / 2 + 20)))
    for _ in range(int(rng.integers(1, 6))):
        kind = str(rng.choice(list(sizes), p=[0.36, 0.14, 0.12, 0.1, 0.12, 0.08, 0.08]))
        bw, bh = sizes[kind][0] * w, sizes[kind][1] * h
        for _ in range(4):
            x = float(rng.choice([0.02 * w, w * 0.98 - bw, (w - bw) / 2]))
            y = float(rng.choice([0.02 * h, 0.35 * h, h * 0.98 - bh]))
            if kind == "compass":
                x, y = (w - bw) / 2, 0.01 * h
            if kind == "hotbar":
                x, y = (w - bw) / 2, h * 0.98 - bh
            box = (x, y, x + bw, y + bh)
            if not overlaps(box, out.taken):
                out.extras.append((kind, box))
                out.taken.append(box)
                break


class Stage:
    """One situation of play. ``subject`` is one of ``model.GAMEPLAY``."""

    def __init__(
        self,
        rng: np.random.Generator,
        style: Style,
        subject: str,
        size: tuple[int, int],
        view: str | None = None,
        display: Hud | None = None,
        frames: int = 1,
        late: bool = False,
    ) -> None:
        self.w, self.h = size
        self.style, self.subject = style, subject
        self.view = view or str(rng.choice(VIEWS, p=[0.17, 0.27, 0.24, 0.14, 0.18]))
        self.pan = 0 if frames == 1 else self.w // 6
        self.back, self.horizon = world(rng, style, self.view, self.h, self.w + self.pan)
        self.fog = float(rng.uniform(*style.fog)) if rng.random() < 0.4 else 0.0
        self.fog_colour = hsv(float(rng.choice(style.hues)), 0.08, float(rng.uniform(0.3, 0.9)))
        self.count = frames
        chances = {
            "bar": 0.6 if subject == "exploring the world" else 0.86,
            "mini": 0.62,
            "clutter": 0.72,
        }
        if subject == "low health":
            chances["bar"] = 1.0
        self.hud = display or make_hud(rng, style, self.w, self.h, chances)
        self.level = (
            float(rng.uniform(0.02, 0.2))
            if subject == "low health"
            else float(rng.uniform(0.38, 1.0))
        )
        self.boss_level = float(rng.uniform(0.04, 1.0))
        self.actors: list[Actor] = []
        self.boss_bar: hud.Bar | None = None
        self.boss_name = NAMES[int(rng.integers(len(NAMES)))]
        self.hand = self.view == "first person" and rng.random() < 0.6
        self.hand_layer = self._weapon_in_hand(rng) if self.hand else None
        self.vignette = subject == "low health" and rng.random() < 0.92
        self.warning = subject == "low health" and rng.random() < 0.3
        self._cast(rng, late)

    def _cast(self, rng: np.random.Generator, late: bool) -> None:
        h, w = self.h, self.w
        boss = self.subject == "a boss fight"
        if boss:
            self._add_boss(rng, late)
            if rng.random() < 0.78:
                self.boss_bar = hud.make_bar(rng, self.hud.boss_box, hud.health_colours(rng), False)
        if self.view != "first person" and rng.random() < 0.93:
            tall = h * float(rng.uniform(0.13, 0.34 if self.view == "third person" else 0.24))
            facing = {
                "third person": "back",
                "side": "side",
                "isometric": "back",
                "top-down": "top",
            }[self.view]
            if rng.random() < 0.3:
                facing = str(rng.choice(FACINGS[:3]))
            poses = [self._figure(rng, tall, facing, False, k) for k in self._poses(rng)]
            x = w * float(
                np.clip(rng.normal(0.48 if self.view != "side" else 0.38, 0.12), 0.1, 0.9)
            )
            self.actors.append(
                Actor(
                    "player",
                    poses,
                    x,
                    self._feet(rng, tall, True),
                    w * 0.08,
                    float(rng.uniform(0.4, 0.9)),
                    float(rng.uniform(0, 6)),
                )
            )
        many = {
            "exploring the world": 0,
            "a boss fight": int(rng.integers(-2, 3)),
            "fighting enemies": int(rng.integers(2, 7)),
            "low health": int(rng.integers(0, 4)),
        }[self.subject]
        shared = int(rng.integers(2**31)) if rng.random() < 0.5 else None
        marked, barred = rng.random() < 0.4, rng.random() < 0.4
        for _ in range(max(0, many)):
            self._add_enemy(rng, shared, marked, barred)
        self.actors.sort(key=lambda a: a.y + (0 if a.label != "boss" else -h))

    def _poses(self, rng: np.random.Generator) -> list[float]:
        start = float(rng.uniform(0.05, 0.95))
        return [start] if self.count == 1 else [0.05, 0.2, 0.3, 0.45, 0.55, 0.7, 0.8, 0.95]

    def _figure(
        self, rng: np.random.Generator, tall: float, facing: str, hostile: bool, pose: float
    ) -> Layer:
        if self.count == 1:
            return humanoid(rng, tall, self.style.skin, facing, hostile, pose)
        state = rng.bit_generator.state
        layer = humanoid(rng, tall, self.style.skin, facing, hostile, pose)
        rng.bit_generator.state = state
        return layer

    def _feet(self, rng: np.random.Generator, tall: float, player: bool) -> float:
        h = self.h
        if self.view == "side":
            return self.horizon + 2
        if self.view in ("isometric", "top-down"):
            return h * float(np.clip(rng.normal(0.55, 0.15), 0.25, 0.95))
        if player:
            return h * float(rng.uniform(0.78, 1.04))
        return min(h * 0.97, self.horizon + tall * float(rng.uniform(0.7, 1.4)))

    def _add_boss(self, rng: np.random.Generator, late: bool) -> None:
        h, w = self.h, self.w
        size = h * float(rng.uniform(0.42, 0.9))
        if rng.random() < 0.12:
            layer = humanoid(rng, size, self.style.skin, "front", True, 0.1)
        else:
            layer = monster(rng, size, self.style.skin)
        layers = [layer]
        x = w * float(np.clip(rng.normal(0.55 if self.view != "side" else 0.7, 0.14), 0.2, 0.85))
        if self.view == "side":
            y = self.horizon + h * float(rng.uniform(0, 0.05))
        elif self.view in ("isometric", "top-down"):
            y = min(h * 0.97, h * float(rng.uniform(0.3, 0.6)) + layer.h * 0.5)
        else:
            y = min(h * 0.95, self.horizon + h * float(rng.uniform(0.12, 0.4)))
        y = max(y, layer.h * 0.8)
        self.actors.append(
            Actor(
                "boss",
                layers,
                x,
                y,
                w * 0.05,
                float(rng.uniform(0.3, 0.7)),
                float(rng.uniform(0, 6)),
                0.0,
                arrives=1.0 if late else -99.0,
            )
        )

    def _add_enemy(
        self, rng: np.random.Generator, shared: int | None, marked: bool, barred: bool
    ) -> None:
        h, w = self.h, self.w
        size = h * float(rng.uniform(0.085, 0.26))
        look = np.random.default_rng(shared) if shared is not None else rng
        skin = self.style.skin
        if look.random() < 0.42:
            facing = (
                "top"
                if self.view == "top-down" and look.random() < 0.6
                else str(look.choice(["front", "side", "front"]))
            )
            layers = [humanoid(look, size, skin, facing, True, p) for p in (0.3,)]
        else:
            layers = [monster(look, size, skin)]
        layer = layers[0]
        x = y = 0.0
        for _ in range(6):
            x = w * float(rng.uniform(0.06, 0.94))
            y = self._feet(rng, size, False)
            box = (x - layer.w / 2, y - layer.h, x + layer.w / 2, y)
            if not overlaps(
                box,
                [
                    (a.x - a.frames[0].w / 2, a.y - a.frames[0].h, a.x + a.frames[0].w / 2, a.y)
                    for a in self.actors
                    if a.label != "boss"
                ],
                -layer.w * 0.3,
            ):
                break
        actor = Actor(
            "enemy",
            layers,
            x,
            y,
            w * float(rng.uniform(0.01, 0.06)),
            float(rng.uniform(0.4, 1.3)),
            float(rng.uniform(0, 6)),
        )
        if rng.random() < 0.2:
            actor.flying = h * float(rng.uniform(0.05, 0.3))
        if barred and rng.random() < 0.85:
            bw, bh = max(layer.w * rng.uniform(0.7, 1.2), w * 0.05), h * rng.uniform(0.013, 0.02)
            actor.bar = hud.make_bar(look, (0, 0, bw, bh), hud.health_colours(look), False)
            actor.bar.shape, actor.bar.border = "rect", min(actor.bar.border, int(bh * 0.15))
            actor.level = float(rng.uniform(0.15, 1.0))
        if marked and rng.random() < 0.8:
            actor.marker = str(look.choice(["name", "arrow", "name"]))
            actor.name = GRUNTS[int(look.integers(len(GRUNTS)))]
        self.actors.append(actor)

    def _weapon_in_hand(self, rng: np.random.Generator) -> Layer:
        s = self.h * float(rng.uniform(0.3, 0.5))
        layer = Layer(s, s)
        flesh = hsv(0.06, 0.45, float(rng.uniform(0.3, 0.9)))
        metal = hsv(float(rng.random()), 0.2, float(rng.uniform(0.15, 0.6)))
        if rng.random() < 0.6:
            layer.taper((s * 0.75, s), (s * 0.2, s * 0.3), metal, s * 0.32, s * 0.12)
            layer.taper((s * 0.7, s * 0.85), (s * 0.25, s * 0.33), (30, 30, 34), s * 0.08, s * 0.05)
        else:
            layer.taper((s * 0.6, s * 0.8), (s * 0.25, 0), (205, 208, 214), s * 0.1, s * 0.03)
            layer.line([(s * 0.45, s * 0.72), (s * 0.75, s * 0.7)], metal, s * 0.06)
        layer.taper((s, s * 1.1), (s * 0.62, s * 0.82), flesh, s * 0.3, s * 0.2)
        layer.shade(rng, 0.6, 0.3)
        return layer.trim()

    def health(self, t: float) -> float:
        """The player's level of health (0..1) at ``t`` seconds."""
        drop = {"a boss fight": 0.02, "fighting enemies": 0.012}.get(self.subject, 0.0)
        return max(0.24, self.level - drop * t) if drop else self.level

    def boss_health(self, t: float) -> float:
        """The boss's level of health (0..1) at ``t`` seconds."""
        return max(0.03, self.boss_level - 0.04 * t)

    def draw(self, t: float = 0.0) -> tuple[Image, list[SceneObject]]:
        """The picture without the style's finish, and the visible objects, at ``t`` seconds."""
        w, h = self.w, self.h
        shift = round(self.pan * (0.5 - 0.5 * math.cos(t * 0.15))) if self.pan else 0
        image = np.ascontiguousarray(self.back[:, shift : shift + w])
        if self.fog > 0:
            haze = np.full_like(image, self.fog_colour)
            image = cv2.addWeighted(haze, self.fog, image, 1 - self.fog, 0).astype(np.uint8)
        owner = np.zeros((h, w), np.uint8)
        found: list[tuple[int, str, Box, float]] = []
        number = 0
        for actor in self.actors:
            layer = actor.frame(t)
            x, y = actor.at(t, w)
            number += 1
            box = layer.paste(image, x - layer.w / 2, y - layer.h, 1.0, owner, number)
            if box is not None:
                found.append((number, actor.label, box, self._opaque(layer)))
            number += self._above(image, actor, layer, (x, y), found, owner, number)
        if self.hand_layer is not None:
            hand = self.hand_layer
            bob = math.sin(t * 3) * h * 0.006
            hand.paste(image, w * 0.62, h - hand.h + h * 0.02 + bob, 1.0, owner, 255)
        self._weather(image, t)
        if self.vignette:
            image = self._bleed(image, t)
        self._draw_hud(image, t, found, owner, number)
        objects: list[SceneObject] = []
        for mark, label, box, pixels in found:
            area = (slice(int(box[1]), int(box[3])), slice(int(box[0]), int(box[2])))
            seen = int(np.count_nonzero(owner[area] == mark))
            wide, high = box[2] - box[0], box[3] - box[1]
            least = 4.0 * h / 720
            if seen >= MINIMUM_VISIBLE * pixels and wide >= least and high >= least:
                objects.append(SceneObject(label, box))
        return image, objects

    @staticmethod
    def _opaque(layer: Layer) -> float:
        return float(np.count_nonzero(layer.alpha > 100))

    def _above(
        self,
        image: Image,
        actor: Actor,
        layer: Layer,
        at: tuple[float, float],
        found: list[tuple[int, str, Box, float]],
        owner: Image,
        number: int,
    ) -> int:
        """What hovers over a figure: bar, name, arrow. Returns how many numbers were used."""
        u = self.h / 720
        x, top = at[0], at[1] - layer.h - 6 * u
        used = 0
        if actor.bar is not None:
            wide, high = actor.bar.box[2] - actor.bar.box[0], actor.bar.box[3] - actor.bar.box[1]
            actor.bar.box = (x - wide / 2, top - high, x + wide / 2, top)
            box = actor.bar.draw(image, actor.level)
            if box is not None:
                used = 1
                self._own(owner, box, number + 1)
                found.append((number + 1, "health_bar", box, wide * high))
            top -= high + 3 * u
        if actor.marker == "name":
            draw_text(image, actor.name, (x, top - 16 * u), 15 * u, (255, 70, 60), 0, 0.5, True)
        elif actor.marker == "arrow":
            layer = Layer(18 * u, 14 * u)
            layer.poly([(0, 0), (17 * u, 0), (8.5 * u, 13 * u)], (235, 40, 30))
            layer.paste(image, x - 9 * u, top - 16 * u)
        return used

    @staticmethod
    def _own(owner: Image, box: Box, number: int) -> None:
        owner[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = number

    def _draw_hud(
        self,
        image: Image,
        t: float,
        found: list[tuple[int, str, Box, float]],
        owner: Image,
        number: int,
    ) -> None:
        rng = np.random.default_rng(self.hud.seed)
        u = self.h / 720
        for kind, box in self.hud.extras:
            self._own(owner, box, 254)
            hud.clutter(rng, image, u, kind, box)
        for bar, level in self.hud.others:
            if bar.draw(image, level) is not None:
                self._own(owner, bar.box, 254)
        if self.hud.mini is not None:
            mini = self.hud.mini
            number += 1
            box = mini.paste(image, *self.hud.mini_at, 1.0, owner, number)
            if box is not None:
                found.append((number, "minimap", box, self._opaque(mini)))
            if self.count > 1:
                self._blips(image, t)
        for bar, level in ((self.hud.bar, self.health(t)), (self.boss_bar, self.boss_health(t))):
            if bar is None:
                continue
            if bar is self.boss_bar:
                draw_text(
                    image,
                    self.boss_name,
                    (self.w / 2, bar.box[1] - 24 * u),
                    20 * u,
                    (240, 230, 215),
                    0,
                    0.5,
                    True,
                )
            box = bar.draw(image, level)
            number += 1
            if box is not None:
                self._own(owner, box, number)
                area = (box[2] - box[0]) * (box[3] - box[1])
                found.append((number, "health_bar", box, area))
        if self.warning:
            draw_text(
                image,
                "LOW HEALTH" if self.hud.seed % 2 else "Warning: health critical",
                (self.w / 2, self.h * 0.7),
                30 * u,
                (255, 60, 50),
                0,
                0.5,
                True,
            )

    def _blips(self, image: Image, t: float) -> None:
        mini = self.hud.mini
        if mini is None:
            return
        for i, actor in enumerate(self.actors):
            x = self.hud.mini_at[0] + mini.w * (0.5 + 0.6 * (actor.at(t, self.w)[0] / self.w - 0.5))
            y = self.hud.mini_at[1] + mini.h * (0.35 + 0.08 * (i % 4))
            colour = (90, 200, 255) if actor.label == "player" else (255, 60, 50)
            cv2.circle(image, (round(x), round(y)), max(2, mini.w // 40), colour, -1, cv2.LINE_AA)

    def _bleed(self, image: Image, t: float) -> Image:
        """Reddened edges: the player is badly hurt."""
        h, w = image.shape[:2]
        y, x = np.ogrid[-1:1:48j, -1:1:64j]
        strength = 0.75 + 0.1 * math.sin(t * 4)
        edge = np.clip((np.sqrt(x * x + y * y) - 0.55) * 1.1, 0, 1).astype(np.float32) * strength
        weight = cv2.resize(edge, (w, h))
        m = (weight * 255).astype(np.int32)[..., None]
        red = np.asarray((170, 6, 6), np.int32)
        return (image + (red - image) * m // 255).astype(np.uint8)

    def _weather(self, image: Image, t: float) -> None:
        if self.style.weather not in ("rain", "snow"):
            return
        h, w = self.h, self.w
        drops = np.random.default_rng(7).random((90, 2))
        u = h / 720
        for a, b in drops:
            if self.style.weather == "rain":
                x, y = int(a * w), int((b + t * 1.4) % 1 * h)
                cv2.line(image, (x, y), (x - int(4 * u), y + int(22 * u)), (190, 200, 210), 1)
            else:
                x, y = int((a + 0.02 * math.sin(t + b * 9)) * w), int((b + t * 0.12) % 1 * h)
                cv2.circle(image, (x, y), max(1, int(2.5 * u)), (250, 250, 255), -1, cv2.LINE_AA)

    def statements(self, t: float, objects: list[SceneObject]) -> list[str]:
        """True captions of what :meth:`draw` shows at ``t``, without the subject."""
        labels = [o.label for o in objects]
        out = [f"a {self.view} view" if self.view[0] not in "aio" else f"an {self.view} view"]
        if "minimap" in labels:
            out += ["a minimap", f"a minimap in the {self.hud.corner} corner"]
        else:
            out.append("no minimap")
        if "boss" in labels:
            out.append("a boss")
            if self.boss_bar is not None and self.boss_health(t) < 0.2:
                out.append("the boss is near death")
            elif self.boss_bar is not None and self.boss_health(t) > 0.75:
                out.append("the boss has full health")
        if labels.count("enemy"):
            out.append("enemies")
        if self.hud.bar is not None and self.health(t) > 0.8:
            out.append("full health")
        if "player" in labels:
            out.append("a player character")
        return out
