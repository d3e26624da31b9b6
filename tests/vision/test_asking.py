"""Any phrase against a frame: the words, the number, and a real model's answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bot.vision.asking import BACKGROUND, certainty, phrase_of, probability
from bot.vision.pipeline import VisionUnavailable
from bot.vision.scene import render
from bot.vision.worker.backends.torch_clip import TorchClip
from bot.vision.worker.labeller import Labeller
from tests.vision.running import running, settings_for, until
from tests.vision.test_labeller import spec


@pytest.mark.parametrize(
    ("question", "phrase"),
    [
        ('"is the boss near death?"', "the boss is near death"),
        ("Is  the boss\nnear death", "the boss is near death"),
        ("“low health?”", "low health"),
        ("Is there a minimap?", "a minimap"),
        ("are enemies nearby?", "enemies are nearby"),
        ("a shop screen", "a shop screen"),
        ("can fish", "can fish"),
        ("?!", ""),
        ("x" * 500, "x" * 200),
    ],
)
def test_a_question_becomes_a_caption(question: str, phrase: str) -> None:
    assert phrase_of(question) == phrase


def test_probability_and_its_word() -> None:
    assert probability(0) == 0.5
    assert probability(math.log(3)) == pytest.approx(0.75)
    assert (probability(-800), probability(800)) == (0.0, 1.0)
    words = [certainty(p) for p in (1.0, 0.85, 0.7, 0.5, 0.346, 0.2, 0.0)]
    assert words == ["yes", "yes", "likely", "unclear", "unclear", "unlikely", "no"]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many phrases were encoded, call by call."""
    calls: list[int] = []
    encode = TorchClip.text

    def counting(clip: TorchClip, phrases: Sequence[str]) -> np.ndarray:
        calls.append(len(phrases))
        return encode(clip, phrases)

    monkeypatch.setattr(TorchClip, "text", counting)
    return calls


def test_a_phrase_competes_with_the_best_neutral_one(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeller = Labeller.load(spec(clip_folder), 1)
    image = np.ascontiguousarray(render(3, (320, 180)).image[..., ::-1])
    calls = counted(monkeypatch)
    odds = labeller.log_odds(image, ("low health", BACKGROUND[0]), BACKGROUND)
    again = labeller.log_odds(image, ("low health",), BACKGROUND)
    assert again[0] == pytest.approx(odds[0], abs=1e-4)
    assert calls == [1 + len(BACKGROUND)], "each phrase is embedded once"
    neutral = labeller.log_odds(image, BACKGROUND, BACKGROUND)
    assert max(neutral) == 0.0, "the best of the background is worth even odds"
    assert odds[1] == pytest.approx(neutral[0], abs=1e-4)


def test_what_is_asked_is_not_remembered_for_ever(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.vision.worker.phrases.KEPT", 12)
    labeller = Labeller.load(spec(clip_folder), 1)
    image = np.zeros((64, 64, 3), np.uint8)
    calls = counted(monkeypatch)
    for n in range(20):
        labeller.log_odds(image, (f"phrase {n}",), BACKGROUND)
    assert calls == [1 + len(BACKGROUND), *[1] * 19], "the background is not forgotten"
    labeller.log_odds(image, ("phrase 19", "phrase 0"), BACKGROUND)
    assert calls[20:] == [1], "the newest is known, the oldest was forgotten"


async def test_a_phrase_is_scored_by_the_worker(yolo_file: Path, clip_folder: Path) -> None:
    settings = settings_for(yolo_file, clip_folder, yolo={"enabled": False})
    async with running(settings, start=False) as pipeline:
        with pytest.raises(VisionUnavailable, match="!vision start"):
            await pipeline.score(("low health",))
        await pipeline.start()
        await until(lambda: pipeline.latest and pipeline.latest.insights, "a frame with insights")
        scores = await pipeline.score(("low health", "a shop screen"))
        assert list(scores.probabilities) == ["low health", "a shop screen"]
        assert all(0 < p < 1 for p in scores.probabilities.values())
        assert scores.report.source == "scene"
        assert scores.device == pipeline.services["clip"].device
        await pipeline.unload("clip")
        with pytest.raises(VisionUnavailable, match="CLIP does not run"):
            await pipeline.score(("low health",))


async def test_chosen_phrases_outlive_the_worker(yolo_file: Path, clip_folder: Path) -> None:
    settings = settings_for(yolo_file, clip_folder, yolo={"enabled": False})
    chosen = ("a shop screen", "a world map")
    async with running(settings) as pipeline:
        await until(lambda: pipeline.services["clip"].state == "running", "CLIP")
        await pipeline.use_concepts(chosen)
        await pipeline.stop()
        await pipeline.start()
        seen = await until(lambda: pipeline.latest and pipeline.latest.insights, "insights")
        assert {i.text for i in seen} == set(chosen) == set(pipeline.concepts)
