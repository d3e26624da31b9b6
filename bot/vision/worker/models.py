"""What the analysis asks of a model, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bot.vision.worker.devices import Place, give_back


class ModelError(Exception):
    """The model can't be used; says what happened and what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a model takes, in bytes; the peak only where a card could be asked."""

    weights_bytes: int
    activations_bytes: int | None = None


class VisionModel(Protocol):
    """A loaded model. Called by one thread at a time."""

    batch_size: int
    place: Place

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about it where it is now."""
        ...

    @property
    def backend(self) -> str:
        """What computes, and in which precision, as people read it."""
        ...

    def move(self, place: Place) -> None:
        """To another device, with everything that belongs to it; brings a parked model back."""
        ...

    def park(self) -> None:
        """Leave the device but keep what a ``move`` back needs in host memory."""
        ...

    def analyse(self, images: Sequence[np.ndarray]) -> list[tuple[Any, ...]]:
        """One answer an image (BGR, uint8), in order."""
        ...

    @property
    def weights_bytes(self) -> int: ...


def try_out(model: VisionModel) -> Sizes:
    """Run it once, on a card with a full batch, so that kernels are chosen and the peak known."""
    blank = np.zeros((720, 1280, 3), np.uint8)
    place = model.place
    if not place.on_card:
        model.analyse([blank])
        return Sizes(model.weights_bytes)
    import torch

    torch.cuda.reset_peak_memory_stats(place.device)
    before = torch.cuda.memory_allocated(place.device)
    model.analyse([blank] * model.batch_size)
    torch.cuda.synchronize(place.device)
    peak = torch.cuda.max_memory_allocated(place.device) - before
    give_back()
    return Sizes(model.weights_bytes, peak)


def first_line(error: BaseException) -> str:
    """Kind and first line of an error, for people."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def size_of(module: Any) -> int:
    """Parameters and buffers of a torch module, in bytes."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)
