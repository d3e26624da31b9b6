"""Watches: tell when a phrase or a class appears, once, and not for a flicker.

``Watch`` is the debouncing alone, without clock or chat; ``WatchDesk`` feeds watches with reports
and asks CLIP for phrases that are not among the profile's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from bot.chat_state import Entry
from bot.vision.asking import Scores
from bot.vision.reports import FrameReport

log = logging.getLogger(__name__)

SUSTAIN_SECONDS = 2.0
"""So long it must be there before it is told."""
GONE_SECONDS = 5.0
"""So long it must be away before that is told."""
COOLDOWN_SECONDS = 60.0
"""When it comes back sooner, that is told in the same message, not in a new one."""
SCORING_SECONDS = 2.0
"""Least time between two questions to CLIP."""
TELLING_SECONDS = 5.0
"""Least time between two edits of one message, but for coming and going."""
DEVELOPED_BY = 0.05
"""A new highest score is told when it is higher by this."""
MOST_WATCHES = 20

Kind = Literal["class", "phrase"]
KEPT = (
    "number",
    "what",
    "kind",
    "channel_id",
    "guild_id",
    "author_id",
    "present",
    "episode",
    "times",
    "since",
    "best",
    "message_id",
)
"""What of a watch outlives a restart."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Scores from which something counts as there, and below which as gone."""

    enter: float
    leave: float


BY_CLASS = Limits(1e-9, 1e-9)
"""YOLO reports only what is above its own threshold."""
BY_INSIGHT = Limits(0.5, 0.35)
"""A phrase of the profile: its share among the profile's phrases."""
BY_SCORE = Limits(0.7, 0.5)
"""Any other phrase: against the neutral background, see ``asking``."""


@dataclass(slots=True)
class Watch:
    """One thing that somebody wants to be told about, and how that stands."""

    number: int
    what: str
    kind: Kind
    channel_id: int
    guild_id: int | None
    author_id: int
    present: bool = False
    episode: int = 0
    """Counts the messages: grows when it appears after the cooldown."""
    times: int = 0
    """How often it appeared in this episode."""
    since: float = 0.0
    """When it appeared or went, unix time."""
    best: float = 0.0
    """The highest score of this episode."""
    message_id: int | None = None
    """The message that tells of this episode, once there is one."""
    version: int = 0
    """Grows whenever there is something to tell."""
    _candidate_since: float | None = None
    _told_best: float = 0.0
    _told_at: float = 0.0

    @property
    def entry(self) -> Entry:
        """What has to outlive a restart, as JSON values."""
        return {name: getattr(self, name) for name in KEPT}

    @classmethod
    def recalled(cls, entry: Entry) -> Watch:
        """The watch of an ``entry``. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        if entry["kind"] not in ("class", "phrase") or not str(entry["what"]):
            raise ValueError(f"{entry['kind']!r}: {entry['what']!r}")
        server, message = entry["guild_id"], entry["message_id"]
        return cls(
            number=int(entry["number"]),
            what=str(entry["what"]),
            kind=entry["kind"],
            channel_id=int(entry["channel_id"]),
            guild_id=None if server is None else int(server),
            author_id=int(entry["author_id"]),
            present=bool(entry["present"]),
            episode=int(entry["episode"]),
            times=int(entry["times"]),
            since=float(entry["since"]),
            best=float(entry["best"]),
            message_id=None if message is None else int(message),
        )

    def observe(self, now: float, score: float, limits: Limits) -> bool:
        """Take one score (0 to 1) at a unix time; whether there is news."""
        if not self.present:
            return self._maybe_appear(now, score, limits)
        if score > self.best:
            self.best = score
        if score < limits.leave:
            if self._candidate_since is None:
                self._candidate_since = now
            if now - self._candidate_since < GONE_SECONDS:
                return False
            self.present, self.since = False, self._candidate_since
            self._candidate_since = None
            return self._news(now)
        self._candidate_since = None
        grown = self.best - self._told_best >= DEVELOPED_BY
        return grown and now - self._told_at >= TELLING_SECONDS and self._news(now)

    def _maybe_appear(self, now: float, score: float, limits: Limits) -> bool:
        if score < limits.enter:
            self._candidate_since = None
            return False
        if self._candidate_since is None:
            self._candidate_since = now
        if now - self._candidate_since < SUSTAIN_SECONDS:
            return False
        if self.episode == 0 or self._candidate_since - self.since > COOLDOWN_SECONDS:
            self.episode += 1
            self.times, self.best, self.message_id = 0, 0.0, None
        self.present, self.since = True, self._candidate_since
        self._candidate_since = None
        self.times += 1
        self.best = max(self.best, score)
        return self._news(now)

    def lost_sight(self, now: float) -> bool:
        """Nothing is looked at any more; whether there is news."""
        self._candidate_since = None
        if not self.present:
            return False
        self.present, self.since = False, now
        return self._news(now)

    def _news(self, now: float) -> bool:
        self.version += 1
        self._told_best, self._told_at = self.best, now
        return True


class Seer(Protocol):
    """What a desk needs of ``VisionPipeline``."""

    @property
    def concepts(self) -> tuple[str, ...]: ...

    async def score(self, phrases: Sequence[str]) -> Scores: ...


class TooManyWatches(Exception):
    """There are as many as there may be; says what to do."""


@dataclass(slots=True)
class WatchDesk:
    """All watches of a bot. Runs on the event loop."""

    seer: Seer
    spawn: Callable[[Coroutine[Any, Any, None], str], object]
    """Runs something in the background."""
    tell: Callable[[Watch], Coroutine[Any, Any, None]]
    """Called, in the background, whenever a watch has news."""
    watches: dict[int, Watch] = field(default_factory=dict[int, Watch])
    trouble: str = ""
    """Why phrases can't be scored at present."""
    _next: int = 1
    _scored_at: float = float("-inf")
    _scoring: bool = False

    def add(
        self, what: str, kind: Kind, *, channel_id: int, guild_id: int | None, author_id: int
    ) -> Watch:
        """A new watch, or the one there is for the same thing in the same channel.

        Raises:
            TooManyWatches: there are ``MOST_WATCHES`` already.
        """
        for watch in self.watches.values():
            if (watch.what.casefold(), watch.channel_id) == (what.casefold(), channel_id):
                return watch
        if len(self.watches) >= MOST_WATCHES:
            raise TooManyWatches(
                f"{MOST_WATCHES} things are watched already; remove one with `vision watch remove`"
            )
        watch = Watch(self._next, what, kind, channel_id, guild_id, author_id)
        self._next += 1
        self.watches[watch.number] = watch
        return watch

    def recall(self, entries: Iterable[Entry], now: float) -> None:
        """Take up what an earlier run watched for: nothing of it is in sight yet."""
        for entry in entries:
            try:
                watch = Watch.recalled(entry)
            except (KeyError, TypeError, ValueError) as error:
                log.warning("a watch that makes no sense is left out: %s (%r)", entry, error)
                continue
            self.watches[watch.number] = watch
            self._next = max(self._next, watch.number + 1)
        self.blind(now)

    def heard(self, report: FrameReport) -> None:
        """Take a frame's report; to be subscribed to the pipeline."""
        if not self.watches:
            return
        now = report.captured_at
        concepts = self.seer.concepts
        insights = {i.text: i.probability for i in report.insights}
        to_score: list[str] = []
        for watch in tuple(self.watches.values()):
            if watch.kind == "class":
                seen = (d.confidence for d in report.detections if d.label == watch.what)
                self._observe(watch, now, max(seen, default=0.0), BY_CLASS)
            elif watch.what in concepts:
                self._observe(watch, now, insights.get(watch.what, 0.0), BY_INSIGHT)
            else:
                to_score.append(watch.what)
        if to_score and not self._scoring and now - self._scored_at >= SCORING_SECONDS:
            self._scoring, self._scored_at = True, now
            self.spawn(self._score(tuple(dict.fromkeys(to_score))), "scoring watched phrases")

    def blind(self, now: float) -> None:
        """Vision was stopped: what was there is not seen any more."""
        for watch in tuple(self.watches.values()):
            if watch.lost_sight(now):
                self.spawn(self.tell(watch), "telling about a watch")

    def _observe(self, watch: Watch, now: float, score: float, limits: Limits) -> None:
        if watch.observe(now, score, limits):
            self.spawn(self.tell(watch), "telling about a watch")

    async def _score(self, phrases: tuple[str, ...]) -> None:
        from bot.vision.pipeline import VisionUnavailable

        try:
            scores = await self.seer.score(phrases)
        except VisionUnavailable as error:
            if str(error) != self.trouble:
                log.info("watched phrases can't be scored: %s", error)
            self.trouble = str(error)
            return
        finally:
            self._scoring = False
        self.trouble = ""
        for watch in tuple(self.watches.values()):
            if watch.kind == "phrase" and watch.what in scores.probabilities:
                score = scores.probabilities[watch.what]
                self._observe(watch, scores.report.captured_at, score, BY_SCORE)
