"""A lease: what a holder has in hand, and what it tells the manager."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from danzar_gpu.ledger import Footprint, LeaseRecord
from danzar_gpu.placement import Placement


class LeaseKeeper(Protocol):
    """The manager, as leases see it. Holders call the lease's own methods instead."""

    def landed(self, lease: Lease, held_bytes: int | None) -> None: ...
    def move_failed(
        self, lease: Lease, why: str, *, unusable: bool, needed_bytes: int | None
    ) -> None: ...
    def refused(
        self, lease: Lease, why: str, *, unusable: bool, needed_bytes: int | None
    ) -> None: ...
    def fell(self, lease: Lease, why: str, needed_bytes: int | None) -> None: ...
    def measured(self, lease: Lease, footprint: Footprint) -> None: ...
    def release(self, lease: Lease) -> None: ...


class AdmissionRefused(Exception):
    """No device may be used; the message carries the arithmetic."""

    def __init__(self, name: str, placement: Placement) -> None:
        self.placement = placement
        super().__init__(f"{name} was refused: {placement.reason}")


class Lease:
    """The right to hold memory on a device, until it is released or revoked.

    When ``revoked`` is set the holder has to go to ``target.device`` (``"cuda:N"``, ``"cpu"``, or
    ``None``: unload), and then calls ``moved``; or ``move_failed`` if it could not. It is set as
    well when the lease is ``released``: nothing is held by it any more.
    """

    def __init__(self, keeper: LeaseKeeper, record: LeaseRecord, model: str = "") -> None:
        self._keeper = keeper
        self._record = record
        self.model = model
        """What a measured footprint is kept under; empty where nothing is to be learned. The
        holder may make it more precise once it knows how the model computes there."""
        self.on_resized: Callable[[Footprint], None] | None = None
        """Told when the manager found that the holder takes more than it was leased, which it
        counts from then on."""
        self._told = record.request.need
        self.revoked = asyncio.Event()
        self.released = False

    @property
    def name(self) -> str:
        return self._record.request.name

    @property
    def lease_id(self) -> int:
        return self._record.lease_id

    @property
    def holder(self) -> str:
        return self._record.request.holder

    @property
    def priority(self) -> int:
        return self._record.request.priority

    @property
    def device(self) -> str:
        """``cuda:N`` or ``cpu``: where the memory is held now."""
        return self._record.device

    @property
    def uuid(self) -> str | None:
        """Of the card; ``None`` on the CPU."""
        return self._record.uuid

    @property
    def reason(self) -> str:
        return self._record.reason

    @property
    def need(self) -> Footprint:
        return self._record.request.need

    @property
    def target(self) -> Placement | None:
        """Where the holder has to go; ``None`` while it may stay."""
        record = self._record
        if record.target_device is None:
            return None
        device = None if record.target_device == "none" else record.target_device
        return Placement(device, record.target_reason, record.target_uuid)

    def moved(self, held_bytes: int | None = None) -> None:
        """The holder has arrived at ``target.device``; ``held_bytes`` is what it takes there."""
        self._keeper.landed(self, held_bytes)

    def move_failed(
        self, why: str, *, unusable: bool = False, needed_bytes: int | None = None
    ) -> None:
        """The holder could not get there and has unloaded: the lease falls to the CPU.

        ``unusable``: that card won't do at another time either (torch can't use it): it is not
        tried again until somebody restores the model, another model of its process gets there, or
        the process is gone (of a holder without a name: the lease).
        ``needed_bytes``: as for ``fell``, where memory ran out on the way.
        """
        self._keeper.move_failed(self, why, unusable=unusable, needed_bytes=needed_bytes)

    def refused(self, why: str, *, unusable: bool = False, needed_bytes: int | None = None) -> None:
        """As ``move_failed``, of the card that it leaves anyway: it has a ``target`` elsewhere."""
        self._keeper.refused(self, why, unusable=unusable, needed_bytes=needed_bytes)

    def fell(self, why: str, needed_bytes: int | None = None) -> None:
        """The holder ran out of memory and is on the CPU now, or unloaded.

        ``needed_bytes``: what it would have needed at its peak, weights included, without the
        context; the next admission asks for that much.
        """
        self._keeper.fell(self, why, needed_bytes)

    def resized(self) -> Footprint | None:
        """The new size, once, if it changed other than by the holder's own word."""
        need = self._record.request.need
        if need == self._told or self._record.uuid is None:
            return None
        grew = need.model_bytes > self._told.model_bytes and self._record.grew
        self._told = need
        if not grew:
            return None
        if self.on_resized is not None:
            self.on_resized(need)
        return need

    def measured(self, footprint: Footprint) -> None:
        """What the model really takes: admission counts that from now on."""
        self._keeper.measured(self, footprint)
        self._told = self._record.request.need

    def release(self) -> None:
        """Give the right back. Idempotent."""
        self._keeper.release(self)
