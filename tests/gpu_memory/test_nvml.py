"""The real pynvml on a stand-in driver: what a reading says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest

from danzar_gpu import ProbeError, open_probe
from danzar_gpu.memory import GpuProcess
from danzar_gpu.probes.cards import short_name
from danzar_gpu.probes.nvml import listed_bytes
from danzar_gpu.probes.visibility import visible_order
from tests.standin import GUIDE, Fault, Process, Scenario, StandinNvml, gib
from tests.standin.here import driver_here


def read(standin: StandinNvml, scenario: Scenario, **environment: str) -> dict[str, Any]:
    """One reading as plain data, or the words of its failure."""
    standin.write(scenario)
    with driver_here(standin), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            probe = open_probe("nvml")
            shot = probe.read(5.0, processes=True)
        except ProbeError as error:
            return {"error": error.cause, "remedy": error.remedy}
        probe.close()
        return asdict(shot)


def test_the_guides_example_through_the_real_pynvml(standin_nvml: StandinNvml) -> None:
    shot = read(standin_nvml, GUIDE)
    first, second = shot["devices"]
    assert first["name"] == "RTX 4070"
    assert second["name"] in {"RTX 4070 SUPER", "RTX 4070 Super"}
    assert [round(first[key] / gib(1), 1) for key in ("allocated_bytes", "free_bytes")] == [
        6.2,
        4.9,
    ]
    assert [round(second[key] / gib(1), 1) for key in ("allocated_bytes", "free_bytes")] == [
        1.8,
        9.9,
    ]
    assert first["source"] == "nvml"
    assert first["read_at"] == 5.0
    assert first["temperature_c"] is not None
    assert any(p["name"].startswith("ollama") for p in first["processes"])


def test_a_card_says_how_large_it_is_where_the_driver_knows(standin_nvml: StandinNvml) -> None:
    known = GUIDE.with_card(1, replace(GUIDE.cards[1], cores=7168))
    shot = read(standin_nvml, known)
    assert [device["cores"] for device in shot["devices"]] == [None, 7168]


@pytest.mark.parametrize(
    ("code", "words"),
    [(9, "driver is not loaded"), (18, "different versions"), (999, "unknown error")],
)
def test_a_driver_that_does_not_start_says_why_and_what_to_do(
    standin_nvml: StandinNvml, code: int, words: str
) -> None:
    answer = read(standin_nvml, GUIDE.with_faults(Fault("nvmlInitWithFlags", code)))
    assert words in answer["error"]
    assert answer["remedy"]


def test_one_lost_card_does_not_hide_the_other(standin_nvml: StandinNvml) -> None:
    shot = read(standin_nvml, GUIDE.with_faults(Fault("*", 15, device=1)))
    assert [d["index"] for d in shot["devices"]] == [0]


def test_a_card_without_process_accounts_is_unknown_not_empty(standin_nvml: StandinNvml) -> None:
    faults = [
        Fault("nvmlDeviceGetComputeRunningProcesses_v3", 3),
        Fault("nvmlDeviceGetGraphicsRunningProcesses_v3", 3),
    ]
    shot = read(standin_nvml, GUIDE.with_faults(*faults))
    assert shot["devices"][0]["processes"] is None
    assert 0 < shot["devices"][0]["allocated_bytes"] <= gib(12) - shot["devices"][0]["free_bytes"]


def test_an_old_driver_without_memory_v2_serves(standin_nvml: StandinNvml) -> None:
    shot = read(standin_nvml, GUIDE.with_faults(Fault("nvmlDeviceGetMemoryInfo_v2", 3)))
    assert shot["devices"][0]["free_bytes"] == GUIDE.cards[0].free_bytes


def test_sensors_that_are_missing_are_not_known(standin_nvml: StandinNvml) -> None:
    faults = [
        Fault("nvmlDeviceGetTemperature", 3),
        Fault("nvmlDeviceGetPowerUsage", 3),
        Fault("nvmlDeviceGetUtilizationRates", 3),
    ]
    first = read(standin_nvml, GUIDE.with_faults(*faults))["devices"][0]
    assert first["temperature_c"] is first["power_w"] is first["gpu_utilization_percent"] is None


def test_names_that_are_not_utf8_are_shown_as_far_as_they_can_be(
    standin_nvml: StandinNvml,
) -> None:
    card = GUIDE.cards[0].using(Process(4000000, gib(1), b"/usr/bin/sp\xe4el"))
    shot = read(standin_nvml, GUIDE.with_card(0, card))
    assert shot["devices"][0]["processes"][0]["name"] == "sp\ufffdel"


def test_cards_are_in_pci_order_and_keep_their_uuid(standin_nvml: StandinNvml) -> None:
    first, second = GUIDE.cards
    swapped = Scenario((replace(second, bus="00000000:0A:00.0"), first))
    shot = read(standin_nvml, swapped)
    assert [d["uuid"] for d in shot["devices"]] == [first.uuid, second.uuid]


def test_only_the_cards_that_cuda_shows_are_counted(standin_nvml: StandinNvml) -> None:
    second = GUIDE.cards[1]
    for visible in ("1", second.uuid, second.uuid[:12]):
        shot = read(standin_nvml, GUIDE, CUDA_VISIBLE_DEVICES=visible)
        assert [(d["index"], d["uuid"]) for d in shot["devices"]] == [(0, second.uuid)]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("0,-1,2", [0]),
        ("0,7,1", [0]),
        ("GPU-b", [1]),
        ("GPU-", []),
        ("1,1", []),
        ("0, GPU-ccc", [0, 2]),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(
    visible: str | None, expected: list[int]
) -> None:
    assert visible_order(["GPU-aaa", "GPU-bbb", "GPU-ccc"], visible) == expected


def test_names_lose_the_vendors_prefix() -> None:
    assert short_name("NVIDIA GeForce RTX 4070 SUPER") == "RTX 4070 SUPER"
    assert short_name("NVIDIA H200") == "H200"
    assert short_name("Tesla T4") == "Tesla T4"


def test_what_is_listed_counts_where_the_driver_keeps_accounts() -> None:
    rows = (GpuProcess(1, "a", 7), GpuProcess(2, "b", None))
    assert listed_bytes(rows) == 7
    assert listed_bytes(rows[1:]) is listed_bytes(()) is listed_bytes(None) is None


def test_allocated_never_exceeds_reserved(standin_nvml: StandinNvml) -> None:
    # The accounts and the total are not read at the same instant.
    card = replace(GUIDE.cards[0], free_bytes=gib(11), processes=(Process(4_200_011, gib(3)),))
    device = read(standin_nvml, GUIDE.with_card(0, card))["devices"][0]
    assert device["allocated_bytes"] == gib(1)


DRIFT = """
import os, sys
from danzar_gpu.probes import open_probe
probe = open_probe("nvml")
names = lambda shot: [p.name for p in shot.devices[0].processes]
print(names(probe.read(0.0, processes=True)), flush=True)
sys.stdin.readline()
print(names(probe.read(1.0, processes=False)), flush=True)
"""


def test_a_program_that_left_is_not_credited_with_its_memory(standin_nvml: StandinNvml) -> None:
    standin_nvml.write(GUIDE)
    with subprocess.Popen(
        [sys.executable, "-c", DRIFT],
        env=standin_nvml.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin and child.stdout
        before = child.stdout.readline()
        standin_nvml.write(GUIDE.with_card(0, GUIDE.cards[0].using()))
        child.stdin.write("\n")
        child.stdin.flush()
        after = child.stdout.readline()
    assert "ollama" in before
    assert after.strip() == "[]"
