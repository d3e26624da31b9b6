"""An open_clip model in torch: the reference on the CPU, and what computes on a card."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bot.vision.model_files import CLIP_CONFIG, CLIP_WEIGHTS
from bot.vision.refusal import first_line
from bot.vision.worker.backends.agreement import features_differ
from bot.vision.worker.backends.torch_model import TorchModel
from bot.vision.worker.clip_pictures import Preprocess
from bot.vision.worker.contexts import on
from bot.vision.worker.devices import give_back, torch_is_ready
from bot.vision.worker.environment import importing, use_threads
from bot.vision.worker.models import ModelError

TEXT_BATCH = 32


class TorchClip(TorchModel):
    """The model itself."""

    title = "CLIP"

    def __init__(
        self, module: Any, tokenizer: Any, facts: dict[str, Any], threads: int, *, graphs: bool
    ) -> None:
        super().__init__(module, facts, threads, graphs=graphs)
        self.tokenizer = tokenizer
        self.preprocess = Preprocess(facts["preprocess"])

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
            raise ModelError(
                f"{folder.name} is no open_clip model ({first_line(error)})",
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

    # --- where it is --------------------------------------------------------------------------

    @property
    def _at_work(self) -> Any:
        # Phrases are encoded once: nearly half of ViT-B/32 would lie on the card for nothing.
        return getattr(self.module, "visual", self.module)

    def _forget(self) -> None:
        """The constants of the transform."""
        self.preprocess = Preprocess(self.facts["preprocess"])

    def _said(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self.features(pictures)

    def _differs(self, reference: np.ndarray, pictures: Sequence[np.ndarray]) -> str:
        return features_differ(reference, self.features(pictures))

    # --- what it says -------------------------------------------------------------------------

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """N x width, float32, of length 1."""
        import torch

        with torch.inference_mode(), on(self._device):
            if self._device == "cpu":
                return self._normal(self.module.encode_image(self.preprocess(images))).numpy()
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
        return self._normal(self.module.encode_image(pictures))

    def text(self, phrases: Sequence[str]) -> np.ndarray:
        """N x width, float32, of length 1."""
        import torch

        with torch.inference_mode(), on(self._device):
            with self._residence.whole(self._device):
                parts = [
                    self._encoded(phrases[i : i + TEXT_BATCH]).cpu()
                    for i in range(0, len(phrases), TEXT_BATCH)
                ]
            if self._device != "cpu":
                give_back()
            return torch.cat(parts).numpy()

    def _encoded(self, phrases: Sequence[str]) -> Any:
        tokens = self.tokenizer(list(phrases)).to(self._device)
        return self._normal(self.module.encode_text(tokens))

    def _normal(self, features: Any) -> Any:
        import torch

        return torch.nn.functional.normalize(features.float(), dim=-1)
