"""What a rendered scene is: the picture and its ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CLASSES = ("health_bar", "minimap", "boss", "player", "enemy")
CONCEPTS: tuple[str, ...] = (
    "a boss fight",
    "fighting enemies",
    "exploring the world",
    "low health",
    "an inventory screen",
    "a shop screen",
    "a dialogue with a character",
    "a loading screen",
    "a main menu",
    "a pause menu",
    "a world map",
    "a victory screen",
    "a game over screen",
)
GAMEPLAY: tuple[str, ...] = CONCEPTS[:4]


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A labelled thing on the screen."""

    label: str
    """One of ``CLASSES``."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels, inside the image."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A rendered screen and what is true of it."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3) uint8 RGB."""
    objects: tuple[SceneObject, ...]
    captions: tuple[str, ...]
    """True statements, the subject first."""
    subject: str
    """One of ``CONCEPTS``."""
    style: str
    """One of ``STYLES`` or ``HELD_OUT_STYLES``."""
