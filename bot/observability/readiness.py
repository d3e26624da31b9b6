"""Does the bot do its work? The one judgement behind ``/readyz`` and ``danzar_check_ok``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bot.context import AppContext

GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    words: str


def readiness(context: AppContext) -> list[Check]:
    """Does it do its work?"""
    return [
        _gateway(context),
        *([] if context.demo else [_heartbeat(context)]),
        _reading(context),
        _vision(context),
        _storage(context),
    ]


def _gateway(context: AppContext) -> Check:
    client = context.client
    if client is None:
        return Check("gateway", False, "the bot is being made")
    where = "the chat page" if context.demo else "Discord"
    if client.online:
        return Check("gateway", True, f"connected with {where}")
    return Check("gateway", False, f"not connected with {where}")


def _heartbeat(context: AppContext) -> Check:
    latency = math.nan if context.client is None else context.client.latency
    if math.isfinite(latency):
        return Check("heartbeat", True, f"Discord answered in {latency * 1000:.0f} ms")
    return Check("heartbeat", False, "Discord has not answered a heartbeat yet")


def _reading(context: AppContext) -> Check:
    manager = context.gpu_memory_manager
    age = manager.reading_age
    why = f": {manager.last_error}" if manager.last_error else ""
    if age is None:
        return Check("reading", False, f"GPU memory was never read{why}")
    words = f"GPU memory was read {age:.0f} s ago{why}"
    if not manager.monitoring_enabled:
        return Check("reading", True, f"monitoring is off by choice; {words}")
    config = manager.config
    limit = 2 * config.memory_check_interval + config.probe_timeout_seconds + GRACE_SECONDS
    return Check("reading", age <= limit, words)


def _vision(context: AppContext) -> Check:
    vision = context.vision
    words = f"vision is {vision.state}"
    if vision.state_reason and vision.state_reason != words:
        words += f": {vision.state_reason}"
    return Check("vision", vision.state in ("running", "off"), words)


def _storage(context: AppContext) -> Check:
    # The bot goes on from memory: to tell it is enough.
    trouble = context.gpu_memory_manager.storage_trouble
    return Check("storage", True, trouble or "what has to be kept is kept")
