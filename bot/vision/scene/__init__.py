"""Rendered game screens with their ground truth: the demo's screen and the training data."""

from bot.vision.scene.compose import Film, render
from bot.vision.scene.model import CLASSES, CONCEPTS, Scene, SceneObject
from bot.vision.scene.styles import HELD_OUT_STYLES, STYLES

__all__ = [
    "CLASSES",
    "CONCEPTS",
    "HELD_OUT_STYLES",
    "STYLES",
    "Film",
    "Scene",
    "SceneObject",
    "render",
]
