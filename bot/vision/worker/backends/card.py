"""What both models need on a card: frames sent once, and computations replayed as CUDA graphs.

Used by the analysis thread alone, or by others that hold its lock.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bot.vision.worker.devices import is_out_of_memory, is_poisoned

log = logging.getLogger(__name__)

MOST_SHAPES = 2
"""Buffers and graphs that are kept: one frame, and a full batch."""
RUNS_BEFORE_CAPTURE = 3
"""Kernels are chosen and workspaces made in the first runs, which a graph can't hold."""


@dataclass(slots=True)
class _Buffers:
    on_card: Any
    staging: Any
    arrived: Any
    holds: tuple[np.ndarray, ...] = ()
    """The very arrays that ``on_card`` shows; kept, so that none of their ids is used again."""


class Uploads:
    """Frames on one card. The second model that asks for the same frames finds them there."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._kept: OrderedDict[tuple[int, ...], _Buffers] = OrderedDict()

    def stacked(self, images: Sequence[np.ndarray]) -> Any:
        """N x height x width x 3, BGR, uint8, on the card; the same memory for the same shape."""
        shape = (len(images), *images[0].shape)
        buffers = self._kept.get(shape)
        if buffers is None:
            buffers = self._kept[shape] = self._made(shape)
            if len(self._kept) > MOST_SHAPES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(shape)
        if len(buffers.holds) == len(images) and all(
            a is b for a, b in zip(buffers.holds, images, strict=True)
        ):
            return buffers.on_card
        # The copy before this one may still read the staging memory.
        buffers.arrived.synchronize()
        buffers.holds = ()
        for target, image in zip(buffers.staging.numpy(), images, strict=True):
            target[...] = image
        buffers.on_card.copy_(buffers.staging, non_blocking=True)
        buffers.arrived.record()
        buffers.holds = tuple(images)
        return buffers.on_card

    def _made(self, shape: tuple[int, ...]) -> _Buffers:
        import torch

        return _Buffers(
            torch.empty(shape, dtype=torch.uint8, device=self._device),
            torch.empty(shape, dtype=torch.uint8, pin_memory=True),
            torch.cuda.Event(),
        )


_uploads: dict[str, Uploads] = {}
_users: dict[str, set[int]] = {}


def uploads_for(device: str, user: object) -> Uploads:
    """The frames on a card, shared by all who use it."""
    _users.setdefault(device, set()).add(id(user))
    return _uploads.setdefault(device, Uploads(device))


def done_with(device: str, user: object) -> None:
    """The last one to leave a card takes the frames' memory along."""
    users = _users.get(device, set())
    users.discard(id(user))
    if not users:
        _uploads.pop(device, None)


class Graphs:
    """Runs a computation, and replays it as one launch once it is known to repeat."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.note = ""
        self._runs: dict[tuple[int, ...], int] = {}
        self._captured: OrderedDict[tuple[int, ...], tuple[Any, Any, Any]] = OrderedDict()

    def forget(self) -> None:
        """Give back what graphs hold: to be called before weights leave the card."""
        self._captured.clear()
        self._runs.clear()

    def run(self, compute: Callable[[Any], Any], frames: Any) -> Any:
        """``compute(frames)``; the result may be overwritten by the next run.

        Raises:
            Exception: whatever ``compute`` raises.
        """
        key = (frames.data_ptr(), *frames.shape)
        known = self._captured.get(key)
        if known is not None:
            known[0].replay()
            return known[1]
        runs = self._runs[key] = self._runs.get(key, 0) + 1
        if self.enabled and runs > RUNS_BEFORE_CAPTURE:
            self._capture(key, compute, frames)
            if key in self._captured:
                return self.run(compute, frames)
        return compute(frames)

    def _capture(self, key: tuple[int, ...], compute: Callable[[Any], Any], frames: Any) -> None:
        import torch

        graph = torch.cuda.CUDAGraph()
        try:
            side = torch.cuda.Stream(frames.device)
            side.wait_stream(torch.cuda.current_stream(frames.device))
            with torch.cuda.stream(side):
                compute(frames)
            torch.cuda.current_stream(frames.device).wait_stream(side)
            # Another thread may load a model meanwhile; its calls don't concern this one.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                result = compute(frames)
        except RuntimeError as error:
            if is_poisoned(error):
                raise
            self.enabled = False
            why = "no memory for it" if is_out_of_memory(error) else str(error).split("\n")[0][:120]
            self.note = f"it runs without CUDA graphs: {why}"
            log.warning("CUDA graphs are off: %s", why)
            return
        # The frames are kept with it: their memory is what the graph reads.
        self._captured[key] = (graph, result, frames)
        while len(self._captured) > MOST_SHAPES:
            self._captured.popitem(last=False)
