"""Windows' own accounts of GPU memory, read from a stand-in of the two libraries that tell them."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danzar_gpu import GPUMemoryConfig
from danzar_gpu.advice import recommendations
from danzar_gpu.ledger import Ledger
from danzar_gpu.llm_server import LlmServerState, LoadedModel, with_servers_word
from danzar_gpu.memory import DeviceMemory, GpuProcess, MemorySnapshot
from danzar_gpu.placement import Placement
from danzar_gpu.probes.nvml import LISTING_DRIFT_BYTES, NvmlProbe
from danzar_gpu.probes.windows_accounts import (
    QUERY_SECONDS,
    TOLERANCE_BYTES,
    WindowsAccounts,
    parse_instance,
    parse_place,
    with_accounts,
)
from danzar_gpu.room import rooms
from danzar_gpu.trust import Skeptic
from tests.standin import GUIDE, Fault, Process, Scenario, StandinNvml, gib
from tests.standin.here import driver_here

OLLAMA, DESKTOP, GAME = 4_200_011, 4_200_012, 4_200_021


def windows(*, game: float | None = 1.8, desktop: float | None = 0.6) -> Scenario:
    """The guide's rig under WDDM: the driver lists who is there, and gives no sizes."""
    first = (
        Process(OLLAMA, None, r"C:\Ollama\ollama.exe", resident_bytes=gib(5.6)),
        Process(DESKTOP, None, r"C:\Windows\dwm.exe", "graphics", _bytes(desktop)),
    )
    second = (Process(GAME, None, r"D:\Tower\tower.exe", "graphics", _bytes(game)),)
    cards = tuple(
        replace(card, processes=rows)
        for card, rows in zip(GUIDE.cards, (first, second), strict=True)
    )
    return replace(GUIDE, cards=cards)


def _bytes(size: float | None) -> int | None:
    return None if size is None else gib(size)


def accounts_of(standin: StandinNvml) -> WindowsAccounts:
    """Both libraries are the stand-in's one."""
    library = ctypes.CDLL(str(standin.library))
    return WindowsAccounts(library, library)


def read(standin: StandinNvml, scenario: Scenario) -> MemorySnapshot:
    """One reading where Windows is asked what the driver does not say."""
    standin.write(scenario)
    with driver_here(standin):
        probe = NvmlProbe(accounts_of(standin))
        shot = probe.read(5.0, processes=True)
        probe.close()
        return shot


def sizes(shot: MemorySnapshot) -> list[dict[int, int | None]]:
    return [{p.pid: p.used_bytes for p in device.processes or ()} for device in shot.devices]


def test_who_holds_what_is_known_though_the_driver_does_not_say(standin_nvml: StandinNvml) -> None:
    shot = read(standin_nvml, windows())
    assert sizes(shot) == [{OLLAMA: gib(5.6), DESKTOP: gib(0.6)}, {GAME: gib(1.8)}]
    first, second = shot.devices
    assert first.allocated_bytes == gib(5.6) + gib(0.6)
    assert second.allocated_bytes == gib(1.8)
    assert [p.name for p in first.processes or ()] == ["ollama.exe", "dwm.exe"]


def test_the_llm_is_credited_with_what_it_holds(standin_nvml: StandinNvml) -> None:
    room = rooms(read(standin_nvml, windows()), Ledger(), GPUMemoryConfig(), 5.0)[0]
    assert room.llm_held == gib(5.6)
    assert room.outstanding == gib(8) - gib(5.6)


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:11434"])
def test_advice_where_nobody_tells_what_the_llm_holds(
    standin_nvml: StandinNvml, endpoint: str | None
) -> None:
    card = GUIDE.cards[0]
    rows = (replace(card.processes[0], used_bytes=None, name="ollama.exe"),)
    shot = read(standin_nvml, GUIDE.with_card(0, replace(card, processes=rows)))
    config = GPUMemoryConfig(main_llm_endpoint=endpoint)
    known = rooms(shot, Ledger(), config, 5.0)
    [advice] = recommendations(shot, known, Placement("cuda:1", "", "GPU-1"), config)
    assert "8.0GB are still promised to the main LLM, but only 4.9GB are free" in advice
    assert ("nobody tells how much of it ollama.exe holds" in advice) == (endpoint is None)


def test_a_program_that_the_driver_does_not_list_is_found(standin_nvml: StandinNvml) -> None:
    blind = Fault("nvmlDeviceGetGraphicsRunningProcesses_v3", code=3)
    shot = read(standin_nvml, windows().with_faults(blind))
    assert sizes(shot) == [{OLLAMA: gib(5.6), DESKTOP: gib(0.6)}, {GAME: gib(1.8)}]


def test_whom_windows_does_not_know_nobody_knows(standin_nvml: StandinNvml) -> None:
    shot = read(standin_nvml, windows(game=None))
    assert sizes(shot)[1] == {GAME: None}
    assert shot.devices[1].allocated_bytes == shot.devices[1].reserved_bytes


def test_accounts_beyond_what_is_in_use_are_not_believed(standin_nvml: StandinNvml) -> None:
    shot = read(standin_nvml, windows(desktop=14.0))
    assert sizes(shot) == [{OLLAMA: None, DESKTOP: None}, {GAME: gib(1.8)}]


def test_the_drivers_own_sizes_count_where_it_gives_them(standin_nvml: StandinNvml) -> None:
    card = GUIDE.cards[1]
    row = replace(card.processes[0], resident_bytes=gib(0.1))
    shot = read(standin_nvml, GUIDE.with_card(1, replace(card, processes=(row,))))
    assert sizes(shot)[1] == {GAME: gib(1.8)}


def test_counters_that_are_switched_off_leave_sizes_unknown_and_are_told_once(
    standin_nvml: StandinNvml, caplog: pytest.LogCaptureFixture
) -> None:
    standin_nvml.write(windows().with_faults(Fault("PdhOpenQueryW", code=5)))
    accounts = accounts_of(standin_nvml)
    with driver_here(standin_nvml), caplog.at_level(logging.INFO, "danzar_gpu"):
        assert accounts.read(0.0) == {}
        assert accounts.read(0.0) == {}
        probe = NvmlProbe(accounts)
        shot = probe.read(5.0, processes=True)
        probe.close()
    assert sizes(shot) == [{OLLAMA: None, DESKTOP: None}, {GAME: None}]
    told = [r.getMessage() for r in caplog.records if "accounts of GPU memory" in r.getMessage()]
    assert told == ["Windows' accounts of GPU memory can't be read: PdhOpenQuery answered 0x5"]


def test_a_card_that_could_not_be_opened_for_once_is_tried_again(
    standin_nvml: StandinNvml,
) -> None:
    accounts = accounts_of(standin_nvml)
    with driver_here(standin_nvml):
        standin_nvml.write(windows().with_faults(Fault("D3DKMTOpenAdapterFromLuid", code=1)))
        assert accounts.read(0.0) == {}
        standin_nvml.write(windows())
        assert sorted(accounts.read(1.0)) == [(1, 0), (2, 0)]
        accounts.close()


def test_one_query_serves_for_a_while_and_nothing_stays_open(standin_nvml: StandinNvml) -> None:
    library = ctypes.CDLL(str(standin_nvml.library))
    accounts = accounts_of(standin_nvml)
    standin_nvml.write(windows())
    with driver_here(standin_nvml):
        for now in (0.0, 1.0, QUERY_SECONDS + 2.0):
            assert accounts.read(now)
            assert (library.standin_open_queries(), library.standin_open_adapters()) == (1, 0)
        standin_nvml.write(GUIDE)
        assert accounts.read(QUERY_SECONDS + 3.0) == {}
        accounts.close()
    assert library.standin_open_queries() == 0


def test_linked_cards_add_up_and_nonsense_is_left_out(
    standin_nvml: StandinNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = accounts_of(standin_nvml)
    rows = [
        ("pid_7_luid_0x0_0xD3C0_phys_0", gib(1)),
        ("pid_7_luid_0x0_0xD3C0_phys_1", gib(2)),
        ("pid_8_luid_0x0_0xD3C0_phys_0", -1),
        ("_Total", gib(9)),
    ]
    monkeypatch.setattr(accounts, "_counters", lambda now: rows)
    standin_nvml.write(windows())
    with driver_here(standin_nvml):
        assert accounts.read(0.0) == {(1, 0): {7: gib(3)}}


def test_a_fault_of_windows_libraries_costs_the_sizes_alone(
    standin_nvml: StandinNvml, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accounts = accounts_of(standin_nvml)

    def read(now: float) -> None:
        raise OSError("exception: access violation reading 0x0")

    monkeypatch.setattr(accounts, "read", read)
    standin_nvml.write(windows())
    with driver_here(standin_nvml):
        probe = NvmlProbe(accounts)
        for now in (5.0, 6.0):
            shot = probe.read(now, processes=True)
            assert sizes(shot) == [{OLLAMA: None, DESKTOP: None}, {GAME: None}]
            assert shot.devices[0].free_bytes == GUIDE.cards[0].free_bytes
        probe.close()
    assert caplog.text.count("they are not asked any more") == 1


def test_windows_is_asked_once_for_all_cards_of_a_reading(
    standin_nvml: StandinNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    accounts = accounts_of(standin_nvml)
    read = accounts.read
    monkeypatch.setattr(accounts, "read", lambda now: (asked.append(now), read(now))[1])
    standin_nvml.write(windows())
    with driver_here(standin_nvml):
        probe = NvmlProbe(accounts)
        for now in (5.0, 6.0):
            probe.read(now, processes=True)
        probe.close()
    assert asked == [5.0, 6.0]


def test_sizes_that_are_missing_for_a_while_are_nobodys_leave() -> None:
    """Else vision would be driven off the LLM's card though no memory moved."""
    ollama = GpuProcess(OLLAMA, "ollama.exe", gib(10))
    ledger, config = Ledger(), GPUMemoryConfig(main_llm_memory_reservation_gb=12)
    skeptic = Skeptic()
    for now in range(20):
        row = ollama if now < 5 else replace(ollama, used_bytes=None)
        card = DeviceMemory(0, "GPU-0", "RTX 3090", gib(24), gib(11), gib(10), (row,), read_at=now)
        skeptic.look(MemorySnapshot(now, "nvml", (card,), now, ()), ledger, config, now)
        assert skeptic.llm_likely["GPU-0"] == gib(10)


def told_by_the_server(*rows: GpuProcess, used: float, server: float = 10) -> DeviceMemory:
    """The LLM's card once its server said what it has loaded."""
    card = DeviceMemory(0, "GPU-0", "RTX 3090", gib(24), gib(24) - gib(used), gib(used), rows)
    shot = MemorySnapshot(0.0, "nvml", (card,), 0.0, ())
    state = LlmServerState(0.0, (LoadedModel("qwen", gib(server)),))
    told, unheard = with_servers_word(shot, state, GPUMemoryConfig(), Ledger())
    assert not unheard
    return told.devices[0]


@pytest.mark.parametrize(
    ("rows", "used", "llm"),
    [
        pytest.param([("vmmemWSL", 10), ("dwm.exe", 0.6)], 10.9, 10, id="in WSL"),
        pytest.param([("vmmem", 12), ("dwm.exe", 0.6)], 12.9, 10, id="in WSL beside another"),
        pytest.param([("vmmemWSL", 0.5), ("dwm.exe", 0.6)], 1.3, 0.7, id="elsewhere, really"),
        pytest.param([("ollama.exe", None), ("dwm.exe", 0.6)], 10.9, 10, id="without a size"),
        pytest.param([("ollama.exe", 7), ("dwm.exe", 0.6)], 8, 7, id="the driver knows better"),
        pytest.param([("tower.exe", 9), ("dwm.exe", 0.6)], 10, 0, id="on another machine"),
    ],
)
def test_where_the_servers_word_counts(
    rows: list[tuple[str, float | None]], used: float, llm: float
) -> None:
    named = (GpuProcess(n, name, _bytes(size)) for n, (name, size) in enumerate(rows))
    card = told_by_the_server(*named, used=used)
    held = sum(
        row.used_bytes or 0
        for row in card.processes or ()
        if GPUMemoryConfig().is_llm_process(row.name)
    )
    assert held == pytest.approx(gib(llm), abs=2)
    assert sum(row.used_bytes or 0 for row in card.processes or ()) <= card.reserved_bytes


def test_nobody_on_any_card_is_no_fault(
    standin_nvml: StandinNvml, caplog: pytest.LogCaptureFixture
) -> None:
    standin_nvml.write(GUIDE)
    with driver_here(standin_nvml), caplog.at_level(logging.INFO, "danzar_gpu"):
        assert accounts_of(standin_nvml).read(0.0) == {}
    assert not caplog.records


def test_other_systems_have_no_such_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert WindowsAccounts.open() is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("pid_4242_luid_0x00000000_0x0000D3C9_phys_0", (4242, (0, 0xD3C9))),
        ("pid_4_luid_0x00000001_0xFFFFFFFF_phys_1", (4, (1, 0xFFFFFFFF))),
        ("_Total", None),
        ("", None),
        ("pid_x_luid_0x0_0x0_phys_0", None),
    ],
)
def test_the_names_of_instances(name: str, found: object) -> None:
    assert parse_instance(name) == found


@pytest.mark.parametrize(
    ("bus_id", "place"),
    [("00000000:01:00.0", (1, 0)), ("0000:c1:1F.0", (0xC1, 0x1F)), ("~0000", None), ("", None)],
)
def test_the_place_on_the_bus(bus_id: str, place: object) -> None:
    assert parse_place(bus_id) == place


@given(
    st.sets(st.integers(0, 9)),
    st.dictionaries(st.integers(0, 9), st.integers(0, gib(4))),
    st.integers(0, gib(12)),
)
def test_what_is_told_never_exceeds_what_is_in_use(
    listed: set[int], held: dict[int, int], reserved: int
) -> None:
    told = with_accounts(listed, held, reserved)
    assert listed <= set(told)
    assert sum(size or 0 for size in told.values()) <= reserved + TOLERANCE_BYTES
    assert all(size is None or size == held[pid] for pid, size in told.items())


def test_accounts_that_are_believed_stay_so_while_the_list_is_kept() -> None:
    """Use may change by so much before the processes are listed again."""
    held, reserved = {1: gib(2) + TOLERANCE_BYTES}, gib(2)
    assert with_accounts([1], held, reserved) == held
    assert with_accounts([1], held, reserved - 1) == {1: None}
    rows = (GpuProcess(1, "tower.exe", held[1]),)
    later = reserved - LISTING_DRIFT_BYTES
    card = DeviceMemory(0, "GPU-0", "RTX 4070", gib(12), gib(12) - later, later, rows)
    shot = MemorySnapshot(0.0, "nvml", (card,), 0.0, ())
    assert rooms(shot, Ledger(), GPUMemoryConfig(), 0.0)[0].doubtful == ""
