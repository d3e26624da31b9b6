"""A model in torch: the reference on the CPU, and what computes on a card."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bot.vision.worker.backends.agreement import frames
from bot.vision.worker.backends.card import Graphs, Uploads, drop_workspaces, uploads_for
from bot.vision.worker.backends.residence import Residence
from bot.vision.worker.contexts import on
from bot.vision.worker.environment import use_threads


class TorchModel(ABC):
    """Where a module of torch is, and in which precision it computes there.

    Its weights are in host memory until it is sent elsewhere. On its first card it is tried in
    half precision, and stays in single where it says something else then.
    """

    title: ClassVar[str]

    def __init__(self, module: Any, facts: dict[str, Any], threads: int, *, graphs: bool) -> None:
        self.module = module
        self.facts = facts
        self._note = ""
        self._threads = threads
        self._residence = Residence(module, self._at_work)
        self._graphs = Graphs(enabled=graphs)
        self._uploads: Uploads | None = None
        self._half: bool | None = None
        self._device = "cpu"

    @property
    def _at_work(self) -> Any:
        """The part of the module that looks at pictures: only that stays on a card."""
        return self.module

    @abstractmethod
    def _said(self, pictures: Sequence[np.ndarray]) -> Any:
        """What it says of pictures where it is, for a comparison."""

    @abstractmethod
    def _differs(self, reference: Any, pictures: Sequence[np.ndarray]) -> str:
        """In which way it says something else now; empty if it doesn't."""

    def _settle_in(self) -> None:  # noqa: B027 - most need nothing
        """The weights have come to a card."""

    def _forget(self) -> None:  # noqa: B027
        """Drop what was computed on the device that is left, and is no weight."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about how it computes on the card."""
        return tuple(filter(None, (self._note, self._graphs.note)))

    @property
    def weights_bytes(self) -> int:
        return self._residence.weights_bytes

    @property
    def backend(self) -> str:
        if self._device == "cpu":
            return "torch f32"
        graphs = ", CUDA graphs" if self._graphs.enabled else ""
        return f"torch {'f16' if self._half else 'f32'}{graphs}"

    def to_card(self, device: str) -> None:
        """Raises ``torch.OutOfMemoryError``; ``leave`` or ``for_cpu`` has to follow then."""
        self.leave()
        with on(device):
            if self._half is not None:
                self._arrive(device, half=self._half)
                return
            pictures = frames(2)
            self._residence.for_cpu()
            reference = self._said(pictures)
            self._arrive(device, half=True)
            why = self._differs(reference, pictures)
            self._half = not why
            if why:
                self._note = f"{self.title} computes in single precision here: in half, {why}"
                self.leave()
                self._arrive(device, half=False)

    def for_cpu(self) -> None:
        self.leave()
        self._residence.for_cpu()
        use_threads(self._threads)

    def leave(self) -> None:
        """Keep the host copy alone."""
        with on(self._device):
            if self._uploads is not None:
                # What a graph reads must not go before it.
                self._graphs.forget()
                self._uploads = None
            self._residence.to_host()
            self._forget()
            if self._device != "cpu":
                drop_workspaces()
        self._device = "cpu"

    def _arrive(self, device: str, *, half: bool) -> None:
        try:
            self._residence.to_card(device, half=half)
        finally:
            self._forget()
        self._device = device
        self._uploads = uploads_for(device)
        self._settle_in()
