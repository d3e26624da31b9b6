"""Other projects' ways to choose a device, as policies of the simulator.

Written from their published algorithms: the numbers and the order of steps are theirs, the code
is not. None was built for this contest; each class says what it was built for. Where a peer could
also be given the LLM to manage there is a second mode, "LLM managed".
"""

from collections.abc import Callable, Mapping

from benchmarks.contention.peers.one_shot import (
    AccelerateFill,
    GPUtilFirst,
    GuideOriginal,
    NvitopSelect,
    RayFractions,
)
from benchmarks.contention.peers.swapping import ComfyUI, DiffusersComponents, OllamaScheduler
from danzar_gpu.simulate import Policy

PEERS: Mapping[str, Callable[[], Policy]] = {
    "guide": GuideOriginal,
    "ollama": OllamaScheduler,
    "ollama (LLM managed)": lambda: OllamaScheduler(managed=True),
    "comfyui": ComfyUI,
    "comfyui (LLM managed)": lambda: ComfyUI(managed=True),
    "diffusers": DiffusersComponents,
    "diffusers (LLM managed)": lambda: DiffusersComponents(managed=True),
    "nvitop": NvitopSelect,
    "gputil": GPUtilFirst,
    "ray": RayFractions,
    "ray (LLM managed)": lambda: RayFractions(managed=True),
    "accelerate": AccelerateFill,
}
