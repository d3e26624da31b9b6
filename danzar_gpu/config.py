"""The ``gpu_memory`` section of the configuration: the guide's keys and ours, validated."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from danzar_gpu.memory import GIB

CudaDevice = Annotated[str, Field(pattern=r"^cuda:\d{1,3}$", examples=["cuda:0"])]

LLM_PROCESSES = (
    "ollama",
    "ollama_llama_server",
    "llama-server",
    "llama-cli",
    "llama.cpp",
    "llamafile",
    "llm studio",
    "lm studio",
    "lm-studio",
    "lmstudio",
    "koboldcpp",
    "vllm",
    "text-generation",
    "text-generation-webui",
    "textgen",
    "tabbyapi",
    "exllama",
    "aphrodite",
    "sglang",
    "jan",
    "gpt4all",
    "localai",
    "mlc_llm",
)
"""Names under which local LLM servers run. A process is one of them when its name without a
path and ``.exe`` equals an entry, or starts with one followed by something that is no letter."""


class GPUMemoryConfig(BaseModel):
    """How much GPU memory belongs to whom. Sizes are GiB, as the guide writes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    main_llm_device: CudaDevice = Field(
        default="cuda:0", title="LLM device", description="The card on which the main LLM runs."
    )
    main_llm_memory_reservation_gb: Annotated[float, Field(ge=0, le=1024)] | Literal["auto"] = (
        Field(
            default=8.0,
            title="LLM reservation",
            description=(
                "GiB kept free there for the main LLM, less what its own processes already hold. "
                "`auto` follows the LLM's observed peak."
            ),
        )
    )
    main_llm_processes: tuple[str, ...] = Field(
        default=LLM_PROCESSES,
        title="LLM processes",
        description=(
            "Names of programs whose memory counts towards the LLM's reservation. A Python program "
            "is known by its module or script; one with a name that many have, as `main.py`, by "
            "its folder, too: `tabbyAPI (main.py)`."
        ),
    )
    main_llm_reservation_min_gb: float = Field(
        default=2.0,
        ge=0,
        le=1024,
        title="Least reservation",
        description="With `auto`: the learned reservation is never smaller.",
    )
    main_llm_reservation_max_gb: float = Field(
        default=24.0,
        gt=0,
        le=1024,
        title="Largest reservation",
        description="With `auto`: the learned reservation is never larger (nor than the card).",
    )
    main_llm_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/]+(:\d+)?(/\S*)?$",
        title="LLM server",
        description=(
            "Address of the LLM's server (`http://127.0.0.1:11434`), asked what it has loaded "
            "where the driver does not name processes."
        ),
    )
    vision_device: CudaDevice = Field(
        default="cuda:1", title="Vision device", description="The card that vision prefers."
    )
    vision_memory_limit_gb: float = Field(
        default=2.0,
        gt=0,
        le=1024,
        title="Vision limit",
        description=(
            "GiB that vision's models may hold on a card; the CUDA context of the worker, some "
            "0.4 GiB, comes on top."
        ),
    )
    gpu_memory_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        title="Vision share",
        description=(
            "Share of a card's total memory that vision may hold; the smaller of this and the "
            "limit counts. `performance.gpu_memory_fraction` sets it in the bot."
        ),
    )
    fallback_to_cpu: bool = Field(
        default=True,
        title="Fall back to the CPU",
        description="Whether vision runs on the CPU when no card has room; else it is refused.",
    )
    cpu_fallback_threshold_gb: float = Field(
        default=1.0,
        ge=0,
        le=1024,
        title="CPU fallback threshold",
        description="A card with less than this many GiB available is left alone.",
    )
    headroom_gb: float = Field(
        default=0.5,
        ge=0,
        le=64,
        title="Headroom",
        description="GiB that must stay free on a card after a model was admitted.",
    )
    pressure_gb: float = Field(
        default=0.25,
        ge=0,
        le=64,
        title="Pressure",
        description=(
            "Models leave a card on which less than this stays free beyond what is promised; "
            "smaller than the headroom, so that nothing bounces."
        ),
    )
    enable_memory_monitoring: bool = Field(
        default=True, title="Monitoring", description="Whether the poller runs from the start."
    )
    memory_check_interval: float = Field(
        default=30.0,
        ge=0.1,
        le=3600,
        title="Check interval",
        description=(
            "Seconds between readings when all is calm; at most 5 while our models are on cards."
        ),
    )
    pressure_check_interval: float = Field(
        default=1.0,
        ge=0.05,
        le=60,
        title="Check interval under pressure",
        description="Seconds between readings while memory is tight or a model is moving.",
    )
    probe_timeout_seconds: float = Field(
        default=5.0,
        gt=0,
        le=60,
        title="Probe time limit",
        description="A reading that takes longer is given up; the last one is kept with its age.",
    )
    high_utilization_percent: float = Field(
        default=90.0,
        gt=0,
        le=100,
        title="High utilisation",
        description="A warning is logged when a card's memory is used beyond this share.",
    )
    history_samples: int = Field(
        default=2880,
        ge=10,
        le=1_000_000,
        title="History",
        description="Readings that are kept in memory.",
    )
    return_dwell_seconds: float = Field(
        default=15.0,
        ge=0,
        le=3600,
        title="Dwell before a return",
        description="How long a better card must have had room before a model moves back to it.",
    )
    return_margin_gb: float = Field(
        default=0.5,
        ge=0,
        le=64,
        title="Margin for a return",
        description="GiB beyond a model's need that a card must have before the model returns.",
    )
    min_residency_seconds: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        title="Minimum residency",
        description="A model stays at least this long where it landed unless memory is short.",
    )
    move_cooldown_seconds: float = Field(
        default=60.0,
        ge=0,
        le=3600,
        title="Cooldown after a move",
        description="A model that had to leave a card does not return to it sooner.",
    )

    @field_validator("main_llm_processes")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if any(not name.strip() for name in names):
            raise ValueError("a process name must not be empty")
        return tuple(name.strip().lower() for name in names)

    @model_validator(mode="after")
    def _bounds(self) -> GPUMemoryConfig:
        least, largest = self.main_llm_reservation_min_gb, self.main_llm_reservation_max_gb
        if least > largest:
            small, large = "main_llm_reservation_min_gb", "main_llm_reservation_max_gb"
            if small in self.model_fields_set:
                key, words = small, f"must be at most {large}, which is {largest:g}, not {least:g}"
            else:
                key, words = large, f"must be at least {small}, which is {least:g}, not {largest:g}"
            raise PydanticCustomError("contradiction", "{words}", {"key": key, "words": words})
        return self

    @model_validator(mode="after")
    def _intervals(self) -> GPUMemoryConfig:
        if self.pressure_check_interval > self.memory_check_interval:
            return self.model_copy(update={"pressure_check_interval": self.memory_check_interval})
        return self

    @property
    def main_llm_index(self) -> int:
        return device_index(self.main_llm_device)

    @property
    def vision_index(self) -> int:
        return device_index(self.vision_device)

    def vision_limit_bytes(self, total_bytes: int) -> int:
        """What vision's models may hold on a card of this size, contexts not counted."""
        return int(min(self.vision_memory_limit_gb * GIB, self.gpu_memory_fraction * total_bytes))

    def is_llm_process(self, name: str) -> bool:
        """Whether a process of this name counts towards the LLM's reservation."""
        return _is_named(name, self.main_llm_processes)


_SCRIPT = re.compile(
    r"(?P<folder>.+?)(-main|-master|[-_ ]?v?\d{1,3}(\.\d+)*)? \((?P<script>.+\.py)\)"
)
"""As in ``process_names.py``: ``text-generation-webui-main (server.py)``."""


@lru_cache(maxsize=256)
def device_index(device: str) -> int:
    """The N of ``cuda:N``."""
    return int(device.removeprefix("cuda:"))


@lru_cache(maxsize=1024)
def _is_named(name: str, known_names: tuple[str, ...]) -> bool:
    bare = re.split(r"[\\/]", name.strip().lower())[-1].removesuffix(".exe")
    if not bare:
        return False
    if (script := _SCRIPT.fullmatch(bare)) is not None:
        # A folder has its program's name or its archive's, else it is about something else.
        return any(known in known_names for known in script.group("folder", "script"))
    return any(
        bare == known or (bare.startswith(known) and not bare[len(known)].isalpha())
        for known in known_names
    )
