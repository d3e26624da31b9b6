"""CLIP in the worker: which of the phrases fits the frame."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bot.vision.model_files import CLIP_CONFIG, CLIP_WEIGHTS, FileRefused, check_hash
from bot.vision.reports import Insight
from bot.vision.worker.backends.residence import Residence
from bot.vision.worker.devices import CPU, Place, torch_is_ready
from bot.vision.worker.environment import importing, use_threads
from bot.vision.worker.models import ModelError, size_of
from bot.vision.worker.protocol import ClipSpec

TEXT_BATCH = 32
KEPT_PHRASES = 512
"""Single phrases whose embeddings are kept; people may ask for any."""


class Preprocess:
    """open_clip's picture transform on uint8 tensors: same result, without PIL."""

    def __init__(self, config: dict[str, Any]) -> None:
        size = config.get("size", 224)
        self.height, self.width = (size, size) if isinstance(size, int) else (size[0], size[1])
        self._mean = tuple(config["mean"])
        self._std = tuple(config["std"])
        self._mode = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
        self._resize_mode = config.get("resize_mode", "shortest")
        self._fill = int(config.get("fill_color", 0) or 0)

    def __call__(self, images: Sequence[np.ndarray], device: Any) -> Any:
        """BGR uint8 images to a normalised float tensor, N x 3 x height x width."""
        import torch

        resized = torch.cat([self._fit(image, device) for image in images])
        mean = torch.tensor(self._mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(self._std, device=device).view(1, 3, 1, 1)
        return resized.float().div_(255).sub_(mean).div_(std)

    def _fit(self, image: np.ndarray, device: Any) -> Any:
        import torch

        height, width = image.shape[:2]
        new_height, new_width = self._target(height, width)
        tensor = torch.from_numpy(image).to(device).permute(2, 0, 1).unsqueeze(0)
        if device.type != "cpu":
            tensor = tensor.float()  # only the CPU resizes uint8
        if (new_height, new_width) != (height, width):
            tensor = torch.nn.functional.interpolate(
                tensor, (new_height, new_width), mode=self._mode, antialias=True
            )
        if device.type != "cpu":
            tensor = tensor.round_().clamp_(0, 255)
        return self._centre(tensor).flip(1)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self._resize_mode == "squash":
            return self.height, self.width
        if self._resize_mode == "longest":
            ratio = max(height / self.height, width / self.width)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        if self.height == self.width:  # torchvision's Resize truncates the longer side
            short = self.height
            if height <= width:
                return short, int(short * width / height)
            return int(short * height / width), short
        ratio = min(height / self.height, width / self.width)
        return round(height / ratio), round(width / ratio)

    def _centre(self, tensor: Any) -> Any:
        """Crop what is too much, fill what is missing, both evenly."""
        import torch

        height, width = tensor.shape[-2:]
        if height > self.height:
            top = round((height - self.height) / 2)
            tensor = tensor[..., top : top + self.height, :]
        if width > self.width:
            left = round((width - self.width) / 2)
            tensor = tensor[..., left : left + self.width]
        down, right = self.height - tensor.shape[-2], self.width - tensor.shape[-1]
        if down or right:
            padding = (right // 2, right - right // 2, down // 2, down - down // 2)
            tensor = torch.nn.functional.pad(tensor, padding, value=self._fill)
        return tensor


class Labeller:
    """An open_clip model with the phrases' embeddings, which are computed once."""

    def __init__(self, model: Any, tokenizer: Any, preprocess: Preprocess, spec: ClipSpec) -> None:
        self._model = model
        self._residence = Residence(model)
        self._tokenizer = tokenizer
        self._preprocess = preprocess
        self._spec = spec
        self._embeddings: dict[tuple[str, ...], Any] = {}
        self._asked: OrderedDict[str, Any] = OrderedDict()
        self.concepts = spec.concepts
        self.batch_size = spec.batch_size
        self.notes: tuple[str, ...] = ()
        self.place = CPU
        self._at = CPU.device
        """Where the weights are: with a parked model not where its place is."""

    @classmethod
    def load(cls, spec: ClipSpec, threads: int) -> Labeller:
        """Open the model on the CPU.

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
            open_clip.load_checkpoint(model, str(weights))
            tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
            picture = described.get("preprocess_cfg", {})
        except (
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
        return cls(model, tokenizer, Preprocess(merged), spec)

    @property
    def weights_bytes(self) -> int:
        return size_of(self._model)

    def move(self, place: Place) -> None:
        if place.on_card:
            self._residence.to_card(place.device, half=False)
        else:
            self._residence.for_cpu()
        self._take_phrases(place.device)
        self.place = place

    def park(self) -> None:
        self._residence.to_host()
        self._take_phrases("cpu")

    @property
    def backend(self) -> str:
        return "torch f32"

    def _take_phrases(self, device: str) -> None:
        self._at = device
        self._embeddings = {k: v.to(device) for k, v in self._embeddings.items()}
        self._asked = OrderedDict((k, v.to(device)) for k, v in self._asked.items())

    def use_concepts(self, concepts: tuple[str, ...]) -> None:
        """Choose from other phrases from now on."""
        self._text(concepts)
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
        import torch

        with torch.inference_mode():
            text = self._text(self.concepts)
            pictures = self._preprocess(images, torch.device(self._at))
            features = self._model.encode_image(pictures, normalize=True).float()
            scale = math.exp(float(self._model.logit_scale))
            return (scale * features @ text.T).softmax(dim=-1).cpu().numpy()

    def log_odds(
        self, image: np.ndarray, phrases: Sequence[str], background: Sequence[str]
    ) -> tuple[float, ...]:
        """For each phrase its logit less that of the background phrase that fits best.

        A logit is CLIP's scale x the cosine of phrase and picture. 0 means: it fits as well as
        the best of the neutral phrases.
        """
        import torch

        with torch.inference_mode():
            text = self._phrases((*phrases, *background))
            features = self._model.encode_image(
                self._preprocess([image], torch.device(self._at)), normalize=True
            ).float()
            scale = math.exp(float(self._model.logit_scale))
            logits = scale * (features @ text.T)[0].cpu()
            return tuple((logits[: len(phrases)] - logits[len(phrases) :].max()).tolist())

    def _phrases(self, phrases: Sequence[str]) -> Any:
        """Embeddings of single phrases, each computed once while it is remembered."""
        import torch

        missing = [phrase for phrase in dict.fromkeys(phrases) if phrase not in self._asked]
        if missing:
            self._asked.update(zip(missing, self._encoded(missing), strict=True))
        rows = [self._asked[phrase] for phrase in phrases]
        for phrase in phrases:
            self._asked.move_to_end(phrase)
        while len(self._asked) > KEPT_PHRASES:
            self._asked.popitem(last=False)
        return torch.stack(rows)

    def _text(self, concepts: tuple[str, ...]) -> Any:
        known = self._embeddings.get(concepts)
        if known is None:
            known = self._embeddings[concepts] = self._encoded(concepts)
        return known

    def _encoded(self, phrases: Sequence[str]) -> Any:
        import torch

        with torch.inference_mode():
            parts = [
                self._model.encode_text(
                    self._tokenizer(list(phrases[i : i + TEXT_BATCH])).to(self._at),
                    normalize=True,
                ).float()
                for i in range(0, len(phrases), TEXT_BATCH)
            ]
            return torch.cat(parts)
