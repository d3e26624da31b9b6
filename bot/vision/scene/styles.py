"""The looks: each style is a palette, a set of backdrops, figures' skin and a finish."""

from __future__ import annotations

from dataclasses import dataclass, field

from bot.vision.scene.sprites import Skin

VIEWS = ("first person", "third person", "side", "isometric", "top-down")


@dataclass(frozen=True, slots=True)
class Style:
    """One look. Ranges are (low, high); hues in turns, the rest 0..1 unless said."""

    phrase: str
    hues: tuple[float, ...]
    saturation: tuple[float, float] = (0.2, 0.7)
    value: tuple[float, float] = (0.25, 0.8)
    flat: float = 0.2
    """Probability of a plain or nearly plain backdrop."""
    skin: Skin = field(default_factory=Skin)
    fog: tuple[float, float] = (0.0, 0.2)
    grain: tuple[float, float] = (0.0, 6.0)
    """Standard deviation of the film grain, in grey levels."""
    blur: float = 0.2
    pixel: int = 0
    """Side of a block of pixel art at 720 lines; 0 for none."""
    weather: str = ""
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


ALL: dict[str, Style] = {
    "plain": Style(
        "a simple flat game",
        (0.0, 0.1, 0.3, 0.55, 0.6, 0.7),
        (0.0, 0.6),
        (0.08, 0.95),
        flat=0.85,
        skin=Skin(0.0, 0.0, 0.35),
        grain=(0, 2),
        blur=0.05,
    ),
    "forest": Style("a forest", (0.2, 0.28, 0.33, 0.4), (0.25, 0.7), (0.2, 0.75)),
    "desert": Style("a desert", (0.06, 0.1, 0.13), (0.25, 0.6), (0.5, 0.95)),
    "dungeon": Style(
        "a dark dungeon",
        (0.05, 0.08, 0.6, 0.7),
        (0.05, 0.4),
        (0.08, 0.35),
        skin=Skin(0.9, 0.5, 0.2),
        fog=(0.0, 0.35),
    ),
    "night": Style(
        "the night",
        (0.6, 0.65, 0.7),
        (0.2, 0.7),
        (0.04, 0.3),
        fog=(0.0, 0.3),
        tint=(0.75, 0.85, 1.1),
    ),
    "cartoon": Style(
        "a cartoon",
        (0.1, 0.3, 0.5, 0.55, 0.8, 0.9),
        (0.5, 0.95),
        (0.6, 1.0),
        flat=0.35,
        skin=Skin(0.2, 0.0, 0.9),
        grain=(0, 1),
        blur=0.05,
    ),
    "pixel": Style(
        "a pixel art game",
        (0.0, 0.25, 0.35, 0.55, 0.65),
        (0.2, 0.9),
        (0.15, 0.9),
        skin=Skin(0.3, 0.2, 0.5, 6),
        grain=(0, 1),
        blur=0.0,
        pixel=5,
    ),
    "neon": Style(
        "a neon city",
        (0.5, 0.8, 0.9, 0.75),
        (0.6, 1.0),
        (0.05, 0.4),
        skin=Skin(0.3, 0.2, 0.6),
        fog=(0.0, 0.2),
    ),
    "painted": Style(
        "a painted world",
        (0.05, 0.15, 0.3, 0.5, 0.6, 0.9),
        (0.15, 0.5),
        (0.3, 0.85),
        skin=Skin(0.7, 0.7, 0.1),
        blur=0.5,
    ),
    "photo": Style(
        "a realistic world",
        (0.08, 0.12, 0.25, 0.55, 0.6),
        (0.05, 0.4),
        (0.2, 0.8),
        flat=0.05,
        skin=Skin(0.9, 0.8, 0.05, 0, 0.7),
        fog=(0.0, 0.4),
        grain=(2, 12),
        blur=0.5,
    ),
    "ruins": Style(
        "ruins in the rain",
        (0.1, 0.45, 0.55),
        (0.05, 0.3),
        (0.2, 0.6),
        skin=Skin(0.8, 0.5, 0.2),
        fog=(0.1, 0.4),
        weather="rain",
    ),
    "sunset": Style(
        "a sunset", (0.0, 0.04, 0.08, 0.85), (0.4, 0.8), (0.3, 0.9), tint=(1.12, 0.95, 0.85)
    ),
    "snow": Style(
        "snow",
        (0.55, 0.58, 0.62),
        (0.02, 0.2),
        (0.65, 1.0),
        fog=(0.05, 0.4),
        weather="snow",
        tint=(0.95, 1.0, 1.08),
    ),
    "space": Style(
        "a space station",
        (0.5, 0.55, 0.6, 0.08),
        (0.05, 0.35),
        (0.1, 0.55),
        skin=Skin(0.7, 0.2, 0.3),
        weather="stars",
    ),
    "ink": Style(
        "an ink drawing",
        (0.08, 0.1),
        (0.0, 0.12),
        (0.4, 0.95),
        flat=0.4,
        skin=Skin(0.1, 0.3, 1.0, 0, 0.45),
        grain=(2, 8),
        blur=0.0,
    ),
    "swamp": Style(
        "a swamp",
        (0.17, 0.22, 0.3),
        (0.3, 0.6),
        (0.15, 0.5),
        fog=(0.15, 0.5),
        skin=Skin(0.8, 0.6, 0.25),
        tint=(0.95, 1.05, 0.8),
    ),
}
HELD_OUT_STYLES: tuple[str, ...] = ("snow", "space", "ink", "swamp")
STYLES: tuple[str, ...] = tuple(name for name in ALL if name not in HELD_OUT_STYLES)
