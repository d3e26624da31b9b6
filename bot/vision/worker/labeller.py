"""CLIP in the worker: which of the phrases fits the frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bot.vision.model_files import CLIP_CONFIG, CLIP_WEIGHTS, sha256_of
from bot.vision.reports import Insight
from bot.vision.worker.clip_pictures import Preprocess
from bot.vision.worker.hybrid import HybridModel
from bot.vision.worker.phrases import Phrases
from bot.vision.worker.protocol import ClipSpec
from bot.vision.worker.tokens import Tokens

if TYPE_CHECKING:
    from bot.vision.worker.backends.cache import Converted
    from bot.vision.worker.backends.openvino import Network
    from bot.vision.worker.backends.torch_clip import TorchClip


class Labeller(HybridModel[ClipSpec, "TorchClip"]):
    """An open_clip model with the phrases' embeddings, which are computed once."""

    title = "CLIP"

    def __init__(
        self,
        spec: ClipSpec,
        threads: int,
        torch_model: TorchClip | None,
        ready: Converted | None,
        note: str = "",
    ) -> None:
        super().__init__(spec, threads, torch_model, ready, note)
        self._scale: float = self._facts["scale"]
        self._context_length: int = self._facts["context_length"]
        self._preprocess = Preprocess(self._facts["preprocess"])
        cache = spec.computing.cache_folder
        self._phrases = Phrases(
            Path(cache) / f"phrases-{self._digest(spec)[:24]}" if cache else None
        )
        self._text: tuple[tuple[str, ...], np.ndarray] = ((), np.zeros((0, 0), np.float32))
        self.concepts = spec.concepts

    @staticmethod
    def _files(spec: ClipSpec) -> tuple[Path, ...]:
        folder = Path(spec.folder)
        return folder / CLIP_CONFIG, folder / CLIP_WEIGHTS

    @staticmethod
    def _digest(spec: ClipSpec) -> str:
        folder = Path(spec.folder)
        weights = spec.sha256 or sha256_of(folder / CLIP_WEIGHTS)
        return weights[:32] + sha256_of(folder / CLIP_CONFIG)[:32]

    @staticmethod
    def _open(spec: ClipSpec, threads: int) -> TorchClip:
        from bot.vision.worker.backends.torch_clip import TorchClip

        return TorchClip.open(Path(spec.folder), threads, graphs=spec.computing.cuda_graphs)

    def _compile(self, ready: Converted) -> Network:
        from bot.vision.worker.backends.openvino import Network

        return Network(
            ready.network("clip"),
            self._threads,
            ready.precision,
            mean=tuple(255 * v for v in self._preprocess.mean),
            scale=tuple(255 * v for v in self._preprocess.std),
        )

    def use_concepts(self, concepts: tuple[str, ...]) -> None:
        """Choose from other phrases from now on; they are encoded when a frame comes."""
        self.concepts = concepts

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The image in the size of OpenVINO's network."""
        return image if self._network is None else self._preprocess.array(image)

    def answer(self, prepared: Sequence[np.ndarray]) -> list[tuple[Insight, ...]]:
        """The fitting phrases for each image, likeliest first."""
        probabilities = self._probabilities(self._features(prepared))
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
        return self._probabilities(self.features(images))

    def _probabilities(self, features: np.ndarray) -> np.ndarray:
        if self._text[0] != self.concepts:
            self._text = (self.concepts, self._phrases.embedded(self.concepts, self._encoded))
        logits = self._scale * (features @ self._text[1].T)
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
        return self._features([self.prepare(image) for image in images])

    def _features(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        if self._network is None:
            assert self._torch is not None
            return self._torch.features(prepared)
        # One by one: each size of a batch would be compiled with weights of its own.
        return np.concatenate([self._network(picture[None]).copy() for picture in prepared])

    def _encoded(self, phrases: Sequence[str]) -> np.ndarray:
        if self._ready is None or self._torch is not None:
            assert self._torch is not None
            return self._torch.text(phrases)
        from bot.vision.worker.backends.openvino import Network

        # New phrases are rare: the network for them need not stay in memory.
        network = Network(self._ready.network("text"), self._threads, "f32")
        tokens = Tokens(self._context_length)(phrases)
        return np.concatenate([network(tokens[i : i + 1]).copy() for i in range(len(tokens))])
