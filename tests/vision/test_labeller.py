"""CLIP in the worker: open_clip's own picture transform, phrases embedded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from bot.vision.scene import render
from bot.vision.worker.backends.torch_clip import TorchClip
from bot.vision.worker.clip_pictures import Preprocess
from bot.vision.worker.labeller import Labeller
from bot.vision.worker.models import ModelError
from bot.vision.worker.protocol import ClipSpec
from tests.vision.conftest import CONCEPTS, make_clip


def spec(folder: Path, **changes: object) -> ClipSpec:
    values: dict[str, object] = {
        "folder": str(folder),
        "concepts": CONCEPTS,
        "confidence_threshold": 0.0,
        "max_insights": 10,
        "batch_size": 4,
    }
    return ClipSpec.model_validate({**values, **changes})


def picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    return render(seed, size).image


def reference(folder: Path) -> tuple[Any, Any]:
    """The model and its transform, as open_clip makes them."""
    made: Any = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    return made


def as_tensors(preprocess: Preprocess, bgr: np.ndarray) -> torch.Tensor:
    return preprocess([bgr])


def as_arrays(preprocess: Preprocess, bgr: np.ndarray) -> torch.Tensor:
    pictures = torch.from_numpy(preprocess.arrays([bgr])).permute(0, 3, 1, 2).flip(1)
    return preprocess.normalised(pictures)


@pytest.mark.parametrize("way", [as_tensors, as_arrays])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_the_features_are_those_of_open_clips_own_transform(
    tmp_path: Path, resize_mode: str, way: Callable[[Preprocess, np.ndarray], torch.Tensor]
) -> None:
    folder = make_clip(tmp_path / "model", resize_mode, image_size=64)
    preprocess = TorchClip.open(folder, 1).preprocess
    model, transform = reference(folder)
    sizes = [(640, 360), (1920, 1080), (300, 700), (65, 64), (40, 30)]
    for seed, size in enumerate(sizes):
        rgb = picture(seed, size)
        expected = transform(Image.fromarray(rgb)).unsqueeze(0)
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        ours = way(preprocess, bgr)
        assert ours.shape == expected.shape
        with torch.inference_mode():
            a, b = (model.encode_image(x, normalize=True)[0] for x in (ours, expected))
        assert float(a @ b) >= 0.999, size
        # More telling than the features of random weights: the pixels.
        cosine = torch.nn.functional.cosine_similarity(ours.flatten(), expected.flatten(), dim=0)
        assert float(cosine) >= 0.999, size


@pytest.mark.parametrize("size", [(1920, 1080), (1081, 1923), (2560, 1080), (700, 1441)])
def test_a_picture_whose_sides_are_cut_away_first_is_the_same_as_cut_last(
    size: tuple[int, int],
) -> None:
    preprocess = Preprocess({"size": 128, "mean": [0.5] * 3, "std": [0.5] * 3})
    image = whole = picture(7, size)
    while min(whole.shape[:2]) >= 4 * 128:
        half = (whole.shape[1] // 2, whole.shape[0] // 2)
        whole = cv2.resize(whole[: 2 * half[1], : 2 * half[0]], half, interpolation=cv2.INTER_AREA)
    shorter = 128 / min(size)
    width, height = (int(side * shorter) for side in size)
    small = np.asarray(Image.fromarray(whole).resize((width, height), Image.Resampling.BICUBIC))
    top, left = round((height - 128) / 2), round((width - 128) / 2)
    expected = small[top : top + 128, left : left + 128]
    # Pillow rounds between its two passes, which are not about the same rows any more.
    difference = np.abs(preprocess.array(image).astype(int) - expected)
    assert difference.mean() < 0.5
    assert difference.max() <= 8


def test_probabilities_are_those_of_open_clip(clip_folder: Path) -> None:
    rgb = picture(3, (640, 360))
    model, transform = reference(clip_folder)
    tokens = open_clip.get_tokenizer(f"local-dir:{clip_folder}")(list(CONCEPTS))
    with torch.inference_mode():
        image = model.encode_image(transform(Image.fromarray(rgb)).unsqueeze(0), normalize=True)
        text = model.encode_text(tokens, normalize=True)
        expected = (model.logit_scale.exp() * image @ text.T).softmax(-1)[0].numpy()
    labeller = Labeller.load(spec(clip_folder), 1)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    np.testing.assert_allclose(labeller.probabilities([bgr])[0], expected, atol=0.01)


def test_insights_are_ranked_bounded_and_cut(clip_folder: Path) -> None:
    image = picture(4, (320, 180))
    every = Labeller.load(spec(clip_folder), 1).analyse([image, image])
    assert len(every) == 2
    assert {i.text for i in every[0]} == set(CONCEPTS)
    assert sum(i.probability for i in every[0]) == pytest.approx(1.0)
    assert [i.probability for i in every[0]] == sorted(
        (i.probability for i in every[0]), reverse=True
    )

    few = Labeller.load(spec(clip_folder, max_insights=2), 1).analyse([image])[0]
    assert [i.text for i in few] == [i.text for i in every[0][:2]]

    threshold = (every[0][0].probability + every[0][1].probability) / 2
    sure = Labeller.load(spec(clip_folder, confidence_threshold=threshold), 1).analyse([image])[0]
    assert [i.text for i in sure] == [every[0][0].text]


def test_phrases_are_embedded_once(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labeller = Labeller.load(spec(clip_folder), 1)
    calls: list[int] = []
    encode = TorchClip.text

    def counting(clip: TorchClip, phrases: Sequence[str]) -> np.ndarray:
        calls.append(len(phrases))
        return encode(clip, phrases)

    monkeypatch.setattr(TorchClip, "text", counting)
    image = picture(4, (320, 180))
    for _ in range(3):
        labeller.analyse([image])
    assert calls == [len(CONCEPTS)]

    labeller.use_concepts(("a shop screen", CONCEPTS[0]))
    answer = labeller.analyse([image])[0]
    assert {i.text for i in answer} == {"a shop screen", CONCEPTS[0]}
    assert calls == [len(CONCEPTS), 1]


def test_what_is_no_model_is_refused_in_words(tmp_path: Path, clip_folder: Path) -> None:
    with pytest.raises(ModelError, match="is missing"):
        Labeller.load(spec(tmp_path), 1)
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        folder = tmp_path / name
        folder.mkdir()
        for file in clip_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / name).write_bytes(b"\x10\x00\x00\x00 damaged")
        with pytest.raises(ModelError, match="no open_clip model"):
            Labeller.load(spec(folder), 1)


def test_only_the_pinned_weights_are_opened(clip_folder: Path) -> None:
    with pytest.raises(ModelError, match="not the file it should be"):
        Labeller.load(spec(clip_folder, sha256="f" * 64), 1)
