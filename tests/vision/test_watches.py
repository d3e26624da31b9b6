"""Watches and the timeline: told once, not for a flicker."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from bot.vision.asking import Scores
from bot.vision.pipeline import VisionUnavailable
from bot.vision.reports import Detection, FrameReport, Insight
from bot.vision.timeline import Timeline
from bot.vision.watches import (
    BY_SCORE,
    COOLDOWN_SECONDS,
    GONE_SECONDS,
    MOST_WATCHES,
    TooManyWatches,
    Watch,
    WatchDesk,
)


def report(now: float, *labels: str, **insights: float) -> FrameReport:
    return FrameReport(
        sequence=round(now * 10),
        captured_at=now,
        source="scene",
        width=64,
        height=48,
        devices={"yolo": "cpu"},
        detections=tuple(Detection(label, 0.8, (0, 0, 9, 9)) for label in labels),
        insights=tuple(Insight(t.replace("_", " "), p) for t, p in insights.items()),
    )


def watch() -> Watch:
    return Watch(1, "low health", "phrase", 5, 6, 7)


def feed(w: Watch, scores: Sequence[tuple[float, float]]) -> list[float]:
    """The times of those scores that were news."""
    return [now for now, score in scores if w.observe(now, score, BY_SCORE)]


def test_a_flicker_is_not_told() -> None:
    w = watch()
    assert feed(w, [(t, 0.9 if t % 2 else 0.1) for t in range(60)]) == []
    assert not w.present


def test_what_stays_is_told_once_and_its_end_once() -> None:
    w = watch()
    assert feed(w, [(t, 0.8) for t in range(10)]) == [2]
    assert w.present
    assert w.since == 0, "since it was first seen"
    # Away for a moment only: no news.
    assert feed(w, [(10, 0.1), (11, 0.1), (12, 0.8)]) == []
    assert feed(w, [(t, 0.1) for t in range(13, 25)]) == [13 + GONE_SECONDS]
    assert not w.present
    assert w.since == 13


def test_between_the_thresholds_nothing_changes() -> None:
    w = watch()
    assert feed(w, [(t, 0.6) for t in range(10)]) == []
    feed(w, [(t, 0.8) for t in range(10, 20)])
    assert feed(w, [(t, 0.6) for t in range(20, 60)]) == []
    assert w.present


def test_a_return_within_the_cooldown_belongs_to_the_same_message() -> None:
    w = watch()
    feed(w, [(t, 0.8) for t in range(5)])
    feed(w, [(t, 0.0) for t in range(5, 15)])
    feed(w, [(t, 0.9) for t in range(15, 20)])
    assert (w.episode, w.times, w.present) == (1, 2, True)
    feed(w, [(t, 0.0) for t in range(20, 30)])
    late = 20 + COOLDOWN_SECONDS + 5
    feed(w, [(late + t, 0.9) for t in range(5)])
    assert (w.episode, w.times) == (2, 1)


def test_a_rising_score_is_told_but_not_too_often() -> None:
    w = watch()
    assert feed(w, [(t, 0.71) for t in range(4)]) == [2]
    rising = [(4 + t / 2, min(0.99, 0.71 + t / 100)) for t in range(60)]
    news = feed(w, rising)
    assert news
    assert all(b - a >= 5 for a, b in zip([2, *news], news, strict=False))
    assert w.best == 0.99


class ScriptedSeer:
    def __init__(self) -> None:
        self.concepts = ("a boss fight", "low health")
        self.asked: list[tuple[str, ...]] = []
        self.score_now = 0.9
        self.fault = ""
        self.now = 0.0

    async def score(self, phrases: Sequence[str]) -> Scores:
        self.asked.append(tuple(phrases))
        if self.fault:
            raise VisionUnavailable(self.fault)
        return Scores(dict.fromkeys(phrases, self.score_now), report(self.now), "cpu", 1.0)


class Bench:
    """A desk whose background work is done when a test says so."""

    def __init__(self) -> None:
        self.seer = ScriptedSeer()
        self.waiting: list[Coroutine[Any, Any, None]] = []
        self.told: list[tuple[str, bool]] = []
        self.desk = WatchDesk(self.seer, lambda work, _: self.waiting.append(work), self._tell)

    async def _tell(self, w: Watch) -> None:
        self.told.append((w.what, w.present))

    def watch(self, what: str, kind: Any = "phrase") -> Watch:
        return self.desk.add(what, kind, channel_id=1, guild_id=2, author_id=3)

    async def see(self, *reports: FrameReport) -> None:
        for r in reports:
            self.seer.now = r.captured_at
            self.desk.heard(r)
            while self.waiting:
                await self.waiting.pop(0)


async def test_a_class_and_a_phrase_of_the_profile_cost_no_question() -> None:
    bench = Bench()
    bench.watch("boss", "class")
    bench.watch("low health")
    await bench.see(*(report(t, "boss", low_health=0.8) for t in range(4)))
    assert bench.told == [("boss", True), ("low health", True)]
    await bench.see(*(report(t, "enemy", low_health=0.3) for t in range(4, 12)))
    assert bench.told[2:] == [("boss", False), ("low health", False)]
    assert bench.seer.asked == []


async def test_other_phrases_are_asked_together_and_not_for_every_frame() -> None:
    bench = Bench()
    bench.watch("a dragon")
    bench.watch("rain")
    await bench.see(*(report(t / 10) for t in range(61)))
    assert bench.seer.asked == [("a dragon", "rain")] * 4
    assert bench.told == [("a dragon", True), ("rain", True)]


async def test_without_clip_the_desk_says_why_and_goes_on() -> None:
    bench = Bench()
    bench.watch("a dragon")
    bench.seer.fault = "CLIP does not run"
    await bench.see(report(0), report(3))
    assert bench.desk.trouble == "CLIP does not run"
    bench.seer.fault = ""
    await bench.see(report(6), report(9))
    assert bench.desk.trouble == ""
    assert bench.told == [("a dragon", True)]


async def test_when_vision_stops_what_was_there_is_gone() -> None:
    bench = Bench()
    bench.watch("boss", "class")
    await bench.see(*(report(t, "boss") for t in range(4)))
    bench.desk.blind(9.0)
    while bench.waiting:
        await bench.waiting.pop(0)
    assert bench.told == [("boss", True), ("boss", False)]


def test_the_same_thing_is_watched_once_and_not_without_end() -> None:
    bench = Bench()
    assert bench.watch("boss", "class") is bench.watch("Boss", "class")
    for n in range(MOST_WATCHES - 1):
        bench.watch(f"thing {n}")
    with pytest.raises(TooManyWatches, match="watch remove"):
        bench.watch("one more")


def test_the_timeline_has_moments_instead_of_reports() -> None:
    timeline = Timeline()
    for t in range(20):
        timeline.add(report(t / 2, "enemy", exploring=0.6, a_boss_fight=0.2))
    timeline.add(report(10, exploring=0.1, a_boss_fight=0.5))  # a flicker
    timeline.add(report(10.5, exploring=0.7))
    for t in range(22, 40):
        timeline.add(report(t / 2, "boss", "enemy", "enemy", a_boss_fight=0.5 + t / 100))
    exploring, fight = timeline.moments
    assert (exploring.phrase, exploring.began, exploring.ended) == ("exploring", 0, 11)
    assert exploring.probability == 0.7
    assert exploring.objects == {"enemy": 1}
    assert (fight.phrase, fight.began, fight.ended) == ("a boss fight", 11, 19.5)
    assert fight.objects == {"boss": 1, "enemy": 2}
    assert fight.probability == pytest.approx(0.89)


def test_the_timeline_knows_when_nothing_was_certain() -> None:
    timeline = Timeline()
    for t in range(6):
        timeline.add(report(t, low_health=0.9))
    for t in range(6, 12):
        timeline.add(report(t))
    assert [m.phrase for m in timeline.moments] == ["low health", ""]
