"""CLIP in the worker: which of the phrases fits the frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bot.vision.model_files import CLIP_CONFIG, CLIP_WEIGHTS, FileRefused, check_hash, sha256_of
from bot.vision.reports import Insight
from bot.vision.worker.backends.conversion import NoConversion, converted, in_the_background
from bot.vision.worker.clip_pictures import Preprocess
from bot.vision.worker.devices import CPU, Place
from bot.vision.worker.environment import one_thread_for_opencv
from bot.vision.worker.models import ModelError
from bot.vision.worker.phrases import Phrases
from bot.vision.worker.protocol import ClipSpec
from bot.vision.worker.tokens import Tokens

if TYPE_CHECKING:
    from bot.vision.worker.backends.cache import Converted
    from bot.vision.worker.backends.openvino import Network
    from bot.vision.worker.backends.torch_clip import TorchClip


class Labeller:
    """An open_clip model with the phrases' embeddings, which are computed once.

    It has OpenVINO's networks, torch's model, or both: torch is opened for a card, and for the
    CPU where OpenVINO can't be had.
    """

    def __init__(
        self,
        spec: ClipSpec,
        threads: int,
        torch_clip: TorchClip | None,
        ready: Converted | None,
        phrases: Phrases,
        note: str = "",
    ) -> None:
        self._spec = spec
        self._threads = threads
        self._torch = torch_clip
        self._ready = ready
        self._network: Network | None = None
        facts: dict[str, Any] = ready.facts if ready else torch_clip.facts if torch_clip else {}
        self._scale: float = facts["scale"]
        self._context_length: int = facts["context_length"]
        self._preprocess = Preprocess(facts["preprocess"])
        self._phrases = phrases
        self._text: tuple[tuple[str, ...], np.ndarray] = ((), np.zeros((0, 0), np.float32))
        self.concepts = spec.concepts
        self.batch_size = spec.batch_size
        self.place = CPU
        self._notes = (note,) if note else ()
        one_thread_for_opencv()

    @classmethod
    def load(
        cls,
        spec: ClipSpec,
        threads: int,
        place: Place = CPU,
        say: Callable[[str], None] = lambda _: None,
    ) -> Labeller:
        """Open the model in host memory, with what it takes to compute on ``place``.

        Raises:
            ModelError: the folder lacks a file, the weights are not the pinned ones, or the two
                do not fit each other.
        """
        folder = Path(spec.folder)
        weights = folder / CLIP_WEIGHTS
        for path in (folder / CLIP_CONFIG, weights):
            if not path.is_file():
                raise ModelError(f"{path} is missing", "check clip.model_path")
        try:
            check_hash(weights, spec.sha256)
        except FileRefused as error:
            raise ModelError(error.what, error.remedy) from error
        ready, note = None, ""
        wish = spec.computing
        if wish.backend != "torch" and wish.cache_folder:
            order = ("clip", folder, _hash(spec), Path(wish.cache_folder), threads)
            if place.on_card:
                # For the day on which it has to leave the card.
                in_the_background(lambda: converted(*order))
            else:
                try:
                    ready = converted(*order, say)
                except NoConversion as error:
                    note = f"CLIP computes with torch on the CPU, not OpenVINO: {error}"
        kept = (
            Path(wish.cache_folder) / f"phrases-{_hash(spec)[:24]}" if wish.cache_folder else None
        )
        torch_clip = None if ready else _opened(spec, threads)
        return cls(spec, threads, torch_clip, ready, Phrases(kept), note)

    @property
    def notes(self) -> tuple[str, ...]:
        more = self._torch.note if self._torch and self.place.on_card else ""
        return (*self._notes, *((more,) if more else ()))

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
        if place.on_card:
            self._torch = self._torch or _opened(self._spec, self._threads)
            self._network = None
            self._torch.to_card(place.device)
        elif self._converted() is not None:
            if self._torch is not None:
                self._torch.leave()
            self._network = self._network or self._compiled()
        else:
            self._torch = self._torch or _opened(self._spec, self._threads)
            self._torch.for_cpu()
        self.place = place

    def park(self) -> None:
        """On a card the host copy stays. On the CPU OpenVINO's compiled networks go, which are
        made anew from the file; torch's weights stay, they are the host copy."""
        self._network = None
        if self._torch is not None:
            self._torch.leave()

    def use_concepts(self, concepts: tuple[str, ...]) -> None:
        """Choose from other phrases from now on; they are encoded when a frame comes."""
        self.concepts = concepts

    def analyse(self, images: Sequence[np.ndarray]) -> list[tuple[Insight, ...]]:
        """The fitting phrases for each image, likeliest first."""
        probabilities = self.probabilities(images)
        answers: list[tuple[Insight, ...]] = []
        for row in probabilities.tolist():
            ranked = sorted(zip(row, self.concepts, strict=True), reverse=True)
            answers.append(
                tuple(
                    Insight(text, probability)
                    for probability, text in ranked[: self._spec.max_insights]
                    if probability >= self._spec.confidence_threshold
                )
            )
        return answers

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Softmax over the phrases, one row an image."""
        if self._text[0] != self.concepts:
            self._text = (self.concepts, self._phrases.embedded(self.concepts, self._encoded))
        logits = self._scale * (self.features(images) @ self._text[1].T)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def log_odds(
        self, image: np.ndarray, phrases: Sequence[str], background: Sequence[str]
    ) -> tuple[float, ...]:
        """For each phrase its logit less that of the background phrase that fits best.

        A logit is CLIP's scale x the cosine of phrase and picture. 0 means: it fits as well as
        the best of the neutral phrases.
        """
        text = self._phrases.embedded((*phrases, *background), self._encoded)
        logits = self._scale * (self.features([image]) @ text.T)[0]
        return tuple((logits[: len(phrases)] - logits[len(phrases) :].max()).tolist())

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """One row an image, float32, of length 1."""
        if self._network is None:
            assert self._torch is not None
            return self._torch.features(images)
        batch = self._preprocess.arrays(images)
        # One by one: on the CPU a batch is hardly faster, and each size would be compiled.
        return np.concatenate([self._network(batch[i : i + 1]).copy() for i in range(len(batch))])

    def _encoded(self, phrases: Sequence[str]) -> np.ndarray:
        if self._ready is None or self._torch is not None:
            assert self._torch is not None
            return self._torch.text(phrases)
        from bot.vision.worker.backends.openvino import Network

        # New phrases are rare: the network for them need not stay in memory.
        network = Network(self._ready.network("text"), self._threads, "f32")
        tokens = Tokens(self._context_length)(phrases)
        return np.concatenate([network(tokens[i : i + 1]).copy() for i in range(len(tokens))])

    def _converted(self) -> Converted | None:
        """OpenVINO's files, if they lie ready: who leaves a card has no time to make them."""
        wish = self._spec.computing
        if self._ready is None and wish.backend != "torch" and wish.cache_folder:
            try:
                cache = Path(wish.cache_folder)
                self._ready = converted(
                    "clip",
                    Path(self._spec.folder),
                    _hash(self._spec),
                    cache,
                    self._threads,
                    make=False,
                )
            except (NoConversion, OSError):
                return None
        return self._ready

    def _compiled(self) -> Network:
        from bot.vision.worker.backends.openvino import Network

        assert self._ready is not None
        return Network(
            self._ready.network("clip"),
            self._threads,
            self._ready.precision,
            mean=tuple(255 * v for v in self._preprocess.mean),
            scale=tuple(255 * v for v in self._preprocess.std),
        )


def _opened(spec: ClipSpec, threads: int) -> TorchClip:
    from bot.vision.worker.backends.torch_clip import TorchClip

    return TorchClip.open(Path(spec.folder), threads, graphs=spec.computing.cuda_graphs)


def _hash(spec: ClipSpec) -> str:
    """The weights' hash and the configuration's: either changes what the model says."""
    folder = Path(spec.folder)
    weights = spec.sha256 or sha256_of(folder / CLIP_WEIGHTS)
    return weights[:32] + sha256_of(folder / CLIP_CONFIG)[:32]
