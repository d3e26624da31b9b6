"""``render``: one screen from a seed; ``Film``: a session of play from a seed and a time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bot.vision.scene.finish import finish
from bot.vision.scene.model import CONCEPTS, GAMEPLAY, Scene, SceneObject
from bot.vision.scene.screens import SCREENS
from bot.vision.scene.stage import Hud, Stage, make_hud, overlaps
from bot.vision.scene.styles import ALL, STYLES, VIEWS, Style

GAMEPLAY_SHARE = 0.72
"""Share of scenes of play where the subject is left open: they hold the labelled objects."""
PLAIN_SHARE = 0.16
PLOT: tuple[tuple[str, float], ...] = (
    ("a main menu", 10),
    ("a loading screen", 10),
    ("exploring the world", 16),
    ("fighting enemies", 18),
    ("an inventory screen", 10),
    ("exploring the world", 12),
    ("a dialogue with a character", 11),
    ("a world map", 10),
    ("fighting enemies", 15),
    ("a boss fight", 20),
    ("low health", 12),
    ("a boss fight", 16),
    ("a victory screen", 10),
    ("a shop screen", 10),
    ("exploring the world", 14),
    ("a pause menu", 10),
    ("fighting enemies", 14),
    ("low health", 11),
    ("a game over screen", 10),
)
"""The session of the film: (subject, seconds), from the start again at its end."""


def render(
    seed: int,
    size: tuple[int, int] = (1280, 720),
    style: str | None = None,
    subject: str | None = None,
) -> Scene:
    """Render one screen, (width, height) pixels. The same arguments give the same bytes.

    An open ``style`` is drawn from ``STYLES`` (never a held-out one), an open ``subject`` from
    ``CONCEPTS``, most of them scenes of play.
    """
    rng = np.random.default_rng(seed)
    if style is None:
        style = "plain" if rng.random() < PLAIN_SHARE else str(rng.choice(STYLES))
    if subject is None:
        pool = GAMEPLAY if rng.random() < GAMEPLAY_SHARE else CONCEPTS[len(GAMEPLAY) :]
        subject = str(rng.choice(pool))
    look = ALL[style]
    if subject in SCREENS:
        image, objects = SCREENS[subject](rng, look, size[1], size[0])
        statements: list[str] = []
    else:
        stage = Stage(rng, look, subject, size)
        image, objects = stage.draw()
        statements = stage.statements(0.0, objects)
    image = finish(rng, look, image)
    return _scene(image, objects, subject, statements, style)


def _scene(
    image: np.ndarray, objects: list[SceneObject], subject: str, statements: list[str], style: str
) -> Scene:
    captions = (subject, *statements, ALL[style].phrase)
    return Scene(np.ascontiguousarray(image), tuple(objects), captions, subject, style)


class Film:
    """A continuous session for the demo: the same world and HUD, one situation after another."""

    def __init__(
        self, seed: int = 0, size: tuple[int, int] = (1280, 720), style: str | None = None
    ) -> None:
        self.seed, self.size = seed, size
        self.style = style or "forest"
        self._look: Style = ALL[self.style]
        rng = np.random.default_rng([seed, 1])
        self._view = str(rng.choice(VIEWS[1:3]))
        self._hud: Hud = make_hud(
            rng, self._look, size[0], size[1], {"bar": 1.0, "mini": 1.0, "clutter": 1.0}
        )
        x1, y1, x2, y2 = self._hud.boss_box
        if overlaps(self._hud.boss_box, self._hud.taken, 0.04 * size[1]):
            top = size[1] * (0.07 if y1 > size[1] / 2 else 0.88)
            self._hud.boss_box = (x1, top, x2, top + y2 - y1)
        self._stage = lru_cache(maxsize=3)(self._make_stage)
        self._still = lru_cache(maxsize=3)(self._make_still)

    def _make_stage(self, index: int) -> Stage:
        subject = PLOT[index % len(PLOT)][0]
        rng = np.random.default_rng([self.seed, 2, index])
        before = PLOT[(index - 1) % len(PLOT)][0]
        late = subject == "a boss fight" and before != "low health"
        stage = Stage(rng, self._look, subject, self.size, self._view, self._hud, 8, late)
        if subject != "low health":
            stage.level = 0.95 if subject == "exploring the world" else 0.85
        stage.boss_level = 0.98 if late else 0.45
        return stage

    def _make_still(self, index: int) -> tuple[np.ndarray, list[SceneObject]]:
        rng = np.random.default_rng([self.seed, 2, index])
        subject = PLOT[index % len(PLOT)][0]
        image, objects = SCREENS[subject](rng, self._look, self.size[1], self.size[0])
        return finish(np.random.default_rng(3), self._look, image, True), objects

    def at(self, seconds: float) -> Scene:
        """The scene at a time from the start; the same time always gives the same bytes."""
        whole = sum(length for _, length in PLOT)
        rounds, rest = divmod(max(0.0, float(seconds)), whole)
        index = 0
        while rest >= PLOT[index][1]:
            rest -= PLOT[index][1]
            index += 1
        subject = PLOT[index][0]
        number = int(rounds) * len(PLOT) + index
        if subject in SCREENS:
            image, objects = self._still(number)
            return _scene(image.copy(), objects, subject, [], self.style)
        stage = self._stage(number)
        image, objects = stage.draw(rest)
        image = finish(np.random.default_rng(3), self._look, image, True)
        return _scene(image, objects, subject, stage.statements(rest, objects), self.style)
