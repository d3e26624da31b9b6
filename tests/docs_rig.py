"""What the worked examples of docs/placement.md call."""

from __future__ import annotations

from danzar_gpu import Footprint, GPUMemoryConfig
from danzar_gpu.ledger import Ledger, Request
from danzar_gpu.memory import MemorySnapshot
from danzar_gpu.placement import place
from tests.gpu_memory.rig import Card


def best(llm_card: dict[str, float], vision_card: dict[str, float], **config: object) -> str:
    """Where vision would go: cards as ``{program: GB}``, ``(driver)`` being the driver's share."""
    cards = [
        Card(name, programs={k: v for k, v in held.items() if k != "(driver)"})
        for name, held in (("RTX 4070", llm_card), ("RTX 4070 Super", vision_card))
    ]
    for card, held in zip(cards, (llm_card, vision_card), strict=True):
        card.driver = held.get("(driver)", 0.0)
    reading = MemorySnapshot(0, "scripted", tuple(c.device(i, 0) for i, c in enumerate(cards)))
    found = place(
        Request("vision", Footprint()),
        reading,
        Ledger(),
        GPUMemoryConfig.model_validate(config),
        0,
    )
    return f"{found.device}: {found.reason}"
