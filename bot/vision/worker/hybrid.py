"""What both models are: a network of OpenVINO's for the CPU, one of torch for a card."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from bot.vision.model_files import FileRefused, check_hash
from bot.vision.refusal import first_line
from bot.vision.worker.backends.conversion import NoConversion, converted, in_the_background
from bot.vision.worker.devices import CPU, Place
from bot.vision.worker.environment import one_thread_for_opencv
from bot.vision.worker.models import ModelError
from bot.vision.worker.protocol import ClipSpec, YoloSpec

if TYPE_CHECKING:
    from bot.vision.worker.backends.cache import Converted
    from bot.vision.worker.backends.openvino import Network
    from bot.vision.worker.backends.torch_model import TorchModel

log = logging.getLogger(__name__)

SpecT = TypeVar("SpecT", bound=YoloSpec | ClipSpec)
TorchT = TypeVar("TorchT", bound="TorchModel")


class HybridModel(ABC, Generic[SpecT, TorchT]):
    """A model that has OpenVINO's network, torch's, or both.

    torch is opened for a card, and for the CPU where OpenVINO can't be had.
    """

    title: ClassVar[str]

    def __init__(
        self,
        spec: SpecT,
        threads: int,
        torch_model: TorchT | None,
        ready: Converted | None,
        note: str = "",
    ) -> None:
        self._spec = spec
        self._threads = threads
        self._torch = torch_model
        self._ready = ready
        self._network: Network | None = None
        self._without_openvino = False
        """Its network failed here."""
        self._facts: dict[str, Any] = (
            ready.facts if ready else torch_model.facts if torch_model else {}
        )
        self.batch_size = spec.batch_size
        self.place = CPU
        self._notes = (note,) if note else ()
        one_thread_for_opencv()

    # --- which model it is --------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def _files(spec: SpecT) -> tuple[Path, ...]:
        """All that has to be there; the weights come last."""

    @staticmethod
    @abstractmethod
    def _digest(spec: SpecT) -> str:
        """A hash of whatever changes what the model says."""

    @staticmethod
    @abstractmethod
    def _open(spec: SpecT, threads: int) -> TorchT:
        """torch's model, in host memory."""

    @abstractmethod
    def _compile(self, ready: Converted) -> Network:
        """OpenVINO's network for pictures."""

    @abstractmethod
    def prepare(self, image: np.ndarray) -> Any:
        """An image (BGR, uint8) as ``answer`` takes it where the model is: torch's as it is."""

    @abstractmethod
    def answer(self, prepared: Sequence[Any]) -> list[tuple[Any, ...]]:
        """One answer an image, in order."""

    def analyse(self, images: Sequence[np.ndarray]) -> list[tuple[Any, ...]]:
        """One answer an image (BGR, uint8), in order."""
        return self.answer([self.prepare(image) for image in images])

    # --- its life -----------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        spec: SpecT,
        threads: int,
        place: Place = CPU,
        say: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Open the model in host memory, with what it takes to compute on ``place``.

        Raises:
            ModelError: a file is missing, is not the pinned one, or is no model of this kind.
        """
        files = cls._files(spec)
        for path in files:
            if not path.is_file():
                raise ModelError(f"{path} is missing", f"check {spec.kind}.model_path")
        try:
            check_hash(files[-1], spec.sha256)
        except FileRefused as error:
            raise ModelError(error.what, error.remedy) from error
        ready, note = None, ""
        if cls._may_convert(spec):
            if place.on_card:
                # For the day on which it has to leave the card.
                in_the_background(lambda: cls._converted(spec, threads))
            else:
                try:
                    ready = cls._converted(spec, threads, say)
                except NoConversion as error:
                    note = cls._instead(error)
        return cls(spec, threads, None if ready else cls._open(spec, threads), ready, note)

    @property
    def notes(self) -> tuple[str, ...]:
        more = self._torch.notes if self._torch and self.place.on_card else ()
        return (*self._notes, *more)

    @property
    def backend(self) -> str:
        if self._network is not None and self._ready is not None:
            return f"OpenVINO {self._ready.precision}"
        return self._torch.backend if self._torch else ""

    @property
    def weights_bytes(self) -> int:
        if self._torch is not None and (self.place.on_card or self._ready is None):
            return self._torch.weights_bytes
        return int(self._ready.facts["weights_bytes"]) if self._ready else 0

    def move(self, place: Place) -> None:
        """On the way to the CPU the card is left first: its memory is wanted, frames wait anyway.

        Raises ``torch.OutOfMemoryError``; another ``move`` or ``park`` has to follow then.
        """
        if place.on_card:
            self._network = None
            self._opened().to_card(place.device)
        else:
            if self._torch is not None:
                self._torch.leave()
            if not self._computes_without_torch():
                self._opened().for_cpu()
        self.place = place

    def _computes_without_torch(self) -> bool:
        """Compile OpenVINO's network; where that fails the CPU computes with torch from now on."""
        ready = self._at_hand()
        if ready is None:
            return False
        if self._network is not None:
            return True
        try:
            self._network = self._compile(ready)
            # Compiled with its first picture: who computes with it later has nothing else to try.
            self.analyse([np.zeros((720, 1280, 3), np.uint8)])
        except Exception as error:
            log.warning("%s: OpenVINO fails", self.title, exc_info=True)
            self._network = self._ready = None
            self._without_openvino = True
            why = f"its network can't be used ({first_line(error)})"
            self._notes = (*self._notes, self._instead(why))
            return False
        return True

    @classmethod
    def _instead(cls, why: object) -> str:
        return f"{cls.title} computes with torch on the CPU, not OpenVINO: {why}"

    def park(self) -> None:
        """On a card the host copy stays. On the CPU OpenVINO's compiled networks go, which are
        made anew from the file; torch's weights stay, they are the host copy."""
        self._network = None
        if self._torch is not None:
            self._torch.leave()

    def _opened(self) -> TorchT:
        if self._torch is None:
            self._torch = self._open(self._spec, self._threads)
        return self._torch

    def _at_hand(self) -> Converted | None:
        """OpenVINO's files, if they lie ready: who leaves a card has no time to make them."""
        if self._ready is None and not self._without_openvino and self._may_convert(self._spec):
            try:
                self._ready = self._converted(self._spec, self._threads, make=False)
            except (NoConversion, OSError):
                return None
        return self._ready

    @staticmethod
    def _may_convert(spec: SpecT) -> bool:
        return spec.computing.backend != "torch" and bool(spec.computing.cache_folder)

    @classmethod
    def _converted(
        cls,
        spec: SpecT,
        threads: int,
        say: Callable[[str], None] = lambda _: None,
        *,
        make: bool = True,
    ) -> Converted:
        where = Path(spec.path if isinstance(spec, YoloSpec) else spec.folder)
        wish = spec.computing
        return converted(
            spec.kind,
            where,
            cls._digest(spec),
            Path(wish.cache_folder or ""),
            threads,
            say,
            make=make,
            precision=wish.precision,
        )
