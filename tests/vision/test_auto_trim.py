"""Unused memory goes back when its card is short: when, and what is recorded of it."""

from __future__ import annotations

from typing import Any, cast

from bot.vision.reports import PipelineCounts
from bot.vision.trimming import Trimmer
from bot.vision.worker.handle import WorkerGone
from bot.vision.worker.protocol import Held, Pong
from danzar_gpu.trimming import LONGEST_PAUSE_SECONDS, PAUSE_SECONDS, Slack, TrimGuard
from tests.gpu_memory.rig import Card, Rig, gb


def pong(reserved: float, active: float, splits: float = 0.0, index: int = 1) -> Pong:
    held = Held(
        index=index,
        reserved_bytes=gb(reserved),
        active_bytes=gb(active),
        inactive_split_bytes=gb(splits),
    )
    return Pong(busy_seconds=0, counts=PipelineCounts(), held=(held,))


class Worker:
    """Holds ``after`` once it was trimmed."""

    def __init__(self, after: Pong | None) -> None:
        self.after = after
        self.trims = 0

    async def ask(self, request: Any, answer: Any, *, timeout: float) -> tuple[Pong, bytes]:
        if self.after is None:
            raise WorkerGone("dead")
        self.trims += 1
        return self.after, b""


def tight() -> Rig:
    """Card 1 has 0.3 GB left."""
    return Rig(Card("A", programs={"x": 11.9}), Card("B", programs={"game": 11.7}))


async def test_a_short_card_gets_its_unused_memory_back_and_it_is_recorded() -> None:
    async with tight() as rig:
        trimmer = Trimmer(rig.manager, rig.clock)
        worker = Worker(pong(0.5, 0.4, 0.05))
        after = await trimmer.trim(cast("Any", worker), pong(1.0, 0.4, 0.05))
        assert after == worker.after
        (words,) = rig.events("trimmed")
        assert words == (
            "Device 1 (B) is short (0.30GB left beyond what is promised), and 0.55GB of 1.00GB "
            "that vision holds there are unused: 0.50GB went back in 0.00 s, 0.05GB are in "
            "pieces that can't"
        )
        (record,) = (await rig.manager.records.read()).moves
        assert (record.kind, record.bytes, record.device_name) == ("trim", gb(0.5), "B")
        # At once again would only cost.
        assert await trimmer.trim(cast("Any", worker), pong(1.0, 0.4)) is None
        rig.now += PAUSE_SECONDS + 1
        assert await trimmer.trim(cast("Any", worker), pong(1.0, 0.4)) is not None


async def test_nothing_is_trimmed_without_need_or_worth() -> None:
    async with Rig() as rig:  # the guide's example: card 1 has 9.9 GB left
        worker = Worker(pong(0.4, 0.4))
        assert await Trimmer(rig.manager).trim(cast("Any", worker), pong(1.0, 0.4)) is None
    async with tight() as rig:
        trimmer = Trimmer(rig.manager)
        assert await trimmer.trim(cast("Any", worker), pong(0.43, 0.4)) is None
        # Pieces of blocks in use can't go back, however many they are.
        assert await trimmer.trim(cast("Any", worker), pong(1.0, 0.4, 0.58)) is None
        assert worker.trims == 0


async def test_a_worker_that_dies_meanwhile_is_no_trouble_here() -> None:
    async with tight() as rig:
        assert await Trimmer(rig.manager).trim(cast("Any", Worker(None)), pong(1.0, 0.4)) is None
        assert rig.events("trimmed") == []


async def test_who_gives_little_is_asked_more_and_more_rarely() -> None:
    async with tight() as rig:
        room = rig.manager.rooms()[1]
        guard, now, pauses = TrimGuard(), 0.0, []
        before = Slack(1, gb(1.0), gb(0.4), 0)
        for _ in range(8):
            assert guard.due(before, room, rig.manager.config, now)
            guard.trimmed(before, before, now)
            began = now
            while not guard.due(before, room, rig.manager.config, now):
                now += 1
            pauses.append(now - began)
        assert pauses[0] == 2 * PAUSE_SECONDS
        assert pauses == sorted(pauses)
        assert pauses[-1] == LONGEST_PAUSE_SECONDS
        guard.trimmed(before, Slack(1, gb(0.4), gb(0.4), 0), now)
        assert guard.due(before, room, rig.manager.config, now + PAUSE_SECONDS)
