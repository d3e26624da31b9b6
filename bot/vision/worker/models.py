"""What the analysis asks of a model, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bot.vision.refusal import Refusal
from bot.vision.worker.devices import Place, allocated_bytes, give_back, peak_bytes


class ModelError(Refusal):
    """The model can't be used."""


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


@runtime_checkable
class Prepares(Protocol):
    """A model whose ``analyse`` has a first step that needs no model."""

    def prepare(self, image: np.ndarray) -> Any:
        """Another thread calls it while a model computes."""
        ...

    def answer(self, prepared: Sequence[Any]) -> list[tuple[Any, ...]]:
        """What ``analyse`` says of the same images."""
        ...


def try_out(model: VisionModel) -> Sizes:
    """Run it once, on a card with a full batch, so that kernels are chosen and the peak known."""
    blank = np.zeros((720, 1280, 3), np.uint8)
    place = model.place
    if not place.on_card:
        model.analyse([blank])
        return Sizes(model.weights_bytes)
    import torch

    before = allocated_bytes(place)
    model.analyse([blank] * model.batch_size)
    torch.cuda.synchronize(place.device)
    peak = peak_bytes(place) - before
    give_back()
    return Sizes(model.weights_bytes, peak)
