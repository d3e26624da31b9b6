"""The CUDA contexts of this process: on which cards they are, and what each took.

CUDA's current device belongs to a thread and begins as the first card. What names no device
(an event, page-locked memory, an emptied cache) makes a context there, of some hundred MiB, on
what may be the LLM's card: whatever touches a card does so inside ``on``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Context:
    """One card's."""

    index: int
    """The N of the bot's ``cuda:N``, which may be another than torch's here."""
    size_bytes: int
    """By how much the card's memory shrank when it was made; 0: not known."""


_made: dict[int, Context] = {}
_making = threading.Lock()
"""Models load side by side: the second one would measure nothing, or the first one's memory."""

capturing = threading.RLock()
"""Held while a graph is captured: waiting for the whole card, from any thread, would fail then and
spoil the graph, and a sound context would pass for a broken one."""


def made() -> Mapping[int, Context]:
    """All contexts of this process by torch's ordinal."""
    return dict(_made)


def make(ordinal: int, index: int, uuid: str | None) -> None:
    """Make the context of a card, where there is none yet, and see what it takes.

    Raises:
        RuntimeError: torch's; the card has no room for it, or can't be used.
    """
    import torch

    with _making:
        if ordinal in _made:
            return
        before = _used_bytes(uuid)
        torch.cuda.synchronize(ordinal)
        after = _used_bytes(uuid)
        taken = 0 if before is None or after is None else max(0, after - before)
        _made[ordinal] = Context(index, taken)


def on(device: str) -> AbstractContextManager[object]:
    """Make a card the thread's current one for a while; nothing for the CPU."""
    if not device.startswith("cuda"):
        return contextlib.nullcontext()
    import torch

    return torch.cuda.device(device)


def all_answer() -> bool:
    """Whether each context still computes: a broken one repeats its error at every call."""
    import torch

    try:
        with capturing:
            for ordinal in made():
                torch.cuda.synchronize(ordinal)
    except RuntimeError:
        return False
    return True


def _used_bytes(uuid: str | None) -> int | None:
    """What is taken of a card, as the driver says; torch's own question would make a context."""
    if not uuid:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
