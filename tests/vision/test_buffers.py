"""Memory of frames: used again, but never while somebody looks."""

from __future__ import annotations

import numpy as np
import torch

from bot.vision.worker.buffers import MOST, Buffers

SHAPE = (4, 6, 3)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_what_nobody_sees_is_used_again() -> None:
    buffers = Buffers()
    first = buffers.take(SHAPE)
    where = address(first)
    del first
    assert address(buffers.take(SHAPE)) == where


def test_what_somebody_sees_stays_as_it_is() -> None:
    buffers = Buffers()
    ways = (
        lambda frame: frame,
        lambda frame: frame[1:3, ::-1][..., ::-1],
        lambda frame: torch.from_numpy(frame)[0],
        lambda frame: memoryview(frame),  # pyright: ignore
    )
    held = []
    for number, look in enumerate(ways, start=1):
        frame = buffers.take(SHAPE)
        frame[:] = number
        held.append(look(frame))
        del frame
    buffers.take(SHAPE)[:] = 99
    for number, seen in enumerate(held, start=1):
        assert set(np.asarray(seen).ravel().tolist()) == {number}


def test_no_more_than_a_few_are_kept() -> None:
    buffers = Buffers()
    held = [buffers.take(SHAPE) for _ in range(MOST + 3)]
    assert len({address(frame) for frame in held}) == MOST + 3
    assert len(buffers._owned) == MOST  # pyright: ignore[reportPrivateUsage]


def test_a_new_size_starts_anew() -> None:
    buffers = Buffers()
    buffers.take(SHAPE)
    assert buffers.take((2, 2, 3)).shape == (2, 2, 3)
    assert buffers.take(SHAPE).shape == SHAPE
