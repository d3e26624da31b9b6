"""On a real card: it computes what the CPU does, and the process keeps to that card."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from danzar_gpu.memory import DeviceMemory
from danzar_gpu.probes import open_probe
from tests.gpu.measurements import Measurements
from tests.gpu.program import ROOT

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def computed(card: DeviceMemory) -> dict[str, Any]:
    """On the last card: what strays goes to the first."""
    probe = open_probe("nvml")
    last = probe.read(0.0, processes=False).devices[-1]
    probe.close()
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.computing", str(last.index), last.uuid],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_card_says_what_the_cpu_says_with_and_without_graphs(
    computed: dict[str, Any], measured: Measurements
) -> None:
    assert computed["differences"] == []
    assert computed["backends"] == ["torch f16, CUDA graphs"] * 2
    assert computed["notes"] == []
    assert computed["graphs"] == [2, 1], "frames of another size came to CLIP in between"
    if computed["context_mib"]:
        measured.add("CUDA context when it is made", "MiB", computed["context_mib"])


def test_nothing_is_left_and_no_other_card_was_touched(computed: dict[str, Any]) -> None:
    assert computed["left_bytes"] == 0
    assert computed["cards_with_context"] == [computed["ordinal"]]


def test_a_failed_capture_is_told_from_a_broken_context(computed: dict[str, Any]) -> None:
    assert "it runs without CUDA graphs" in computed["uncapturable"]
    words, poisoned = computed["assert"]
    assert "device-side assert" in words
    assert poisoned
