"""What every test shares: a clean environment, the stand-in driver, rules for skipping."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import hypothesis
import pytest

from tests.standin import StandinNvml, build

pytest_plugins = ["tests.no_skips"]

# Two slow cores: an example that takes long is not a defect, and CI prints how to repeat one.
hypothesis.settings.register_profile("danzar", deadline=None, print_blob=True)
hypothesis.settings.load_profile("danzar")

# A person's own settings must not decide a test, and no test may fetch a model.
for _variable in ("DISCORD_TOKEN", "DISCORD_TOKEN_FILE", "CUDA_VISIBLE_DEVICES"):
    os.environ.pop(_variable, None)
os.environ.update(HF_HUB_OFFLINE="1", YOLO_OFFLINE="1", YOLO_AUTOINSTALL="0")


@functools.cache
def _has_nvidia_card() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return pynvml.nvmlDeviceGetCount() > 0
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and not _has_nvidia_card():
        pytest.skip("needs an NVIDIA card")


@pytest.fixture(scope="session")
def standin_nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in ``libnvidia-ml.so.1``, compiled once a session."""
    try:
        return build(tmp_path_factory.mktemp("standin-nvml"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def standin_nvml(standin_nvml_library: Path, tmp_path: Path) -> StandinNvml:
    """A driver of this test's own: ``write`` a scenario, run a program in ``environment()``."""
    return StandinNvml(standin_nvml_library, tmp_path / "nvml-scenario.txt")
