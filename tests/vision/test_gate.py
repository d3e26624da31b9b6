"""The near-duplicate gate lets every small change pass and nothing that is noise."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bot.vision.scene import render
from bot.vision.worker.gate import DuplicateGate

WIDTH, HEIGHT = 1920, 1080
BACKGROUND = np.random.default_rng(1).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
BUSY = np.repeat(np.repeat(BACKGROUND, 8, axis=0), 8, axis=1)
PLAIN = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)


@settings(max_examples=150)
@given(
    x=st.integers(0, WIDTH - 40),
    y=st.integers(0, HEIGHT - 10),
    width=st.integers(24, 400),
    height=st.integers(10, 40),
    shade=st.integers(60, 200),
    busy=st.booleans(),
)
@example(x=1896, y=1070, width=24, height=10, shade=60, busy=False)
def test_a_health_bar_that_drops_passes(
    x: int, y: int, width: int, height: int, shade: int, busy: bool
) -> None:
    screen = (BUSY if busy else PLAIN).copy()
    bar = (slice(y, min(HEIGHT, y + height)), slice(x, min(WIDTH, x + width)))
    screen[bar] = (40, 40, 40 + shade)
    gate = DuplicateGate()
    assert gate.passes(screen)
    assert not gate.passes(screen)

    screen[bar] = (40, 40, 40)

    assert gate.passes(screen)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_noise_of_a_camera_does_not_pass(seed: int) -> None:
    random = np.random.default_rng(seed)

    def noisy() -> np.ndarray:
        noise = random.normal(0, 1.2, (540, 960, 3))
        return np.clip(PLAIN[:540, :960] + noise, 0, 255).astype(np.uint8)

    gate = DuplicateGate()
    gate.passes(noisy())
    assert not any(gate.passes(noisy()) for _ in range(5))


def test_a_slow_fade_adds_up() -> None:
    gate = DuplicateGate()
    passed = [gate.passes(np.full((480, 640, 3), 50 + n, np.uint8)) for n in range(30)]
    assert passed[0]
    assert not passed[1]
    assert 5 <= sum(passed) <= 15


def test_a_new_size_passes() -> None:
    gate = DuplicateGate()
    gate.passes(np.zeros((480, 640, 3), np.uint8))
    assert gate.passes(np.zeros((360, 640, 3), np.uint8))


def test_tiny_pictures_are_compared_too() -> None:
    gate = DuplicateGate()
    assert gate.passes(np.zeros((3, 2, 3), np.uint8))
    assert not gate.passes(np.zeros((3, 2, 3), np.uint8))
    assert gate.passes(np.full((3, 2, 3), 200, np.uint8))


Element = Callable[[np.random.Generator, np.ndarray], Iterator[np.ndarray]]
SHARE = 0.01
"""A HUD element's share of the screen."""


def bars(random: np.random.Generator, screen: np.ndarray) -> Iterator[np.ndarray]:
    """A bar on the screen, then the same bar a little shorter."""
    height, width = screen.shape[:2]
    high = int(random.integers(8, 40))
    wide = min(int(SHARE * width * height / high), width - 1)
    x, y = int(random.integers(0, width - wide)), int(random.integers(0, height - high))
    lost = max(2, round(wide * random.uniform(0.02, 0.3)))
    screen[y : y + high, x : x + wide] = (30, 30, 200)
    yield screen
    screen[y : y + high, x + wide - lost : x + wide] = (25, 25, 25)
    yield screen


def numbers(random: np.random.Generator, screen: np.ndarray) -> Iterator[np.ndarray]:
    """A counter on its panel, then one less."""
    height, width = screen.shape[:2]
    wide, high = round(width * 0.1), round(height * 0.1)
    x, y = int(random.integers(0, width - wide)), int(random.integers(0, height - high))
    ammunition = int(random.integers(1, 1000))
    for shown in (ammunition, ammunition - 1):
        screen[y : y + high, x : x + wide] = (40, 35, 30)
        at, size = (x + wide // 8, y + high * 2 // 3), height / 900
        cv2.putText(screen, f"{shown:03}", at, 0, size, (230, 230, 230), 2, cv2.LINE_AA)
        yield screen


@pytest.mark.parametrize("element", [bars, numbers])
def test_no_change_of_a_small_element_on_a_game_is_missed(element: Element) -> None:
    """A thousand changes in all, of elements of one per cent of the screen."""
    random = np.random.default_rng(11)
    missed: list[tuple[int, int]] = []
    for seed in range(10):
        scene = np.ascontiguousarray(render(seed, (1280, 720)).image[..., ::-1])
        for n in range(50):
            gate = DuplicateGate()
            passed = [gate.passes(screen) for screen in element(random, scene.copy())]
            if passed != [True, True]:
                missed.append((seed, n))
    assert missed == []


@pytest.mark.parametrize("seed", range(5))
def test_a_game_that_stands_still_does_not_pass_for_a_jitter_of_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    scene = render(seed, (1280, 720)).image.astype(np.int16)
    gate = DuplicateGate()
    gate.passes(scene.astype(np.uint8))
    for _ in range(5):
        jitter = random.integers(-1, 2, scene.shape)
        assert not gate.passes(np.clip(scene + jitter, 0, 255).astype(np.uint8))
