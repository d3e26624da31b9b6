"""What is new about the cards from one reading to the next, in words. Pure."""

from __future__ import annotations

import re

from danzar_gpu.memory import MemorySnapshot

SOURCES = {"nvml": "NVML answers", "torch": "torch answers (there is no NVML)"}
_LABEL = re.compile(r"^Device \d+ \(.*?\)(?=:)")

News = tuple[str, str]
"""(kind of event, words)."""


def card_news(before: MemorySnapshot | None, after: MemorySnapshot) -> list[News]:
    """Cards in trouble (``card-trouble``) and out of it (``card-back``), cards and drivers that
    came (``cards``). The first reading has only troubles to tell."""
    told = set(before.faults) if before is not None else set[str]()
    labels = {_label(fault) for fault in told}
    news: list[News] = [
        ("card-trouble", fault)
        for fault in after.faults
        if fault not in told and after.source != "none" and _label(fault) not in labels
    ]
    if before is None:
        return news
    if before.source != after.source and after.source in SOURCES:
        news.append(("cards", f"GPU memory can be read now: {SOURCES[after.source]}"))
    troubled = {_label(fault) for fault in after.faults}
    known = {d.uuid for d in before.devices}
    for device in after.devices:
        if device.label in labels - troubled:
            news.append(("card-back", f"{device.label} is read again"))
        elif device.uuid not in known and before.source == after.source:
            news.append(("cards", f"{device.label} is new here: models may use it"))
    return news


def _label(fault: str) -> str:
    found = _LABEL.match(fault)
    return found.group() if found else fault
