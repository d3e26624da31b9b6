"""What a configuration promises that these cards can't keep: known once they were read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bot.yaml_document import DocumentError, read
from danzar_gpu.config import GPUMemoryConfig, device_index
from danzar_gpu.memory import GIB, MemorySnapshot


@dataclass(frozen=True, slots=True)
class Misfit:
    """One promise that can't be kept."""

    key: str
    what: str
    remedy: str
    fatal: bool = False
    """Whether something can't work at all; else it works in another way."""

    def __str__(self) -> str:
        return f"{self.key}: {self.what}; {self.remedy}"


def misfits(config: GPUMemoryConfig, snapshot: MemorySnapshot | None) -> Iterator[Misfit]:
    """What does not fit the cards of a reading; nothing where there is none, or no card."""
    if snapshot is None or not snapshot.devices:
        return
    known = ", ".join(d.device for d in snapshot.devices)
    for name in ("main_llm_device", "vision_device"):
        device: str = getattr(config, name)
        if snapshot.device(device_index(device)) is None:
            yield Misfit(
                f"gpu_memory.{name}",
                f"is {device}, but there is no such card (there are: {known})",
                "name one of them; until then other cards are used",
            )
    llm = snapshot.device(config.main_llm_index)
    reserved = config.main_llm_memory_reservation_gb
    if llm is not None and reserved != "auto" and reserved * GIB > llm.total_bytes:
        yield Misfit(
            "gpu_memory.main_llm_memory_reservation_gb",
            f"{reserved:g}GB are reserved on {llm.label}, which has {llm.total_gb:.1f}GB",
            "write less than the card has, or auto",
            fatal=True,
        )
    vision = snapshot.device(config.vision_index)
    if vision is not None:
        limit = config.vision_limit_bytes(vision.total_bytes)
        if limit < config.cpu_fallback_threshold_gb * GIB:
            yield Misfit(
                "gpu_memory.vision_memory_limit_gb",
                f"vision may hold {limit / GIB:.2f}GB on {vision.label}, less than the "
                f"{config.cpu_fallback_threshold_gb:g}GB below which a card is left alone",
                "raise it, or performance.gpu_memory_fraction",
            )


def lines_of(path: Path) -> dict[str, int]:
    """The line of each key of a configuration that was read well; nothing where there is none."""
    try:
        lines = read(path.read_bytes()).lines
    except (OSError, DocumentError):
        return {}
    return {".".join(map(str, where)): line for where, line in lines.items()}
