"""Screens that are not play: menus, inventories, maps, results."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from bot.vision.scene import hud
from bot.vision.scene.backdrops import palette, pick, world
from bot.vision.scene.canvas import (
    Image,
    Layer,
    draw_text,
    fill_rect,
    hsv,
    mix,
    noise,
    ramp,
    stroke_rect,
)
from bot.vision.scene.model import SceneObject
from bot.vision.scene.sprites import humanoid
from bot.vision.scene.stage import Stage
from bot.vision.scene.styles import VIEWS, Style

TITLES = (
    "EMBERFALL",
    "Star Drifter",
    "NIGHT ORCHARD",
    "Rift Runner",
    "OAK & IRON",
    "Paper Wars",
    "Deep Signal",
    "VALE",
)
Result = tuple[Image, list[SceneObject]]
RNG = np.random.Generator


def _scenery(rng: RNG, style: Style, h: int, w: int, blur: float = 0.0, dim: float = 0.0) -> Image:
    image, _ = world(rng, style, VIEWS[int(rng.integers(len(VIEWS)))], h, w)
    if blur > 0:
        image = cv2.GaussianBlur(image, (0, 0), max(0.3, blur * h / 720)).astype(np.uint8)
    if dim > 0:
        image = (image * (1 - dim)).astype(np.uint8)
    return np.ascontiguousarray(image)


def _play(rng: RNG, style: Style, h: int, w: int, dim: float) -> Image:
    stage = Stage(rng, style, "exploring the world", (w, h))
    image, _ = stage.draw()
    image = cv2.GaussianBlur(image, (0, 0), 4 * h / 720).astype(np.uint8)
    return (image * (1 - dim)).astype(np.uint8)


def _menu(rng: RNG, image: Image, words: tuple[str, ...], x: float, y: float, step: float) -> None:
    face = int(rng.integers(0, 5))
    chosen = int(rng.integers(len(words)))
    boxed = rng.random() < 0.5
    anchor = 0.5 if x > image.shape[1] * 0.3 else 0.0
    for i, word in enumerate(words):
        at = (x, y + i * step)
        if boxed:
            half = step * 3.2
            box = (
                x - half * anchor * 2 * 0.5 - 8,
                at[1] - step * 0.15,
                x + half * (1 - anchor * 0.5),
                at[1] + step * 0.72,
            )
            if anchor:
                box = (x - half * 0.8, box[1], x + half * 0.8, box[3])
            hud.panel(rng, image, box, 0.55)
        colour = (255, 215, 110) if i == chosen else (225, 225, 225)
        draw_text(image, word, at, step * 0.52, colour, face, anchor, True)


def main_menu(rng: RNG, style: Style, h: int, w: int) -> Result:
    """The title and a list of choices."""
    image = _scenery(rng, style, h, w, 5 if rng.random() < 0.5 else 0, rng.uniform(0, 0.5))
    left = rng.random() < 0.4
    x = w * (0.1 if left else 0.5)
    colour = hsv(float(rng.random()), rng.uniform(0, 0.7), 1.0)
    title = TITLES[int(rng.integers(len(TITLES)))]
    draw_text(
        image,
        title,
        (x, h * 0.14),
        h * rng.uniform(0.1, 0.17),
        colour,
        int(rng.integers(0, 5)),
        0 if left else 0.5,
        True,
    )
    words = ("New Game", "Continue", "Load Game", "Options", "Multiplayer", "Credits", "Quit")
    keep = tuple(word for word in words if rng.random() < 0.75) or words
    _menu(rng, image, keep, x, h * rng.uniform(0.4, 0.46), h * rng.uniform(0.065, 0.08))
    draw_text(image, "v1.0.4", (w * 0.98, h * 0.95), h * 0.022, (200, 200, 200), 0, 1)
    return image, []


def pause_menu(rng: RNG, style: Style, h: int, w: int) -> Result:
    """Play behind a list: resume, settings, quit."""
    image = _play(rng, style, h, w, rng.uniform(0.45, 0.75))
    box = (w * 0.34, h * 0.15, w * 0.66, h * 0.85)
    ink = hud.panel(rng, image, box, rng.uniform(0.5, 0.9))
    word = str(rng.choice(["PAUSED", "Pause", "Game Paused"]))
    draw_text(image, word, (w / 2, h * 0.2), h * 0.08, ink, int(rng.integers(0, 5)), 0.5)
    words = ("Resume", "Settings", "Controls", "Save", "Main Menu", "Quit")
    _menu(rng, image, words[: int(rng.integers(3, 7))], w / 2, h * 0.36, h * 0.075)
    return image, []


def _grid(rng: RNG, image: Image, x: float, y: float, rows: int, columns: int, cell: float) -> None:
    fill = hsv(float(rng.random()), 0.15, rng.uniform(0.08, 0.35))
    edge = mix(fill, (255, 255, 255), rng.uniform(0.15, 0.6))
    for r in range(rows):
        for c in range(columns):
            box = (x + c * cell, y + r * cell, x + (c + 0.92) * cell, y + (r + 0.92) * cell)
            fill_rect(image, box, fill)
            stroke_rect(image, box, edge, max(1, int(cell * 0.03)))
            hud.item(rng, image, box)


def inventory(rng: RNG, style: Style, h: int, w: int) -> Result:
    """A grid of items, often with the character beside it."""
    image = _scenery(rng, style, h, w, 6, rng.uniform(0.3, 0.8))
    box = (w * rng.uniform(0.04, 0.15), h * 0.08, w * rng.uniform(0.85, 0.96), h * 0.93)
    ink = hud.panel(rng, image, box, rng.uniform(0.7, 1.0))
    word = str(rng.choice(["INVENTORY", "Inventory", "Backpack", "Equipment", "Items"]))
    draw_text(
        image,
        word,
        (box[0] + w * 0.03, box[1] + h * 0.025),
        h * 0.055,
        ink,
        int(rng.integers(0, 5)),
    )
    rows, columns = int(rng.integers(4, 7)), int(rng.integers(5, 9))
    cell = min(h * 0.7 / rows, (box[2] - box[0]) * 0.55 / columns)
    right = rng.random() < 0.6
    gx = box[2] - columns * cell - w * 0.02 if right else box[0] + w * 0.03
    _grid(rng, image, gx, h * 0.2, rows, columns, cell)
    objects: list[SceneObject] = []
    side_x = box[0] + w * 0.13 if right else box[2] - w * 0.13
    if rng.random() < 0.6:
        doll = humanoid(rng, h * rng.uniform(0.4, 0.6), style.skin, "front", False, 0.1)
        at = doll.paste(image, side_x - doll.w / 2, h * 0.25)
        if at is not None:
            objects.append(SceneObject("player", at))
        for k in range(4):
            cell_box = (
                side_x - w * 0.1,
                h * (0.25 + k * 0.12),
                side_x - w * 0.1 + h * 0.08,
                h * (0.33 + k * 0.12),
            )
            if rng.random() < 0.5 and at is not None and cell_box[2] < at[0]:
                stroke_rect(image, cell_box, (180, 180, 180), 2)
    else:
        for k, stat in enumerate(("Strength 14", "Agility 9", "Weight 32/80", "Armor 120")):
            draw_text(image, stat, (side_x - w * 0.08, h * (0.3 + k * 0.06)), h * 0.03, ink)
    return image, objects


def shop(rng: RNG, style: Style, h: int, w: int) -> Result:
    """Goods in rows with prices and a buy button."""
    image = _scenery(rng, style, h, w, 4, rng.uniform(0.2, 0.7))
    box = (w * 0.08, h * 0.08, w * 0.92, h * 0.93)
    ink = hud.panel(rng, image, box, rng.uniform(0.7, 1.0))
    word = str(rng.choice(["SHOP", "Shop", "Merchant", "STORE", "Trader"]))
    draw_text(image, word, (w * 0.11, h * 0.1), h * 0.06, ink, int(rng.integers(0, 5)))
    coin = (w * 0.86, h * 0.135)
    cv2.circle(image, (int(coin[0] - w * 0.09), int(coin[1])), int(h * 0.02), (235, 190, 60), -1)
    draw_text(image, "1,250 G", (coin[0], h * 0.115), h * 0.04, (235, 200, 90), 0, 0.5, True)
    rows = int(rng.integers(4, 8))
    step = h * 0.62 / rows
    for r in range(rows):
        y = h * 0.2 + r * step
        hud.panel(rng, image, (w * 0.11, y, w * 0.62, y + step * 0.88), 0.5)
        hud.item(rng, image, (w * 0.12, y + 2, w * 0.12 + step * 0.8, y + step * 0.85))
        name = str(rng.choice(["Potion", "Iron Sword", "Shield", "Elixir", "Bow", "Torch", "Ring"]))
        draw_text(image, name, (w * 0.2, y + step * 0.25), step * 0.38, ink, 0, 0, False)
        cv2.circle(
            image,
            (int(w * 0.53), int(y + step * 0.45)),
            max(3, int(step * 0.16)),
            (235, 190, 60),
            -1,
            cv2.LINE_AA,
        )
        draw_text(
            image,
            str(int(rng.integers(10, 900))),
            (w * 0.55, y + step * 0.27),
            step * 0.36,
            (235, 200, 90),
            0,
            0,
            True,
        )
    button = (w * 0.68, h * 0.8, w * 0.86, h * 0.88)
    fill_rect(image, button, hsv(float(rng.choice([0.33, 0.12, 0.6])), 0.7, 0.7))
    draw_text(image, "BUY", (w * 0.77, h * 0.815), h * 0.045, (250, 250, 250), 0, 0.5)
    if rng.random() < 0.7:
        _bust(rng, style, image, w * 0.77, h * 0.78, h * 0.5)
    return image, []


def _bust(rng: RNG, style: Style, image: Image, x: float, y: float, s: float) -> None:
    layer = Layer(s, s)
    sat = style.skin.saturation
    flesh = hsv(rng.uniform(0.04, 0.09), rng.uniform(0.25, 0.6) * sat, rng.uniform(0.4, 0.98))
    cloth = hsv(float(rng.random()), rng.uniform(0.2, 0.8) * sat, rng.uniform(0.2, 0.8))
    hair = hsv(rng.uniform(0, 0.15), rng.uniform(0.1, 0.9) * sat, rng.uniform(0.05, 0.9))
    layer.ellipse((s / 2, s * 1.05), (s * 0.42, s * 0.42), cloth)
    layer.ellipse((s / 2, s * 0.38), (s * 0.24, s * 0.27), hair)
    layer.ellipse((s / 2, s * 0.43), (s * 0.19, s * 0.24), flesh)
    layer.ellipse((s / 2, s * 0.27), (s * 0.22, s * 0.13), hair, 0, (180, 360))
    for k in (-1, 1):
        layer.ellipse((s / 2 + k * s * 0.08, s * 0.42), (s * 0.035, s * 0.03), (250, 250, 250))
        layer.ellipse((s / 2 + k * s * 0.08, s * 0.42), (s * 0.017, s * 0.025), (25, 25, 35))
    layer.line([(s * 0.44, s * 0.55), (s * 0.56, s * 0.55)], (120, 40, 40), s * 0.02)
    layer.shade(rng, style.skin.light * 0.6, style.skin.texture * 0.3)
    if rng.random() < style.skin.outline:
        layer.outline((15, 12, 14), max(1, int(s * 0.01)))
    layer.paste(image, x - layer.w / 2, y - layer.h)


def dialogue(rng: RNG, style: Style, h: int, w: int) -> Result:
    """A speaker's face and a box of text, at times with answers."""
    image = _scenery(rng, style, h, w, rng.uniform(0, 4), rng.uniform(0, 0.3))
    low = rng.random() < 0.85
    y = h * (0.68 if low else 0.06)
    box = (w * rng.uniform(0.03, 0.15), y, w * rng.uniform(0.85, 0.97), y + h * 0.27)
    side = rng.random() < 0.5
    x = box[0] + w * 0.13 if side else box[2] - w * 0.13
    if low:
        _bust(rng, style, image, x, y + h * 0.01, h * rng.uniform(0.4, 0.62))
    ink = hud.panel(rng, image, box, rng.uniform(0.75, 1.0))
    if not low:
        _bust(rng, style, image, x, h, h * 0.6)
    name = str(rng.choice(["Elder Mira", "Captain Rook", "Tam", "Old Sage", "Stranger"]))
    left = box[0] + w * 0.03
    draw_text(image, name, (left, box[1] + h * 0.02), h * 0.042, (235, 190, 90), 0, 0, True)
    lines = (
        "The bridge fell when the storm came.",
        "You should not be here, traveler.",
        "Bring me three moon petals.",
        "I have heard of the thing below.",
        "Will you help us before nightfall?",
    )
    for k in range(int(rng.integers(1, 4))):
        draw_text(
            image,
            lines[int(rng.integers(len(lines)))],
            (left, box[1] + h * (0.085 + k * 0.055)),
            h * 0.036,
            ink,
            0,
        )
    if rng.random() < 0.3 and low:
        for k, word in enumerate(("1. Tell me more.", "2. Goodbye.")):
            cell = (w * 0.55, h * (0.45 + k * 0.08), w * 0.9, h * (0.515 + k * 0.08))
            answer = hud.panel(rng, image, cell, 0.8)
            draw_text(image, word, (cell[0] + 10, cell[1] + h * 0.015), h * 0.032, answer)
    return image, []


def loading(rng: RNG, style: Style, h: int, w: int) -> Result:
    """A progress bar or a spinner over art or darkness, with a hint."""
    if rng.random() < 0.5:
        image = np.full((h, w, 3), mix(pick(rng, style), (0, 0, 0), rng.uniform(0.5, 1)), np.uint8)
    else:
        image = _scenery(rng, style, h, w, rng.uniform(0, 3), rng.uniform(0, 0.6))
    face = int(rng.integers(0, 5))
    if rng.random() < 0.75:
        bw, bh = w * rng.uniform(0.3, 0.8), h * rng.uniform(0.01, 0.03)
        y = h * rng.uniform(0.8, 0.92)
        colour = hud.other_colours(rng)
        if rng.random() < 0.3:
            colour = ((230, 230, 230), (250, 250, 250))
        bar = hud.make_bar(rng, ((w - bw) / 2, y, (w + bw) / 2, y + bh), colour, False, False)
        bar.trail = 0.0
        bar.draw(image, float(rng.random()))
    else:
        c = (int(w * rng.choice([0.5, 0.92])), int(h * 0.86))
        cv2.ellipse(
            image,
            c,
            (int(h * 0.05),) * 2,
            float(rng.uniform(0, 360)),
            0,
            270,
            (235, 235, 235),
            max(2, int(h * 0.01)),
            cv2.LINE_AA,
        )
    word = str(rng.choice(["Loading...", "LOADING", "Now Loading", "Please wait", "Loading 47%"]))
    draw_text(
        image,
        word,
        (w / 2, h * 0.72),
        h * rng.uniform(0.04, 0.075),
        (240, 240, 240),
        face,
        0.5,
        True,
    )
    if rng.random() < 0.6:
        draw_text(
            image,
            "Tip: roll to dodge heavy attacks",
            (w / 2, h * 0.94),
            h * 0.03,
            (210, 210, 210),
            0,
            0.5,
            True,
        )
    return image, []


def world_map(rng: RNG, style: Style, h: int, w: int) -> Result:
    """A map over the whole screen: land, roads, names. It is no minimap."""
    colours = (
        palette(rng, style)
        if rng.random() < 0.4
        else tuple(
            hsv(u, rng.uniform(0.2, 0.6), v)
            for u, v in ((0.58, 0.5), (0.55, 0.65), (0.13, 0.8), (0.27, 0.6), (0.08, 0.5))
        )
    )
    if rng.random() < 0.3:
        colours = ((190, 165, 120), (215, 195, 150), (205, 180, 130), (160, 130, 85))
    field = noise(rng, h, w, int(rng.integers(2, 5)), 5)
    image = ramp((np.round(field * 6) / 6).astype(np.float32), colours)
    last = None
    for _ in range(int(rng.integers(5, 12))):
        p = (int(rng.uniform(0.08, 0.92) * w), int(rng.uniform(0.12, 0.9) * h))
        if last is not None and rng.random() < 0.7:
            cv2.line(image, last, p, (90, 60, 40), max(1, h // 200), cv2.LINE_AA)
        cv2.circle(
            image,
            p,
            max(3, h // 70),
            hsv(float(rng.choice([0, 0.12, 0.6])), 0.8, 0.9),
            -1,
            cv2.LINE_AA,
        )
        place = str(rng.choice(["Oakford", "Grey Keep", "Salt Bay", "Mirefen", "Old Mine"]))
        draw_text(image, place, (p[0], p[1] + h * 0.02), h * 0.028, (30, 22, 16), 0, 0.5)
        last = p
    if rng.random() < 0.6:
        t = int(h * rng.uniform(0.02, 0.06))
        stroke_rect(image, (0, 0, w, h), (60, 45, 30), t)
    if rng.random() < 0.7:
        draw_text(
            image,
            str(rng.choice(["WORLD MAP", "Map", "The Northern Vale"])),
            (w / 2, h * 0.05),
            h * 0.06,
            (40, 28, 18),
            int(rng.integers(0, 5)),
            0.5,
        )
    return image, []


def _result(rng: RNG, style: Style, h: int, w: int, won: bool) -> Result:
    image = _scenery(rng, style, h, w, rng.uniform(0, 8), rng.uniform(0.3, 0.9 if not won else 0.5))
    objects: list[SceneObject] = []
    face = int(rng.integers(0, 5))
    if won:
        colour = hsv(rng.uniform(0.1, 0.17), rng.uniform(0.4, 0.8), 1.0)
        words = ["VICTORY", "Victory!", "YOU WIN", "Stage Clear", "MISSION COMPLETE"]
    else:
        image = (image * (0.4, 0.15, 0.15) if rng.random() < 0.5 else image * 0.35).astype(np.uint8)
        colour = hsv(0.0, rng.uniform(0.6, 1.0), rng.uniform(0.6, 0.95))
        words = ["GAME OVER", "Game Over", "YOU DIED", "DEFEAT", "Mission Failed", "WASTED"]
    image = np.ascontiguousarray(image)
    if won and rng.random() < 0.5:
        for _ in range(60):
            p = (int(rng.integers(0, w)), int(rng.integers(0, h)))
            cv2.rectangle(
                image, p, (p[0] + h // 90, p[1] + h // 60), hsv(float(rng.random()), 0.8, 1), -1
            )
    if rng.random() < 0.4:
        fill_rect(image, (0, h * 0.3, w, h * 0.54), (0, 0, 0), 0.5)
    draw_text(
        image,
        str(rng.choice(words)),
        (w / 2, h * 0.34),
        h * rng.uniform(0.11, 0.17),
        colour,
        face,
        0.5,
        True,
    )
    if won:
        for k in range(3):
            if rng.random() < 0.7:
                _star(image, w * (0.4 + k * 0.1), h * 0.22, h * 0.05)
        lines: tuple[str, ...] = ("Score 98,210", "Time 03:41", "Rank S", "Rewards +500 gold")
    else:
        lines = ("Try again?", "Retry", "Load last save", "Return to menu")
    for k, line in enumerate(lines[: int(rng.integers(1, 5))]):
        draw_text(
            image, line, (w / 2, h * (0.6 + k * 0.07)), h * 0.04, (230, 230, 225), face, 0.5, True
        )
    return image, objects


def _star(image: Image, x: float, y: float, r: float) -> None:
    a = np.arange(10) * np.pi / 5 - np.pi / 2
    q = np.where(np.arange(10) % 2 == 0, r, r * 0.42)
    pts = np.stack([x + np.cos(a) * q, y + np.sin(a) * q], 1).astype(np.int32)
    cv2.fillPoly(image, [pts], (255, 210, 70), cv2.LINE_AA)


def victory(rng: RNG, style: Style, h: int, w: int) -> Result:
    """The fight is won."""
    return _result(rng, style, h, w, True)


def game_over(rng: RNG, style: Style, h: int, w: int) -> Result:
    """The player has lost."""
    return _result(rng, style, h, w, False)


SCREENS: dict[str, Callable[[RNG, Style, int, int], Result]] = {
    "an inventory screen": inventory,
    "a shop screen": shop,
    "a dialogue with a character": dialogue,
    "a loading screen": loading,
    "a main menu": main_menu,
    "a pause menu": pause_menu,
    "a world map": world_map,
    "a victory screen": victory,
    "a game over screen": game_over,
}
