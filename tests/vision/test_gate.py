"""The near-duplicate gate lets every small change pass and nothing that is noise."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

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
