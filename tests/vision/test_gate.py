"""The near-duplicate gate lets every small change pass and nothing that is noise."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from av import VideoFrame
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bot.vision.frames import Decoded, Frame
from bot.vision.scene import render
from bot.vision.worker.gate import DuplicateGate

WIDTH, HEIGHT = 1920, 1080
BACKGROUND = np.random.default_rng(1).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
BUSY = np.repeat(np.repeat(BACKGROUND, 8, axis=0), 8, axis=1)
PLAIN = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)


def shown(image: np.ndarray) -> Frame:
    """A frame of a screen."""
    return Frame(image, 0.0, None, 0)


def decoded(image: np.ndarray, pixels: str = "yuv420p") -> Frame:
    """A frame as a film's decoder gives it."""
    return Frame(Decoded(VideoFrame.from_ndarray(image, "bgr24").reformat(format=pixels)), 0, 0, 0)


Arrives = Callable[[np.ndarray], Frame]
EITHER_WAY = pytest.mark.parametrize("arrives", [shown, decoded])


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
    assert gate.passes(shown(screen))
    assert not gate.passes(shown(screen))

    screen[bar] = (40, 40, 40)

    assert gate.passes(shown(screen))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_noise_of_a_camera_does_not_pass(seed: int) -> None:
    random = np.random.default_rng(seed)

    def noisy() -> np.ndarray:
        noise = random.normal(0, 1.2, (540, 960, 3))
        return np.clip(PLAIN[:540, :960] + noise, 0, 255).astype(np.uint8)

    gate = DuplicateGate()
    gate.passes(shown(noisy()))
    assert not any(gate.passes(shown(noisy())) for _ in range(5))


@EITHER_WAY
def test_a_slow_fade_adds_up(arrives: Arrives) -> None:
    gate = DuplicateGate()
    passed = [gate.passes(arrives(np.full((480, 640, 3), 50 + n, np.uint8))) for n in range(30)]
    assert passed[0]
    assert not passed[1]
    assert 5 <= sum(passed) <= 15


def test_a_new_size_passes() -> None:
    gate = DuplicateGate()
    gate.passes(shown(np.zeros((480, 640, 3), np.uint8)))
    assert gate.passes(shown(np.zeros((360, 640, 3), np.uint8)))


def test_tiny_pictures_are_compared_too() -> None:
    gate = DuplicateGate()
    assert gate.passes(shown(np.zeros((3, 2, 3), np.uint8)))
    assert not gate.passes(shown(np.zeros((3, 2, 3), np.uint8)))
    assert gate.passes(shown(np.full((3, 2, 3), 200, np.uint8)))


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


@EITHER_WAY
@pytest.mark.parametrize("element", [bars, numbers])
def test_no_change_of_a_small_element_on_a_game_is_missed(
    element: Element, arrives: Arrives
) -> None:
    """A thousand changes in all, of elements of one per cent of the screen."""
    random = np.random.default_rng(11)
    missed: list[tuple[int, int]] = []
    for seed in range(10):
        scene = np.ascontiguousarray(render(seed, (1280, 720)).image[..., ::-1])
        for n in range(50):
            gate = DuplicateGate()
            passed = [gate.passes(arrives(screen)) for screen in element(random, scene.copy())]
            if passed != [True, True]:
                missed.append((seed, n))
    assert missed == []


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p"])
def test_a_film_is_told_from_the_last_frame_as_a_screen_is(pixels: str) -> None:
    """What its planes say is the same, its colours call the same as well."""
    random = np.random.default_rng(5)
    plain = PLAIN[:360, :640]
    passed: list[bool] = []
    for _ in range(200):
        changed = plain.copy()
        height, width = random.integers(2, 60, 2)
        changed[100 : 100 + height, 200 : 200 + width] += random.integers(0, 50, 3, np.uint8)
        film = [decoded(image, pixels) for image in (plain, changed)]
        screen = [shown(frame.image) for frame in film]
        in_a_film, on_a_screen = DuplicateGate(), DuplicateGate()
        assert in_a_film.passes(film[0])
        assert on_a_screen.passes(screen[0])
        passed.append(on_a_screen.passes(screen[1]))
        assert in_a_film.passes(film[1]) == passed[-1]
    assert 10 < sum(passed) < 190, "the changes are of both kinds"


def test_a_still_film_is_never_made_into_colours() -> None:
    first, second = decoded(BUSY), decoded(BUSY)
    gate = DuplicateGate()
    assert gate.passes(first)
    second.picture.image = lambda: pytest.fail("nobody needs its colours")  # pyright: ignore
    assert not gate.passes(second)


@pytest.mark.parametrize("pixels", ["nv12", "yuv420p10le", "rgb24", "gray"])
def test_other_forms_of_pixels_are_compared_too(pixels: str) -> None:
    gate = DuplicateGate()
    dark, bright = PLAIN, np.full_like(PLAIN, 120)
    passed = [gate.passes(decoded(image, pixels)) for image in (dark, dark, bright)]
    assert passed == [True, False, True]


@pytest.mark.parametrize("seed", range(5))
def test_a_game_that_stands_still_does_not_pass_for_a_jitter_of_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    scene = render(seed, (1280, 720)).image.astype(np.int16)
    gate = DuplicateGate()
    gate.passes(shown(scene.astype(np.uint8)))
    for _ in range(5):
        jitter = random.integers(-1, 2, scene.shape)
        assert not gate.passes(shown(np.clip(scene + jitter, 0, 255).astype(np.uint8)))
