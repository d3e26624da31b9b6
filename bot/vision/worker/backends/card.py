"""What both models need on a card: frames sent once, and computations replayed as CUDA graphs.

Used by the analysis thread alone, or by others that hold its lock.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from bot.vision.worker import contexts
from bot.vision.worker.devices import is_out_of_memory, is_poisoned

log = logging.getLogger(__name__)

MOST_SIZES = 2
"""Frame sizes whose buffers are kept."""
MOST_GRAPHS = 4
"""One for each batch size, as long as the frames' size stays."""
RUNS_BEFORE_CAPTURE = 3
"""Kernels are chosen and workspaces made in the first runs, which a graph can't hold."""


@dataclass(slots=True)
class _Buffers:
    on_card: Any
    staging: Any
    arrived: Any
    shown: Any
    """The part of ``on_card`` with the newest frames."""
    holds: tuple[np.ndarray, ...] = ()
    """The very arrays that ``shown`` shows; kept, so that none of their ids is used again."""


class Uploads:
    """Frames on one card. The second model that asks for the same frames finds them there.

    To be used while the card is the thread's current one.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._kept: OrderedDict[tuple[int, ...], _Buffers] = OrderedDict()

    def stacked(self, images: Sequence[np.ndarray]) -> Any:
        """N x height x width x 3, BGR, uint8, on the card; the same memory for the same size."""
        size, count = images[0].shape, len(images)
        buffers = self._kept.get(size)
        if buffers is None or len(buffers.on_card) < count:
            self._kept.pop(size, None)
            buffers = self._kept[size] = self._made((count, *size))
            if len(self._kept) > MOST_SIZES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(size)
        if len(buffers.holds) == count and all(
            a is b for a, b in zip(buffers.holds, images, strict=True)
        ):
            return buffers.shown
        # The copy before this one may still read the staging memory.
        buffers.arrived.synchronize()
        buffers.holds = ()
        if len(buffers.shown) != count:
            buffers.shown = buffers.on_card[:count]
        staging = buffers.staging[:count]
        for target, image in zip(staging.numpy(), images, strict=True):
            target[...] = image
        buffers.shown.copy_(staging, non_blocking=True)
        buffers.arrived.record()
        buffers.holds = tuple(images)
        return buffers.shown

    def _made(self, shape: tuple[int, ...]) -> _Buffers:
        import torch

        on_card = torch.empty(shape, dtype=torch.uint8, device=self._device)
        staging = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return _Buffers(on_card, staging, torch.cuda.Event(), on_card)


_uploads: WeakValueDictionary[str, Uploads] = WeakValueDictionary()


def uploads_for(device: str) -> Uploads:
    """The frames on a card, shared by all who hold this; they go with the last one."""
    found = _uploads.get(device)
    if found is None:
        found = _uploads[device] = Uploads(device)
    return found


def drop_workspaces() -> None:
    """Give back cuBLAS' workspaces, once no model is on any card: graphs compute in them.

    torch would keep them for good: 8 to 32 MiB for each thread and stream.
    """
    import torch

    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if not _uploads and clear is not None and torch.cuda.is_initialized():
        clear()


class Graphs:
    """Runs a computation, and replays it as one launch once it is known to repeat.

    The graphs of one computation share a stream and a memory pool and go together: a graph that
    goes alone takes cuBLAS' workspace of their stream along (pytorch issue 193402). To be used
    while the card is the thread's current one.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.note = ""
        self._where: tuple[int, ...] = ()
        self._runs: Counter[int] = Counter()
        self._captured: dict[int, tuple[Any, Any, Any]] = {}
        self._pool: Any = None
        self._streams: dict[Any, Any] = {}
        """For good: torch has 32 of a card, and each that computed keeps a workspace."""

    def switch_off(self, why: str) -> None:
        self.enabled = False
        self.note = f"it runs without CUDA graphs: {why}"

    def forget(self) -> None:
        """Give back what graphs hold: to be called before weights leave the card."""
        self._captured.clear()
        self._runs.clear()
        self._pool = None

    def run(self, compute: Callable[[Any], Any], frames: Any) -> Any:
        """``compute(frames)``; the result may be overwritten by the next run.

        Raises:
            Exception: whatever ``compute`` raises.
        """
        where = (frames.data_ptr(), *frames.shape[1:])
        if where != self._where:
            self.forget()
            self._where = where
        count = len(frames)
        known = self._captured.get(count)
        if known is not None:
            known[0].replay()
            return known[1]
        self._runs[count] += 1
        repeats = self._runs[count] > RUNS_BEFORE_CAPTURE
        if self.enabled and repeats and len(self._captured) < MOST_GRAPHS:
            self._capture(compute, frames)
            if count in self._captured:
                return self.run(compute, frames)
        return compute(frames)

    def _capture(self, compute: Callable[[Any], Any], frames: Any) -> None:
        import torch

        graph = torch.cuda.CUDAGraph()
        device = frames.device
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        stream = self._streams[device]
        try:
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                compute(frames)
            torch.cuda.current_stream(device).wait_stream(stream)
            # Another thread may load a model meanwhile; its calls don't concern this one.
            how = torch.cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            )
            with contexts.capturing, how:
                result = compute(frames)
            self._pool = graph.pool()
        except RuntimeError as error:
            if is_poisoned(error):
                raise
            full = is_out_of_memory(error)
            self.switch_off("no memory for it" if full else str(error).split("\n")[0][:120])
            log.warning("CUDA graphs are off: %s", self.note)
            return
        # The frames are kept with it: their memory is what the graph reads.
        self._captured[len(frames)] = (graph, result, frames)
