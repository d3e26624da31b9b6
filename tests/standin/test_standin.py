"""The stand-in driver behaves to the real pynvml as NVIDIA's does, faults included."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from tests.standin import GUIDE, RTX_4070, Fault, Process, Scenario, StandinNvml, gib

READER = """
import json, sys, time
from pynvml import *

def attempt(call, *arguments):
    try:
        return call(*arguments)
    except NVMLError as error:
        return {"code": error.value, "words": str(error)}
    except UnicodeDecodeError:
        return "not UTF-8"

def processes(call, handle):
    found = attempt(call, handle)
    if isinstance(found, dict):
        return found
    return [
        {"pid": p.pid, "used": p.usedGpuMemory, "name": attempt(nvmlSystemGetProcessName, p.pid)}
        for p in found
    ]

def read():
    answer = {"init": attempt(nvmlInit)}
    if answer["init"] is not None:
        return answer
    answer["driver"] = attempt(nvmlSystemGetDriverVersion)
    answer["count"] = attempt(nvmlDeviceGetCount)
    answer["cards"] = []
    for index in range(answer["count"] if isinstance(answer["count"], int) else 0):
        handle = attempt(nvmlDeviceGetHandleByIndex, index)
        if isinstance(handle, dict):
            answer["cards"].append(handle)
            continue
        v2 = attempt(lambda: nvmlDeviceGetMemoryInfo(handle, nvmlMemory_v2))
        v1 = attempt(nvmlDeviceGetMemoryInfo, handle)
        rates = attempt(nvmlDeviceGetUtilizationRates, handle)
        pci = attempt(nvmlDeviceGetPciInfo, handle)
        uuid = attempt(nvmlDeviceGetUUID, handle)
        same = attempt(nvmlDeviceGetHandleByUUID, uuid)
        answer["cards"].append({
            "name": attempt(nvmlDeviceGetName, handle),
            "uuid": uuid,
            "found_by_uuid": isinstance(same, dict) or attempt(nvmlDeviceGetUUID, same) == uuid,
            "v1": v1 if isinstance(v1, dict) else [v1.total, v1.free, v1.used],
            "v2": v2 if isinstance(v2, dict) else [v2.total, v2.reserved, v2.free, v2.used],
            "bus": pci if isinstance(pci, dict) else [pci.busId, pci.busIdLegacy, pci.bus],
            "rates": rates if isinstance(rates, dict) else [rates.gpu, rates.memory],
            "temperature": attempt(nvmlDeviceGetTemperature, handle, NVML_TEMPERATURE_GPU),
            "temperature_v": attempt(nvmlDeviceGetTemperatureV, handle, NVML_TEMPERATURE_GPU),
            "milliwatts": attempt(nvmlDeviceGetPowerUsage, handle),
            "capability": attempt(nvmlDeviceGetCudaComputeCapability, handle),
            "mig": attempt(nvmlDeviceGetMigMode, handle),
            "compute": processes(nvmlDeviceGetComputeRunningProcesses, handle),
            "graphics": processes(nvmlDeviceGetGraphicsRunningProcesses, handle),
        })
    nvmlShutdown()
    return answer

print(json.dumps(read(), default=lambda b: b.decode()), flush=True)
for line in sys.stdin:
    print(json.dumps(read(), default=lambda b: b.decode()), flush=True)
"""


def answers(standin: StandinNvml) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", READER],
        env=standin.environment(),
        input="",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_guides_example_is_answered_whole(standin_nvml: StandinNvml) -> None:
    standin_nvml.write(GUIDE)
    answer = answers(standin_nvml)
    assert answer["driver"] == "580.95.05"
    first, second = answer["cards"]
    assert first["name"] == "NVIDIA GeForce RTX 4070"
    assert second["name"] == "NVIDIA GeForce RTX 4070 SUPER"
    assert first["found_by_uuid"] and second["found_by_uuid"]
    assert first["uuid"] != second["uuid"]
    total, free, used = first["v1"]
    assert (total, free + used) == (gib(12), total)
    assert (round(used / gib(1), 1), round(free / gib(1), 1)) == (7.1, 4.9)
    assert round(100 * used / total, 1) == 59.2
    held = sum(p["used"] for p in first["compute"] + first["graphics"])
    assert round(held / gib(1), 1) == 6.2
    assert first["compute"] == [
        {"pid": 4_200_011, "used": gib(5.6), "name": "/usr/local/bin/ollama"}
    ]
    total, free, used = second["v1"]
    assert (round(used / gib(1), 1), round(free / gib(1), 1)) == (2.1, 9.9)
    assert round(100 * used / total, 1) == 17.5
    assert second["compute"] == []
    assert sum(p["used"] for p in second["graphics"]) == gib(1.8)
    assert first["bus"] == ["00000000:01:00.0", "0000:01:00.0", 1]
    assert first["rates"] == [37, 21]
    assert (first["temperature"], first["temperature_v"], first["milliwatts"]) == (61, 61, 118500)
    assert first["capability"] == [8, 9]
    assert first["mig"]["words"] == "Not Supported"


def test_memory_v2_leaves_the_drivers_share_out_of_used(standin_nvml: StandinNvml) -> None:
    card = replace(RTX_4070, free_bytes=gib(10), driver_bytes=gib(0.5))
    standin_nvml.write(Scenario((card,)))
    (answer,) = answers(standin_nvml)["cards"]
    assert answer["v1"] == [gib(12), gib(10), gib(2)]
    assert answer["v2"] == [gib(12), gib(0.5), gib(10), gib(1.5)]


@pytest.mark.parametrize("code", [9, 15, 18, 999])
def test_an_init_that_fails_gives_its_code(standin_nvml: StandinNvml, code: int) -> None:
    standin_nvml.write(GUIDE.with_faults(Fault("nvmlInitWithFlags", code)))
    assert answers(standin_nvml)["init"]["code"] == code


def test_without_a_scenario_there_is_no_driver(standin_nvml: StandinNvml) -> None:
    assert answers(standin_nvml)["init"]["code"] == 9


def test_a_lost_card_leaves_the_other_one(standin_nvml: StandinNvml) -> None:
    standin_nvml.write(GUIDE.with_faults(Fault("*", 15, device=1)))
    first, second = answers(standin_nvml)["cards"]
    assert first["v1"][0] == gib(12)
    assert second == {"code": 15, "words": "GPU is lost"}


def test_a_single_call_can_be_unsupported_or_forbidden(standin_nvml: StandinNvml) -> None:
    standin_nvml.write(
        GUIDE.with_faults(
            Fault("nvmlDeviceGetPowerUsage", 3),
            Fault("nvmlDeviceGetComputeRunningProcesses_v3", 4, device=0),
        )
    )
    first, second = answers(standin_nvml)["cards"]
    assert first["milliwatts"]["words"] == second["milliwatts"]["words"] == "Not Supported"
    assert first["compute"]["words"] == "Insufficient Permissions"
    assert second["compute"] == []
    assert first["temperature"] == 61


def test_windows_keeps_no_account_per_process(standin_nvml: StandinNvml) -> None:
    card = replace(RTX_4070, processes=(Process(4_200_031, None, "C:\\games\\tower.exe"),))
    standin_nvml.write(Scenario((card,)))
    (answer,) = answers(standin_nvml)["cards"]
    assert answer["compute"] == [{"pid": 4_200_031, "used": None, "name": "C:\\games\\tower.exe"}]


def test_names_that_are_not_utf8_and_processes_that_vanished(standin_nvml: StandinNvml) -> None:
    card = replace(
        RTX_4070.using(Process(4_200_041, gib(1), b"/bin/caf\xe9"), Process(4_200_042, gib(1))),
        name=b"NVIDIA \xff\xfe",
    )
    standin_nvml.write(Scenario((card,)))
    (answer,) = answers(standin_nvml)["cards"]
    assert answer["name"] == "not UTF-8"
    assert answer["compute"][0]["name"] == "not UTF-8"
    assert answer["compute"][1]["name"] == {"code": 6, "words": "Not Found"}
    assert answer["v1"][1] == gib(10)


def test_the_scenario_changes_while_a_program_runs(standin_nvml: StandinNvml) -> None:
    standin_nvml.write(GUIDE)
    with subprocess.Popen(
        [sys.executable, "-c", READER],
        env=standin_nvml.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None and running.stdout is not None

        def again() -> dict[str, Any]:
            assert running.stdin is not None and running.stdout is not None
            running.stdin.write("again\n")
            running.stdin.flush()
            return json.loads(running.stdout.readline())

        assert json.loads(running.stdout.readline())["cards"][1]["v1"][1] == gib(12) - gib(2.1)
        full = GUIDE.cards[1].using(Process(4_200_051, gib(11.5), "/usr/bin/blender"))
        standin_nvml.write(GUIDE.with_card(1, full))
        changed = again()["cards"][1]
        assert changed["v1"][1] == gib(0.5)
        assert [p["name"] for p in changed["compute"]] == ["/usr/bin/blender"]
        standin_nvml.remove()
        assert again()["init"]["code"] == 9
        standin_nvml.write(GUIDE)
        assert again()["count"] == 2
        running.stdin.close()
        assert running.wait(timeout=60) == 0


def test_a_call_can_hang(standin_nvml: StandinNvml) -> None:
    standin_nvml.write(GUIDE.with_faults(Fault("nvmlDeviceGetMemoryInfo", seconds=600)))
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-c", READER],
            env=standin_nvml.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=3,
        )


def test_a_field_that_would_break_the_file_is_refused() -> None:
    card = replace(RTX_4070, name="two\tfields")
    with pytest.raises(ValueError, match="must fit into one field"):
        Scenario((card,)).as_text()
