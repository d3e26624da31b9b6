"""The card under test, the program beside it, and where figures go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from danzar_gpu.memory import DeviceMemory, gib
from danzar_gpu.probes import ProbeError, open_probe
from tests.gpu.measurements import VARIABLE, Measurements
from tests.gpu.program import Program
from tests.vision.conftest import make_video


@pytest.fixture(scope="session")
def card() -> DeviceMemory:
    """The first card that both the driver and torch have, with room to work on."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} can't use a card here")
    try:
        probe = open_probe("nvml")
        device = probe.read(0.0, processes=True).devices[0]
        probe.close()
    except (ProbeError, IndexError) as error:
        pytest.skip(f"the driver can't be asked: {error}")
    if device.free_bytes < 4 << 30:
        pytest.skip(f"{device.label} has only {device.free_gb:.1f} GB free: close what holds it")
    return device


@pytest.fixture(scope="session")
def measured(card: DeviceMemory) -> Iterator[Measurements]:
    """Collects figures; at the end they go to the file that the environment names."""
    import torch

    found = Measurements(
        card=card.name,
        driver=_driver_version(),
        torch=torch.__version__,
        date=datetime.now(UTC).date().isoformat(),
        total_gb=gib(card.total_bytes),
    )
    yield found
    path = os.environ.get(VARIABLE)
    if path:
        found.save(Path(path))


@pytest.fixture
def program(card: DeviceMemory) -> Iterator[Program]:
    """The second process; what it holds is gone with it."""
    running = Program("cuda", card.index)
    yield running
    running.close()


def _driver_version() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("film") / "wanderer.mp4")
