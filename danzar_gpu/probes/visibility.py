"""Which cards CUDA will show our processes, and in what order: identity is the UUID.

NVML lists every card; CUDA lists those in ``CUDA_VISIBLE_DEVICES``, in that order, and the
fastest first unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, which Danzar sets for its own processes.
"""

from __future__ import annotations

from collections.abc import Sequence


def visible_order(uuids: Sequence[str], visible: str | None) -> list[int]:
    """Positions in ``uuids`` (cards in PCI bus order) in the order of CUDA's ordinals.

    ``visible`` is the value of ``CUDA_VISIBLE_DEVICES``: indices or UUIDs (or their unambiguous
    beginnings), read up to the first entry that names no card, as CUDA does
    (CUDA C++ Programming Guide, "CUDA Environment Variables"). ``None`` means all of them.
    """
    if visible is None:
        return list(range(len(uuids)))
    chosen: list[int] = []
    for entry in visible.split(","):
        position = _position(entry.strip(), uuids)
        if position is None:
            break
        if position in chosen:
            # A card named twice is an error to CUDA, which then shows none.
            return []
        chosen.append(position)
    return chosen


def _position(entry: str, uuids: Sequence[str]) -> int | None:
    if entry.isdecimal():
        return int(entry) if int(entry) < len(uuids) else None
    if not entry.lower().startswith(("gpu-", "mig-")):
        return None
    matches = [i for i, uuid in enumerate(uuids) if uuid.lower().startswith(entry.lower())]
    return matches[0] if len(matches) == 1 else None
