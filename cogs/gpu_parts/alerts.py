"""Alerts in chat: one message for each, edited as things develop, resolved at the end."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import discord
from discord.ext import commands, tasks

from cogs import texts
from cogs.embeds import CALM, FAILED, TIGHT, fitted, sentence, shortened
from cogs.standing import ChannelGone, Face, StandingMessage
from cogs.usage import Misuse
from danzar_gpu.alerts import (
    LEVELS,
    TIMINGS,
    Alert,
    AlertBook,
    Condition,
    Kind,
    Lent,
    Level,
    conditions,
)
from danzar_gpu.choices import OFFLOAD
from danzar_gpu.manager import HISTORY_DAMAGED as LOST
from danzar_gpu.manager import NOT_KEPT
from danzar_gpu.report import age_text

if TYPE_CHECKING:
    from bot.chat_state import ChatState, Entry
    from cogs.host import Host

log = logging.getLogger(__name__)

SECTION = "alerts"
LOOP_SECONDS = 5.0
EVENT_SHOWN_SECONDS = 60.0
"""What is over as soon as it happened is told as long."""
DEVELOPMENTS = 5
GRAVE: frozenset[Kind] = LEVELS["critical"]


@dataclass(slots=True)
class Told:
    """One alert in one channel."""

    alert: Alert
    message: StandingMessage
    developments: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])


@dataclass(slots=True)
class Listener:
    """A channel that wants alerts."""

    channel_id: int
    level: Level = "all"
    muted_until: float = 0.0
    """Unix time; infinite: until it is unmuted."""
    role_id: int | None = None
    """Mentioned when an alert opens, if somebody asked for that."""
    told: dict[str, Told] = field(default_factory=dict[str, Told])

    @property
    def entry(self) -> Entry:
        return {
            "level": self.level,
            "muted_until": self.muted_until,
            "role": self.role_id,
            "told": {
                key: {
                    "kind": told.alert.kind,
                    "text": told.alert.text,
                    "opened_at": told.alert.opened_at,
                    "message": told.message.message_id,
                }
                for key, told in self.told.items()
            },
        }


class AlertDesk:
    """Watches the readings and tells the channels that asked. ``start``, ``stop`` with the cog."""

    def __init__(self, bot: commands.Bot, host: Host, chats: ChatState) -> None:
        self._bot = bot
        self._host = host
        self._chats = chats
        self._book = AlertBook()
        self.listeners: dict[int, Listener] = {}
        self._seen_at = 0.0
        self._happened: dict[str, tuple[float, str]] = {}
        """When an event of a kind was seen last, and its text."""

    def start(self) -> None:
        """Take up what an earlier run was told and had open."""
        for key, entry in self._chats.section(SECTION).items():
            try:
                self._recall(int(key), entry)
            except (KeyError, TypeError, ValueError) as error:
                log.warning("alerts of channel %s make no sense and are left out: %s", key, error)
        found = {k: t.alert for one in self.listeners.values() for k, t in one.told.items()}
        self._book.restore(found.values(), now())
        events = self._host.manager.events
        self._seen_at = events[-1].at if events else 0.0
        # A damaged file is found at the start, before anybody is here to be told.
        self._happened |= {e.kind: (now(), e.text) for e in events if e.kind == LOST}
        self.watcher.start()

    def stop(self) -> None:
        self.watcher.cancel()

    def _recall(self, channel_id: int, entry: Entry) -> None:
        level = entry["level"]
        if level not in LEVELS:
            raise ValueError(f"level {level!r}")
        role = entry.get("role")
        listener = Listener(channel_id, level, float(entry["muted_until"]), role)
        for key, told in cast("dict[str, dict[str, Any]]", entry.get("told", {})).items():
            if told["kind"] not in TIMINGS:
                raise ValueError(f"kind {told['kind']!r}")
            alert = Alert(key, told["kind"], str(told["text"]), float(told["opened_at"]))
            message = self._message(listener, key, told["message"])
            listener.told[key] = Told(alert, message, [(alert.opened_at, alert.text)])
        self.listeners[channel_id] = listener

    # What people ask for

    async def listen(self, channel_id: int, role_id: int | None) -> Listener:
        listener = self.listeners.setdefault(channel_id, Listener(channel_id))
        listener.role_id = role_id
        await self._save(listener)
        return listener

    async def leave(self, channel_id: int) -> bool:
        """Whether the channel had alerts. Messages that are up stay as they are."""
        if self.listeners.pop(channel_id, None) is None:
            return False
        await self._chats.remove(SECTION, str(channel_id))
        return True

    async def set_level(self, listener: Listener, level: Level) -> None:
        listener.level = level
        await self._save(listener)

    async def mute(self, listener: Listener, seconds: float) -> None:
        """No new alerts for so long; 0 ends it. Those that are up are still brought to an end."""
        listener.muted_until = now() + seconds if seconds else 0.0
        await self._save(listener)

    def is_muted(self, listener: Listener) -> bool:
        return now() < listener.muted_until

    @property
    def open(self) -> tuple[Alert, ...]:
        return self._book.open

    # Watching

    @tasks.loop(seconds=LOOP_SECONDS)
    async def watcher(self) -> None:
        try:
            await self.look()
        except Exception:
            log.exception("watching for alerts failed; the next look is in %g s", LOOP_SECONDS)

    @watcher.before_loop
    async def _connected(self) -> None:
        await self._bot.wait_until_ready()

    async def look(self) -> None:
        """One look at the newest reading; then each channel's messages are brought up to date."""
        at = now()
        found = self.conditions(at)
        ended: dict[str, Alert] = {}
        for change, alert in self._book.observe(found, at):
            log.info("alert %s: %s", change, alert.text)
            if change == "resolved":
                ended[alert.key] = alert
        open_now = {alert.key: alert for alert in self._book.open}
        for listener in tuple(self.listeners.values()):
            try:
                await self._tell(listener, open_now, ended, at)
            except ChannelGone as gone:
                log.warning("channel %d is gone, no more alerts: %s", listener.channel_id, gone)
                await self.leave(listener.channel_id)

    def conditions(self, at: float) -> list[Condition]:
        """What is wrong now."""
        manager = self._host.manager
        self._hear(at)
        by_hand = {c.key.removeprefix(OFFLOAD) for c in manager.choices.made if OFFLOAD in c.key}
        leases = [
            Lent(lease.name, lease.device, lease.reason)
            for lease in manager.leases
            if lease.name not in by_hand  # somebody wanted it there
        ]
        hot = {a.key.removeprefix("hot:") for a in self._book.open if a.kind == "hot"}
        # Without the poller the figures are nobody's news.
        snapshot = manager.snapshot if manager.monitoring_enabled else None
        return conditions(
            snapshot,
            manager.rooms() if snapshot is not None else {},
            leases,
            manager.config,
            driver_error=manager.last_error,
            worker_error=self._worker_error(at),
            storage_error=NOT_KEPT if manager.storage_trouble else self._recent(LOST, at),
            hot_now=frozenset(hot),
        )

    def _hear(self, at: float) -> None:
        for event in self._host.manager.events:
            if event.at > self._seen_at:
                self._seen_at = event.at
                self._happened[event.kind] = (at, event.text)

    def _recent(self, kind: str, at: float) -> str | None:
        seen_at, text = self._happened.get(kind, (float("-inf"), ""))
        return text if at - seen_at <= EVENT_SHOWN_SECONDS else None

    def _worker_error(self, at: float) -> str | None:
        vision = self._host.vision
        if vision is not None and vision.state == "failed":
            failed = texts.ALERT_WORKER_FAILED.format(prefix=self._host.prefix)
            return vision.state_reason or failed
        fell = self._recent("holder-gone", at)
        return None if fell is None else texts.ALERT_WORKER_AGAIN.format(reason=fell)

    # Telling

    async def _tell(
        self, listener: Listener, open_now: dict[str, Alert], ended: dict[str, Alert], at: float
    ) -> None:
        before = listener.entry
        for key, alert in open_now.items():
            told = listener.told.get(key)
            if told is None:
                if alert.kind not in LEVELS[listener.level] or self.is_muted(listener):
                    continue
                told = listener.told[key] = Told(alert, self._message(listener, key, None))
            if not told.developments or told.developments[-1][1] != alert.text:
                told.developments.append((at, alert.text))
                del told.developments[1:-DEVELOPMENTS]
            told.alert = alert
        for key, told in tuple(listener.told.items()):
            over = ended.get(key)
            if over is not None:
                told.alert = over
            elif key not in open_now and told.alert.resolved_at is None:
                continue
            shown = await told.message.keep(self.face(listener, told))
            if shown and told.alert.resolved_at is not None:
                del listener.told[key]
        if listener.entry != before:
            await self._save(listener)

    def _message(self, listener: Listener, key: str, message_id: int | None) -> StandingMessage:
        return StandingMessage(
            self._bot, listener.channel_id, mark_of(key), message_id, repost=False
        )

    def face(self, listener: Listener, told: Told) -> Face:
        alert = told.alert
        opened, over = alert.opened_at, alert.resolved_at
        grave, prefix = alert.kind in GRAVE, self._host.prefix
        text = sentence(shortened(alert.text, 1500), prefix)
        if over is not None:
            text = texts.ALERT_LAST.format(text=text)
            title = texts.ALERT_OVER.format(kind=texts.ALERT_KINDS[alert.kind])
            when = texts.ALERT_SPAN.format(opened=opened, over=over, age=age_text(over - opened))
            colour = CALM
        else:
            template = texts.ALERT_GRAVE if grave else texts.ALERT_PLAIN
            title = template.format(title=texts.ALERT_TITLES[alert.kind])
            when = texts.ALERT_SINCE.format(opened=opened)
            text = f"{text}\n{texts.ALERT_ADVICE[alert.kind].format(prefix=prefix)}"
            colour = FAILED if grave else TIGHT
        embed = discord.Embed(
            title=self._host.titled(title),
            description=text,
            colour=colour,
        )
        embed.add_field(name=texts.ALERT_WHEN, value=when, inline=False)
        if len(told.developments) > 1:
            lines = [
                texts.ALERT_STEP.format(at=at, text=sentence(shortened(text, 150), prefix))
                for at, text in told.developments
            ]
            embed.add_field(name=texts.ALERT_HOW, value=fitted(lines), inline=False)
        mark = mark_of(alert.key)
        footer = texts.ALERT_FOOTER.format(mark=mark, prefix=prefix)
        embed.set_footer(text=footer if over is None else mark)
        if listener.role_id is None or over is not None:
            return Face(embed, worth_posting=over is None)
        role = discord.Object(listener.role_id)
        return Face(
            embed,
            content=f"<@&{listener.role_id}>",
            allowed_mentions=discord.AllowedMentions(
                everyone=False, users=False, roles=[role], replied_user=False
            ),
        )

    async def _save(self, listener: Listener) -> None:
        await self._chats.put(SECTION, str(listener.channel_id), listener.entry)


def mark_of(key: str) -> str:
    """A short name for an alert, the same each time: its footer."""
    return texts.ALERT_MARK.format(mark=hashlib.sha256(key.encode()).hexdigest()[:6])


def now() -> float:
    """Unix time, by discord.py's clock."""
    return discord.utils.utcnow().timestamp()


def level_words(level: Level) -> str:
    """What a level tells about."""
    return ", ".join(words for kind, words in texts.ALERT_KINDS.items() if kind in LEVELS[level])


def duration(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``2h``, ``1d``, or ``0``. Raises ``Misuse``."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    bare = text.strip().lower()
    if bare in ("0", "off"):
        return 0.0
    number, unit = bare[:-1], bare[-1:]
    if unit in units and number.isdecimal() and 0 < int(number) * units[unit] <= 30 * 86400:
        return float(int(number) * units[unit])
    raise Misuse(texts.NO_DURATION.format(text=shortened(text, 20)))
