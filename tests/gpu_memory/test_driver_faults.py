"""What the driver does to a bot that runs for months: the real pynvml on the stand-in, in the real
manager, while the scenario changes. Words, what goes on working, recovery without a restart."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import psutil
import pytest

from danzar_gpu import GPUMemoryConfig, GPUMemoryManager, ProbeError, open_probe
from danzar_gpu.ledger import Footprint
from danzar_gpu.memory import GIB
from danzar_gpu.probes import nvml
from danzar_gpu.probes.cards import find_cards, visible_cards
from tests.standin import GUIDE, Card, Fault, Process, Scenario, StandinNvml, gib
from tests.standin.here import driver_here, install

LOST = Fault("*", 15, device=1)
GUIDE_CARDS = {0: "RTX 4070", 1: "RTX 4070 SUPER"}


@pytest.fixture
def driver(standin_nvml: StandinNvml) -> Iterator[StandinNvml]:
    standin_nvml.write(GUIDE)
    with driver_here(standin_nvml):
        yield standin_nvml


class Watched:
    """A manager on what this machine has, and a clock that the test turns."""

    def __init__(self, **config: object) -> None:
        self.now = 1000.0
        self.manager = GPUMemoryManager(
            GPUMemoryConfig.model_validate(config), open_probe("auto"), clock=lambda: self.now
        )

    async def look(self, seconds: float = 30.0) -> dict[int, str]:
        """One reading later: the cards by number; none where it failed."""
        self.now += seconds
        try:
            shot = await self.manager.refresh(max_age=0)
        except ProbeError:
            return {}
        return {d.index: d.name for d in shot.devices}

    @property
    def advice(self) -> str:
        return "\n".join(self.manager.get_memory_recommendations())

    def told(self, kind: str) -> list[str]:
        return [e.text for e in self.manager.events if e.kind == kind]


@pytest.fixture
async def watched(driver: StandinNvml) -> AsyncIterator[Watched]:
    one = Watched()
    await one.manager.start()
    yield one
    await one.manager.close()


async def test_a_driver_that_comes_later_is_found(standin_nvml: StandinNvml) -> None:
    with driver_here(standin_nvml, installed=False):
        watched = Watched(enable_memory_monitoring=False)
        await watched.manager.start()
        assert watched.manager.source == "none"
        assert (
            f"{standin_nvml.library.name} was not found. Install the NVIDIA driver"
            in watched.advice
        )
        assert watched.manager.get_best_vision_device()[0] == "cpu"

        install(standin_nvml.library)
        assert await watched.look() == {}
        assert "the NVIDIA driver is not loaded" in watched.advice

        standin_nvml.write(GUIDE)
        assert await watched.look() == GUIDE_CARDS
        assert watched.manager.source == "nvml"
        assert watched.manager.get_best_vision_device()[0] == "cuda:1"
        assert any("NVML answers" in text for text in watched.told("cards"))
        await watched.manager.close()


@pytest.mark.parametrize(
    ("fault", "cause", "remedy"),
    [
        (None, "the NVIDIA driver is not loaded", "`nvidia-smi` must work"),
        (Fault("*", 18), "driver and its library are of different versions", "reboot, or reload"),
        (Fault("*", 999), "unknown error", "In a container the device may have been withdrawn"),
        (Fault("*", 4), "no permission to ask the driver", "`video` group"),
        (Fault("*", 15), "a GPU is lost", "reboot if it does not come back"),
    ],
    ids=["unloaded", "mismatch", "unknown", "forbidden", "lost"],
)
async def test_a_driver_that_goes_away_is_named_and_taken_up_again(
    driver: StandinNvml, watched: Watched, fault: Fault | None, cause: str, remedy: str
) -> None:
    assert await watched.look() == GUIDE_CARDS
    if fault is None:
        driver.remove()
    else:
        driver.write(GUIDE.with_faults(fault))
    assert await watched.look() == {}
    (failed,) = watched.told("reading-failed")
    assert cause in failed and remedy in failed
    assert cause in watched.advice
    kept = watched.manager.get_all_devices_memory_info()
    assert set(kept) == {0, 1}, "the last reading is kept"
    assert kept[0].age_seconds == 30.0, "and it is not shown as fresh"
    await watched.look()
    assert len(watched.told("reading-failed")) == 1, "it is said once"

    driver.write(GUIDE)
    assert await watched.look() == GUIDE_CARDS
    assert watched.told("reading-back") == ["GPU memory is read again"]
    assert watched.manager.last_error is None


async def test_a_lost_card_is_named_and_found_again(driver: StandinNvml, watched: Watched) -> None:
    lease = await watched.manager.acquire("yolo", Footprint(GIB, GIB // 8, 0), holder="worker")
    assert lease.device == "cuda:1"
    driver.write(GUIDE.with_faults(LOST))
    assert await watched.look() == {0: "RTX 4070"}
    assert "Device 1 (RTX 4070 SUPER): a GPU is lost. It fell off the bus" in watched.advice
    assert lease.revoked.is_set() and lease.target and lease.target.device == "cuda:0"
    # As long as it lasts it is said, not only in the reading that found it.
    for _ in range(3):
        assert await watched.look(5) == {0: "RTX 4070"}
        assert "Device 1 (RTX 4070 SUPER): a GPU is lost" in watched.advice
    driver.write(GUIDE)
    assert await watched.look(nvml.RECHECK_SECONDS) == GUIDE_CARDS
    assert "lost" not in watched.advice
    assert len(watched.told("card-trouble")) == 1
    assert watched.told("card-back") == ["Device 1 (RTX 4070 SUPER) is read again"]


async def test_a_driver_that_was_reloaded_costs_no_reading(
    driver: StandinNvml, watched: Watched
) -> None:
    # After a reset every old handle is invalid, but a new start works.
    import pynvml

    pynvml.nvmlShutdown()
    assert await watched.look() == GUIDE_CARDS
    assert watched.told("reading-failed") == []


async def test_the_first_card_taken_out_does_not_rename_the_second(
    driver: StandinNvml, watched: Watched
) -> None:
    driver.write(Scenario(GUIDE.cards[1:]))
    assert await watched.look() == {1: "RTX 4070 SUPER"}
    assert "Device 0 (RTX 4070): the card is not found any more" in watched.advice
    assert "If it was taken out on purpose restart Danzar" in watched.advice
    driver.write(GUIDE)
    assert await watched.look() == GUIDE_CARDS


async def test_a_card_that_was_added_is_found(driver: StandinNvml, watched: Watched) -> None:
    new = replace(GUIDE.cards[0], uuid="GPU-33333333-0000", bus="00000000:03:00.0")
    driver.write(Scenario((*GUIDE.cards, new)))
    await watched.look(1)
    assert await watched.look(nvml.CENSUS_SECONDS) == {**GUIDE_CARDS, 2: "RTX 4070"}
    assert any("Device 2 (RTX 4070) is new here" in text for text in watched.told("cards"))


async def test_the_cards_are_found_under_cuda_visible_devices_when_one_is_gone(
    standin_nvml: StandinNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    standin_nvml.write(GUIDE)
    with driver_here(standin_nvml):
        probe = open_probe("nvml")
        assert [d.name for d in probe.read(0, processes=True).devices] == [
            "RTX 4070 SUPER",
            "RTX 4070",
        ]
        standin_nvml.write(Scenario(GUIDE.cards[1:]))
        shot = probe.read(60, processes=True)
        assert [(d.index, d.name) for d in shot.devices] == [(0, "RTX 4070 SUPER")]
        assert [fault[:19] for fault in shot.faults] == ["Device 1 (RTX 4070)"]
        probe.close()


async def test_a_reading_that_hangs_is_given_up_and_taken_up_again(driver: StandinNvml) -> None:
    watched = Watched(probe_timeout_seconds=0.2, enable_memory_monitoring=False)
    await watched.manager.start()
    driver.write(GUIDE.with_faults(Fault("nvmlDeviceGetMemoryInfo_v2", seconds=0.6, device=0)))
    assert await watched.look() == {}
    assert "the driver did not answer within 0.2 s" in watched.told("reading-failed")[-1]
    assert watched.manager.get_all_devices_memory_info()[1].age_seconds == 30
    assert await watched.look() == {}
    assert "the driver does not answer any more" in watched.advice
    await watched.look()
    assert len(watched.told("reading-failed")) == 2, "it is not said at each reading"
    driver.write(GUIDE)
    for _ in range(100):
        if await watched.look(0.01):
            break
        await asyncio.sleep(0.05)
    assert await watched.look() == GUIDE_CARDS
    await watched.manager.close()


async def test_a_card_with_the_computers_own_memory_is_read(
    driver: StandinNvml, watched: Watched
) -> None:
    unsupported = (Fault("nvmlDeviceGetMemoryInfo", 3), Fault("nvmlDeviceGetMemoryInfo_v2", 3))
    driver.write(Scenario(GUIDE.cards[:1]).with_faults(*unsupported))
    probe = open_probe("nvml")
    (device,) = probe.read(0, processes=True).devices
    assert device.name == "RTX 4070, unified memory"
    assert device.total_bytes == psutil.virtual_memory().total
    assert 0 < device.free_bytes < device.total_bytes
    assert device.allocated_bytes <= device.reserved_bytes
    probe.close()


async def test_processes_that_may_not_be_listed_cost_the_list_alone(
    driver: StandinNvml, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    calls = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3")
    driver.write(GUIDE.with_faults(*(Fault(call, 4, device=0) for call in calls)))
    assert await watched.look() == GUIDE_CARDS
    first, second = watched.manager.get_all_devices_memory_info().values()
    assert first.processes is None
    assert first.allocated_bytes == first.reserved_bytes
    assert [p.name for p in second.processes or ()] == ["tower.x86_64"]
    await watched.look()
    words = [r.getMessage() for r in caplog.records if "can't be listed" in r.getMessage()]
    assert len(words) == 1 and "no permission" in words[0]
    driver.write(GUIDE)
    await watched.look()
    listed = watched.manager.get_all_devices_memory_info()[0].processes
    assert listed and listed[0].name == "ollama"


async def test_under_windows_the_processes_are_named_without_sizes(
    driver: StandinNvml, watched: Watched
) -> None:
    nameless = Process(4_200_031, None, "C:\\games\\tower.exe")
    driver.write(GUIDE.with_card(1, replace(GUIDE.cards[1], processes=(nameless,))))
    await watched.look()
    device = watched.manager.get_all_devices_memory_info()[1]
    assert [(p.name, p.used_bytes) for p in device.processes or ()] == [("tower.exe", None)]
    assert device.allocated_bytes == device.reserved_bytes


PARTS = tuple(
    Card(
        f"NVIDIA A100-SXM4-40GB MIG {size}",
        f"MIG-{n}{n}{n}{n}",
        gib(total),
        gib(total) - gib(1),
        bus="00000000:05:00.0",
        capability=(8, 0),
        processes=(Process(4_200_100 + n, gib(0.75), f"/usr/bin/part{n}"),),
    )
    for n, (size, total) in enumerate((("3g.20gb", 19.5), ("2g.10gb", 9.5)))
)
PARTITIONED = Scenario(
    (
        GUIDE.cards[0],
        Card(
            "NVIDIA A100-SXM4-40GB",
            "GPU-a100",
            gib(40),
            gib(38),
            bus=PARTS[0].bus,
            parts=PARTS,
            capability=(8, 0),
        ),
    )
)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["A100-SXM4-40GB MIG 3g.20gb"]),
        ("MIG-1111", ["A100-SXM4-40GB MIG 2g.10gb"]),
        ("MIG-1111,MIG-0000", ["A100-SXM4-40GB MIG 2g.10gb"]),
        ("0", ["RTX 4070"]),
        ("1", ["A100-SXM4-40GB MIG 3g.20gb"]),
        ("GPU-a100", ["A100-SXM4-40GB MIG 3g.20gb"]),
        ("", []),
    ],
)
def test_of_a_partitioned_card_the_part_that_cuda_shows_is_read(
    driver: StandinNvml, visible: str | None, expected: list[str]
) -> None:
    driver.write(PARTITIONED)
    probe = open_probe("nvml")
    cards, faults = find_cards()
    assert faults == []
    assert [card.name for card in visible_cards(cards, visible)] == expected
    probe.close()


def test_a_part_is_read_as_a_card_of_its_own(driver: StandinNvml) -> None:
    driver.write(PARTITIONED)
    probe = open_probe("nvml")
    (part,) = probe.read(0, processes=True).devices
    assert (part.index, part.uuid, part.compute_capability) == (0, "MIG-0000", (8, 0))
    assert (part.total_bytes, part.reserved_bytes) == (gib(19.5), gib(1))
    assert [p.name for p in part.processes or ()] == ["part0"]
    assert part.gpu_utilization_percent is None
    probe.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_fork_starts_the_library_of_its_own(driver: StandinNvml) -> None:
    probe = open_probe("nvml")
    probe.read(0, processes=True)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        try:
            names = [d.name for d in probe.read(1, processes=True).devices]
            probe.close()
            os.write(write_end, ",".join(names).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    assert os.read(read_end, 1000).decode() == "RTX 4070,RTX 4070 SUPER"
    os.close(read_end)
    assert len(probe.read(2, processes=True).devices) == 2
    probe.close()


def test_a_tick_asks_for_memory_and_utilisation_alone(driver: StandinNvml) -> None:
    probe = open_probe("nvml")
    probe.read(0, processes=True)
    asked = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetUtilizationRates")
    # Whatever else is called fails as if the card were lost.
    dear = (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetHandleByIndex_v2",
    )
    driver.write(GUIDE.with_faults(*(Fault(call, 15) for call in dear)))
    shot = probe.read(1, processes=False)
    assert [d.temperature_c for d in shot.devices] == [61.0, 48.0]
    assert [d.gpu_utilization_percent for d in shot.devices] == [37.0, 12.0]
    driver.write(GUIDE.with_faults(*(Fault(call, 3) for call in asked[1:])))
    assert probe.read(2, processes=False).devices[0].gpu_utilization_percent is None
    driver.write(GUIDE)
    later = probe.read(1 + nvml.SENSORS_SECONDS, processes=False).devices[0]
    assert later.gpu_utilization_percent == 37.0, "what a driver refused is asked for again"
    probe.close()
