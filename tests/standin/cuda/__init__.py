"""Cards that torch's own CUDA build takes for real, on a machine without one.

torch's allocator, streams, graphs, page-locked memory and errors are its own; below them a
stand-in answers instead of NVIDIA's runtime, and computes on the CPU (``kernels.py``). What a
process holds shows in the stand-in NVML, for every other process, as on a driver. It is slow, has
no kernels of NVIDIA's libraries and no time of its own: nothing that it shows is a measurement.

Programs of ours run on it in a process of their own::

    standin = cuda.build(folder, scenario)
    subprocess.run([...], env=standin.environment())
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

from tests.standin import nvml
from tests.standin.nvml import RTX_4070, RTX_4070_SUPER, Scenario, StandinNvml

HERE = Path(__file__).parent
SONAME = "libcudart.so.13"
TWO_CARDS = Scenario(
    cards=(
        replace(RTX_4070, name="NVIDIA GeForce RTX 4070 (stand-in)"),
        replace(RTX_4070_SUPER, name="NVIDIA GeForce RTX 4070 SUPER (stand-in)"),
    ),
    driver_version="stand-in",
)
"""The typical rig, with nothing on its cards. The names say what figures of it are worth."""


def why_not() -> str:
    """Why this machine's torch can't use the stand-in; empty if it can."""
    if not sys.platform.startswith("linux"):
        return "the stand-in for CUDA is for Linux"
    import torch

    if (torch.version.cuda or "").split(".")[0] != "13":
        return f"the stand-in is for CUDA 13; torch {torch.__version__} has {torch.version.cuda}"
    return "" if _headers() is not None else "the CUDA runtime's headers are not installed"


def _headers() -> Path | None:
    """Those that come with the runtime that torch brings."""
    spec = importlib.util.find_spec("nvidia.cu13")
    for place in (spec.submodule_search_locations if spec is not None else None) or ():
        if (Path(place) / "include" / "cuda_runtime_api.h").is_file():
            return Path(place) / "include"
    return None


class StandinCuda(StandinNvml):
    """Both libraries, and the scenario file that they read."""

    def environment(self, **more: str) -> dict[str, str]:
        preload = str(self.library.with_name(SONAME))
        path = self.inherited.get("PYTHONPATH", "")
        search = ":".join(part for part in (str(HERE / "site"), path) if part)
        return super().environment(LD_PRELOAD=preload, PYTHONPATH=search, **more)


def build(folder: Path, scenario: Scenario = TWO_CARDS) -> StandinCuda:
    """Compile both into ``folder``, where the scenario will be. Raises as ``nvml.compiled``."""
    library = nvml.build(folder)
    headers = _headers()
    assert headers is not None, why_not()
    nvml.compiled(
        folder / SONAME,
        f"-I{HERE}",
        f"-I{headers}",
        f"-Wl,-soname,{SONAME}",
        f"-Wl,--version-script={HERE / 'runtime.map'}",
        HERE / "runtime.c",
        HERE / "unanswered.c",
        "-ldl",
    )
    (folder / "libcuda.so.1").symlink_to(SONAME)  # the same library: it has one state
    standin = StandinCuda(library, folder / "scenario")
    standin.write(scenario)
    return standin
