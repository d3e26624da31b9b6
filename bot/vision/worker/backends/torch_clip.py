"""An open_clip model in torch: the reference on the CPU, and what computes on a card."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bot.vision.model_files import CLIP_CONFIG, CLIP_WEIGHTS
from bot.vision.worker.backends.agreement import features_differ, frames
from bot.vision.worker.backends.card import Graphs, Uploads, done_with, uploads_for
from bot.vision.worker.backends.residence import Residence
from bot.vision.worker.clip_pictures import Preprocess
from bot.vision.worker.devices import torch_is_ready
from bot.vision.worker.environment import importing, use_threads
from bot.vision.worker.models import ModelError, size_of

TEXT_BATCH = 32


class TorchClip:
    """The model itself. Its weights are in host memory until it is sent elsewhere."""

    def __init__(
        self, model: Any, tokenizer: Any, facts: dict[str, Any], threads: int, *, graphs: bool
    ) -> None:
        self.facts = facts
        self.note = ""
        self._model = model
        self._tokenizer = tokenizer
        self._threads = threads
        self.preprocess = Preprocess(facts["preprocess"])
        self._residence = Residence(model)
        self._graphs = Graphs(enabled=graphs)
        self._uploads: Uploads | None = None
        self._half: bool | None = None
        self._device = "cpu"

    @classmethod
    def open(cls, folder: Path, threads: int, *, graphs: bool = True) -> TorchClip:
        """Open a model on the CPU.

        Raises:
            ModelError: its files are no open_clip model, or do not fit each other.
        """
        with importing():
            import open_clip
            import torch  # noqa: F401
            from open_clip.transform import PreprocessCfg
            from safetensors import SafetensorError

            use_threads(threads)
            torch_is_ready()
        try:
            described = json.loads((folder / CLIP_CONFIG).read_text(encoding="utf-8"))
            config = described["model_cfg"]
            model: Any = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
            open_clip.load_checkpoint(model, str(folder / CLIP_WEIGHTS))
            tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
            picture = described.get("preprocess_cfg", {})
        except (
            ImportError,  # it names a tokenizer of another library
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
            AssertionError,
            SafetensorError,
        ) as error:
            first = (str(error).strip().splitlines() or [""])[0][:200]
            raise ModelError(
                f"{folder.name} is no open_clip model ({type(error).__name__}: {first})",
                "fetch it again with `danzar models pull`",
            ) from error
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        defaults = PreprocessCfg(size=config["vision_cfg"].get("image_size", 224))
        merged = {
            key: picture.get(key) or getattr(defaults, key)
            for key in ("size", "mean", "std", "interpolation", "resize_mode", "fill_color")
        }
        facts = {
            "preprocess": merged,
            "scale": math.exp(float(model.logit_scale)),
            "context_length": int(getattr(model, "context_length", 77)),
        }
        return cls(model, tokenizer, facts, threads, graphs=graphs)

    @property
    def module(self) -> Any:
        return self._model

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def weights_bytes(self) -> int:
        return size_of(self._model)

    @property
    def backend(self) -> str:
        if self._device == "cpu":
            return "torch f32"
        graphs = ", CUDA graphs" if self._graphs.enabled else ""
        return f"torch {'f16' if self._half else 'f32'}{graphs}"

    # --- where it is --------------------------------------------------------------------------

    def to_card(self, device: str) -> None:
        """Raises ``torch.OutOfMemoryError``; it is in host memory then."""
        self.leave()
        known: np.ndarray | None = None
        pictures = frames(2)
        if self._half is None:
            self._residence.for_cpu()
            known = self.features(pictures)
        self._arrive(device, half=self._half is not False)
        if known is not None:
            why = features_differ(known, self.features(pictures))
            self._half = not why
            if why:
                self.note = f"CLIP computes in single precision on the card: in half, {why}"
                self.leave()
                self._arrive(device, half=False)

    def _arrive(self, device: str, *, half: bool) -> None:
        self._residence.to_card(device, half=half)
        self._device = device
        self._uploads = uploads_for(device, self)

    def for_cpu(self) -> None:
        self.leave()
        self._residence.for_cpu()
        use_threads(self._threads)

    def leave(self) -> None:
        """Keep the host copy alone."""
        if self._uploads is not None:
            self._graphs.forget()
            done_with(self._device, self)
            self._uploads = None
        self._residence.to_host()
        self._device = "cpu"

    # --- what it says -------------------------------------------------------------------------

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N x width, float32, of length 1."""
        import torch

        with torch.inference_mode():
            if self._device == "cpu":
                return self._normal(self._model.encode_image(self.preprocess(images))).numpy()
            assert self._uploads is not None
            if len({image.shape for image in images}) > 1:
                return np.concatenate([self.features([image]) for image in images])
            found = self._graphs.run(self._on_card, self._uploads.stacked(images))
            return found.cpu().numpy()

    def _on_card(self, frames: Any) -> Any:
        """Nothing here waits for the card or asks it anything."""
        import torch

        pictures = self.preprocess.normalised(self.preprocess.fitted(frames))
        if self._half is not False:
            pictures = pictures.half()
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        return self._normal(self._model.encode_image(pictures))

    def text(self, phrases: Sequence[str]) -> np.ndarray:
        """N x width, float32, of length 1."""
        import torch

        with torch.inference_mode():
            parts = [
                self._normal(
                    self._model.encode_text(
                        self._tokenizer(list(phrases[i : i + TEXT_BATCH])).to(self._device)
                    )
                ).cpu()
                for i in range(0, len(phrases), TEXT_BATCH)
            ]
            return torch.cat(parts).numpy()

    def _normal(self, features: Any) -> Any:
        import torch

        return torch.nn.functional.normalize(features.float(), dim=-1)
