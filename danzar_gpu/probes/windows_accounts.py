"""What each process holds of a card on Windows, where NVML gives no sizes: Windows' own accounts.

Under Windows' driver model (WDDM) Windows itself hands out the memory of graphics cards. It tells
what each process holds in the performance counters ``GPU Process Memory``, one instance for each
process and adapter (``pid_4242_luid_0x00000000_0x0000D3C9_phys_0``). ``Local Usage`` is what is
resident on the card; ``Dedicated Usage`` is what was committed, which may be more than it has.
Adapters are named there by an id of this boot (LUID), which gdi32 gives the place on the PCI bus
of (Microsoft: "Performance Counters", ``pdh.h``; "Display Devices", ``d3dkmthk.h``).
"""

from __future__ import annotations

import ctypes
import logging
import re
import sys
from collections.abc import Iterable

log = logging.getLogger(__name__)

COUNTER = r"\GPU Process Memory(*)\Local Usage"
TOLERANCE_BYTES = 384 * 1024**2
"""Surfaces that two programs share count twice: their sum may be so much above what is in use. With
what use may change by before processes are listed again this is what room.py allows, 512 MiB."""
QUERY_SECONDS = 30.0
"""A query finds new processes by itself; should a Windows not do so, it is wrong for no longer."""

Place = tuple[int, int]
"""Bus and device on the PCI bus."""

_INSTANCE = re.compile(r"pid_(\d+)_luid_0x([0-9a-f]{1,8})_0x([0-9a-f]{1,8})_phys_\d+", re.I)
_BUS_ID = re.compile(r"[0-9a-f]+:([0-9a-f]{2}):([0-9a-f]{2})\.[0-9a-f]", re.I)

_LARGE = 0x400  # PDH_FMT_LARGE
_MORE_DATA, _NO_DATA = 0x800007D2, 0x800007D5
_VALID = (0, 1)  # PDH_CSTATUS_VALID_DATA, PDH_CSTATUS_NEW_DATA
_ADDRESS = 6  # KMTQAITYPE_ADAPTERADDRESS


class _Luid(ctypes.Structure):
    _fields_ = (("low", ctypes.c_uint32), ("high", ctypes.c_int32))


class _OpenAdapter(ctypes.Structure):  # D3DKMT_OPENADAPTERFROMLUID
    _fields_ = (("luid", _Luid), ("adapter", ctypes.c_uint32))


class _Address(ctypes.Structure):  # D3DKMT_ADAPTERADDRESS
    _fields_ = (
        ("bus", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("function", ctypes.c_uint32),
    )


class _AdapterQuery(ctypes.Structure):  # D3DKMT_QUERYADAPTERINFO
    _fields_ = (
        ("adapter", ctypes.c_uint32),
        ("kind", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint32),
    )


class _Item(ctypes.Structure):  # PDH_FMT_COUNTERVALUE_ITEM_W
    _fields_ = (
        ("name", ctypes.c_wchar_p),
        ("status", ctypes.c_uint32),
        ("value", ctypes.c_int64),
    )


class WindowsAccounts:
    """Asks Windows. Counters that are missing or broken give nothing, and are told once."""

    def __init__(self, pdh: ctypes.CDLL, gdi: ctypes.CDLL) -> None:
        """``pdh`` and ``gdi``: the libraries ``pdh.dll`` and ``gdi32.dll``.

        Raises:
            AttributeError: one of them lacks a function.
        """
        self._pdh = pdh
        self._open_adapter = gdi.D3DKMTOpenAdapterFromLuid
        self._query_adapter = gdi.D3DKMTQueryAdapterInfo
        self._close_adapter = gdi.D3DKMTCloseAdapter
        self._query: tuple[ctypes.c_void_p, ctypes.c_void_p] | None = None
        """The open query and its counter."""
        self._opened_at = float("-inf")
        self._places: dict[tuple[int, int], Place] = {}
        """Of cards that were met, by LUID."""
        self._told = False
        handle = ctypes.POINTER(ctypes.c_void_p)
        size = ctypes.POINTER(ctypes.c_uint32)
        for call, arguments in (
            (pdh.PdhOpenQueryW, (ctypes.c_wchar_p, ctypes.c_size_t, handle)),
            (
                pdh.PdhAddEnglishCounterW,
                (ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_size_t, handle),
            ),
            (pdh.PdhCollectQueryData, (ctypes.c_void_p,)),
            (
                pdh.PdhGetFormattedCounterArrayW,
                (ctypes.c_void_p, ctypes.c_uint32, size, size, ctypes.c_void_p),
            ),
            (pdh.PdhCloseQuery, (ctypes.c_void_p,)),
        ):
            call.argtypes, call.restype = arguments, ctypes.c_uint32

    @classmethod
    def open(cls) -> WindowsAccounts | None:
        """``None`` where this is not Windows, or one that lacks them."""
        if sys.platform != "win32":
            return None
        try:
            return cls(ctypes.WinDLL("pdh"), ctypes.WinDLL("gdi32"))
        except (OSError, AttributeError) as error:
            log.info("Windows' accounts of GPU memory can't be read: %s", error)
            return None

    def read(self, now: float) -> dict[Place, dict[int, int]]:
        """Bytes that are resident on each card, by process id; ``now`` in seconds of any clock."""
        by_adapter: dict[tuple[int, int], dict[int, int]] = {}
        for name, value in self._counters(now):
            if (parts := parse_instance(name)) is None or value < 0:
                continue
            pid, luid = parts
            held = by_adapter.setdefault(luid, {})
            held[pid] = held.get(pid, 0) + value  # linked cards: one instance each
        found: dict[Place, dict[int, int]] = {}
        for luid, held in by_adapter.items():
            place = self._places.get(luid) or self._place_of(luid)
            if place is not None:
                self._places[luid] = place
                found[place] = held
        return found

    def close(self) -> None:
        if self._query is not None:
            self._pdh.PdhCloseQuery(self._query[0])
            self._query = None

    def _counters(self, now: float) -> list[tuple[str, int]]:
        """Instances and values. To open a query costs far more than to use it again."""
        if now - self._opened_at >= QUERY_SECONDS:
            self.close()
        if self._query is None:
            self._query = self._new_query()
            self._opened_at = now
        if self._query is None:
            return []
        query, counter = self._query
        code = self._pdh.PdhCollectQueryData(query)
        values = None
        if code != _NO_DATA and not self._failed("PdhCollectQueryData", code):
            values = self._values(counter)
        if values is None:
            self.close()
        return values or []

    def _new_query(self) -> tuple[ctypes.c_void_p, ctypes.c_void_p] | None:
        query, counter = ctypes.c_void_p(), ctypes.c_void_p()
        if self._failed("PdhOpenQuery", self._pdh.PdhOpenQueryW(None, 0, ctypes.byref(query))):
            return None
        code = self._pdh.PdhAddEnglishCounterW(query, COUNTER, 0, ctypes.byref(counter))
        if self._failed("PdhAddEnglishCounter", code):
            self._pdh.PdhCloseQuery(query)
            return None
        return query, counter

    def _values(self, counter: ctypes.c_void_p) -> list[tuple[str, int]] | None:
        size, count = ctypes.c_uint32(0), ctypes.c_uint32(0)
        call = self._pdh.PdhGetFormattedCounterArrayW
        room = ctypes.byref(size), ctypes.byref(count)
        code = call(counter, _LARGE, *room, None)
        if code != _MORE_DATA:
            self._failed("PdhGetFormattedCounterArray", code)
            return None
        content = ctypes.create_string_buffer(size.value)
        if self._failed("PdhGetFormattedCounterArray", call(counter, _LARGE, *room, content)):
            return None
        items = (_Item * count.value).from_buffer(content)
        return [(item.name or "", item.value) for item in items if item.status in _VALID]

    def _place_of(self, luid: tuple[int, int]) -> Place | None:
        """``None`` for what is on no bus, as a renderer in software is."""
        high, low = luid
        opened = _OpenAdapter(_Luid(low, ctypes.c_int32(high).value), 0)
        if self._open_adapter(ctypes.byref(opened)) != 0:
            return None
        address = _Address()
        asked = _AdapterQuery(
            opened.adapter,
            _ADDRESS,
            ctypes.cast(ctypes.byref(address), ctypes.c_void_p),
            ctypes.sizeof(address),
        )
        code = self._query_adapter(ctypes.byref(asked))
        self._close_adapter(ctypes.byref(ctypes.c_uint32(opened.adapter)))
        return (address.bus, address.device) if code == 0 else None

    def _failed(self, call: str, code: int) -> bool:
        if code and not self._told:
            self._told = True
            log.info("Windows' accounts of GPU memory can't be read: %s answered 0x%X", call, code)
        return code != 0


def parse_instance(name: str) -> tuple[int, tuple[int, int]] | None:
    """Process id and LUID (high, low) of a counter's instance; ``None`` for any other name."""
    match = _INSTANCE.match(name)
    if match is None:
        return None
    pid, high, low = match.groups()
    return int(pid), (int(high, 16), int(low, 16))


def parse_place(bus_id: str) -> Place | None:
    """Bus and device of NVML's ``00000000:01:00.0``."""
    match = _BUS_ID.fullmatch(bus_id)
    return (int(match[1], 16), int(match[2], 16)) if match is not None else None


def with_accounts(
    listed: Iterable[int], held: dict[int, int], reserved_bytes: int
) -> dict[int, int | None]:
    """Sizes by process id, of those whom NVML lists and whom Windows knows to hold something.

    Accounts that add up to more than is in use are wrong, and nobody knows where: then all sizes
    are unknown, as without them.
    """
    if sum(held.values()) > reserved_bytes + TOLERANCE_BYTES:
        return dict.fromkeys(listed)
    holders = {pid: size for pid, size in held.items() if size > 0}
    return {**{pid: held.get(pid) for pid in listed}, **holders}
