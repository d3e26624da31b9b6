"""What a trace is: a rig, the product's keys, models, other programs, faults of the sensor.

docs/simulate.md explains every key with an example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal, cast

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.refusals import number_taken_for_text, shown_value

DAY_SECONDS = 86_400.0
LONGEST_SECONDS = 366 * DAY_SECONDS
"""As long as the history goes back; calm months take seconds, crowded ones may take hours."""
TAIL_SECONDS = 60.0
"""A trace without a duration goes on this long after its last event, five times as long where
something has no end."""

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": DAY_SECONDS}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)")


def _seconds(value: object) -> object:
    """``90``, ``"90s"``, ``"2m"``, ``"1h 30m"``, ``"7d"`` as seconds."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    parts = _DURATION.findall(text)
    if parts and _DURATION.sub("", text).strip() == "":
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    raise ValueError(
        f"must be seconds, or a time such as 90s, 2m or 1h 30m, not {shown_value(value)}"
        f"{number_taken_for_text(value)}"
    )


def _not_too_long(seconds: float) -> float:
    if seconds > LONGEST_SECONDS:
        raise ValueError(
            f"must be at most {LONGEST_SECONDS / DAY_SECONDS:g} days "
            f"({LONGEST_SECONDS:.0f} seconds), not {seconds:.12g}"
        )
    return seconds


def _index(value: object) -> object:
    """``cuda:1``, ``"1"`` and ``1`` are the same card."""
    if isinstance(value, str):
        match = re.fullmatch(r"(?:cuda:)?(\d{1,3})", value.strip().lower())
        if match is None:
            raise ValueError(f"must be a card, as 1 or cuda:1, not {shown_value(value)}")
        return int(match[1])
    return value


Seconds = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=0, allow_inf_nan=False, strict=True),
    AfterValidator(_not_too_long),
]
Size = Annotated[float, Field(ge=0, le=4096, allow_inf_nan=False, strict=True)]
Index = Annotated[int, BeforeValidator(_index), Field(ge=0, le=999, strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Card(_Part):
    """One card, in the order of the PCI bus: its position is the N of ``cuda:N``."""

    name: str = "GPU"
    total_gb: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False, strict=True)] = Field(
        validation_alias=AliasChoices("total_gb", "memory_gb")
    )
    context_gb: Size = 0.45
    """What a process's CUDA context takes here, once for a process."""
    speed: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    """Relative; among cards that neither the LLM nor vision names the faster one is preferred."""
    release_lag: Seconds = Field(
        default=0.5,
        validation_alias=AliasChoices("release_lag", "release_lag_seconds", "release_lag_s"),
    )
    """Seconds until freed memory can be had again, and is shown as free."""
    keeps_context: bool = False
    """Whether a process keeps its context here until none of its models is wanted any more, as a
    real one does; else it goes with the last model that leaves."""
    driver_gb: Size = 0.0
    """What the driver keeps for itself."""
    fastest_first: Index | None = None
    """Its CUDA ordinal where ``CUDA_DEVICE_ORDER`` is not set, if that differs: for policies that
    take the driver's index for CUDA's."""


class GrowthStep(_Part):
    """Evenly growing by ``gb`` over ``seconds`` from when it is loaded."""

    gb: Size
    seconds: Annotated[Seconds, Field(gt=0)] | None = None
    """Until its end if left out."""


def _growth(value: object) -> object:
    """A plain number grows by so many GiB until the end; pairs are (second, GiB more)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"gb": value}
    if value is None or isinstance(value, GrowthStep | Mapping | list | tuple):
        return value  # pyright: ignore[reportUnknownVariableType]
    raise ValueError(
        "must be so many GiB, {gb: 2, seconds: 60} or [[second, GiB], ...], "
        f"not {shown_value(value)}{number_taken_for_text(value)}"
    )


def _form(value: object) -> str:
    return "points" if isinstance(value, list | tuple) else "step"


def _in_order(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    for position, ((before, _), (second, _)) in enumerate(pairwise(points), 1):
        if second < before:
            words = f"must not be before the point above it: {second:g} s comes after {before:g} s"
            raise PydanticCustomError("contradiction", "{words}", {"key": position, "words": words})
    return points


Points = Annotated[tuple[tuple[Seconds, Size], ...], AfterValidator(_in_order)]
Growth = Annotated[
    Annotated[
        Annotated[GrowthStep, Tag("step")] | Annotated[Points, Tag("points")], Discriminator(_form)
    ]
    | None,
    BeforeValidator(_growth),
]


class _Event(_Part):
    at: Seconds = 0.0
    until: Seconds | None = None
    """To the end of the trace if left out."""

    @model_validator(mode="after")
    def _ordered(self) -> _Event:
        if self.until is not None and self.until < self.at:
            raise ValueError(f"until ({self.until:g}) is before at ({self.at:g})")
        return self

    def plays(self, end: float) -> bool:
        """Whether it begins before a trace's end, and lasts."""
        return self.at < end and (self.until is None or self.until > self.at)


class Model(_Event):
    """One of our models, from when it is asked for until it is not needed any more."""

    name: str = Field(min_length=1)
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    """The higher, the longer it stays on a card."""
    need_gb: Size
    """What is expected of it before it was ever measured; without the CUDA context."""
    true_gb: Size | None = None
    """What it really takes; ``need_gb`` if left out."""
    growth: Growth = None
    """What it takes beyond ``true_gb`` over time."""
    holder: str = "vision-worker"
    """The process that loads it; models of one process share a CUDA context on a card."""
    load_seconds: Seconds = 2.0
    """From a decision until it runs, the first time."""
    move_seconds: Seconds = 0.7
    """The same when its weights are in host memory already."""

    @property
    def peak_gb(self) -> float:
        """What it takes when it was just loaded."""
        return self.need_gb if self.true_gb is None else self.true_gb


class Program(_Event):
    """Memory that another program takes. Each entry is an allocation of its own: entries of one
    process add up."""

    device: Index
    process: str = Field(default="program", validation_alias=AliasChoices("process", "name"))
    gb: Size
    llm: bool = False
    """The main LLM: its allocations must succeed."""
    growth: Growth = None


Fault = Literal["stale", "not_supported", "zero", "lost", "no_processes"]


class SensorFault(_Event):
    """What is wrong with the readings of a card (of all, without ``device``)."""

    kind: Fault = Field(validation_alias=AliasChoices("kind", "fault", "type"))
    device: Index | None = None
    field: Literal["all", "total", "free", "used"] = "all"
    """For ``zero``: which figure the driver gives as 0."""


class Jitter(_Part):
    """How seeds differ from the trace as it is written, which is seed 0."""

    seconds: Seconds = 2.0
    size: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.03


def _cards(value: object) -> object:
    if isinstance(value, Mapping) and "cards" in value:
        section = cast("Mapping[str, object]", value)
        for key in section:
            if key != "cards":
                words = "there is no such key: a rig is its cards alone"
                raise PydanticCustomError("contradiction", "{words}", {"key": key, "words": words})
        value = section["cards"]
    if value is None or value in ([], (), {}):
        raise ValueError("names no card: write at least one, as {name: RTX 4070, total_gb: 12}")
    return value  # pyright: ignore[reportUnknownVariableType]


def _nothing(value: object) -> object:
    return () if value is None else value


class Trace(_Part):
    """A whole trace."""

    name: str = ""
    description: str = ""
    duration: Annotated[Seconds, Field(gt=0)] | None = Field(
        default=None, validation_alias=AliasChoices("duration", "seconds", "duration_seconds")
    )
    rig: Annotated[tuple[Card, ...], BeforeValidator(_cards), Field(max_length=64)]
    gpu_memory: Annotated[
        GPUMemoryConfig, BeforeValidator(lambda value: {} if value is None else value)
    ] = GPUMemoryConfig()
    models: Annotated[tuple[Model, ...], BeforeValidator(_nothing)] = ()
    foreign: Annotated[tuple[Program, ...], BeforeValidator(_nothing)] = ()
    sensor: Annotated[tuple[SensorFault, ...], BeforeValidator(_nothing)] = ()
    jitter: Jitter = Jitter()

    @property
    def end(self) -> float:
        """Seconds that are played."""
        if self.duration is not None:
            return self.duration
        events: list[_Event] = [*self.models, *self.foreign, *self.sensor]
        last = max((max(e.at, e.until or 0.0) for e in events), default=0.0)
        endless = any(e.until is None for e in (*self.models, *self.foreign))
        return last + TAIL_SECONDS * (5 if endless else 1)
