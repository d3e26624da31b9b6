"""What a trace is: a rig, the product's keys, models, other programs, faults of the sensor.

A trace is YAML. Unknown keys and bad values are refused with file, line and key; docs/simulate.md
explains every key with an example.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from danzar_gpu.config import GPUMemoryConfig

MAX_BYTES = 4_000_000
MAX_NODES = 500_000
MAX_DEPTH = 12
MAX_SHOWN = 20
TAIL_SECONDS = 60.0
"""A trace without a duration goes on this long after its last event, five times as long where
something has no end."""

Key = tuple[str | int, ...]
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h)")


def _seconds(value: object) -> object:
    """``90``, ``"90s"``, ``"2m"``, ``"1h 30m"`` as seconds."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    parts = _DURATION.findall(text)
    if parts and _DURATION.sub("", text).strip() == "":
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    return value


def _index(value: object) -> object:
    """``cuda:1``, ``"1"`` and ``1`` are the same card."""
    if isinstance(value, str):
        match = re.fullmatch(r"(?:cuda:)?(\d{1,3})", value.strip().lower())
        if match:
            return int(match[1])
    return value


Seconds = Annotated[
    float, BeforeValidator(_seconds), Field(ge=0, le=1e9, allow_inf_nan=False, strict=True)
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
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return {"gb": value}
    return value


Points = tuple[tuple[Seconds, Size], ...]
Growth = Annotated[GrowthStep | Points | None, BeforeValidator(_growth)]


class _Event(_Part):
    at: Seconds = 0.0
    until: Seconds | None = None
    """To the end of the trace if left out."""

    @model_validator(mode="after")
    def _ordered(self) -> _Event:
        if self.until is not None and self.until < self.at:
            raise ValueError(f"until ({self.until:g}) is before at ({self.at:g})")
        return self


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
    if isinstance(value, Mapping) and set(value) == {"cards"}:  # pyright: ignore[reportUnknownArgumentType]
        return value["cards"]  # pyright: ignore[reportUnknownVariableType]
    return value  # pyright: ignore[reportUnknownVariableType]


def _nothing(value: object) -> object:
    return () if value is None else value


class Trace(_Part):
    """A whole trace."""

    name: str = ""
    description: str = ""
    duration: Seconds | None = Field(
        default=None, validation_alias=AliasChoices("duration", "seconds", "duration_seconds")
    )
    rig: Annotated[tuple[Card, ...], BeforeValidator(_cards), Field(min_length=1, max_length=64)]
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


class TraceError(Exception):
    """A trace was refused; each line of the message has file, line and key."""

    def __init__(self, path: Path | str, problems: Sequence[tuple[int | None, str, str]]) -> None:
        self.problems = tuple(problems)
        lines = [
            f"{path}:{line or 1}: {key + ': ' if key else ''}{what}"
            for line, key, what in self.problems[:MAX_SHOWN]
        ]
        if more := len(self.problems) - len(lines):
            lines.append(f"{path}: and {more} more problems")
        super().__init__("\n".join(lines))


def load(path: Path | str) -> Trace:
    """Read a trace from a file. Raises ``TraceError``."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TraceError(path, [(None, "", f"can't be read: {error.strerror}")]) from None
    if len(raw) > MAX_BYTES:
        raise TraceError(path, [(None, "", f"is larger than {MAX_BYTES} bytes")])
    trace = parse(raw, path)
    return trace if trace.name else trace.model_copy(update={"name": path.stem})


def parse(raw: bytes | str, path: Path | str = "trace") -> Trace:
    """Validate the text of a trace; ``path`` names it in errors. Raises ``TraceError``."""
    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
        lines = _lines(_composed(text))
        data: Any = yaml.load(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        raise TraceError(path, [(None, "", f"is not UTF-8 text: {error.reason}")]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        what = f"is not YAML: {error.problem or error.context}"
        raise TraceError(path, [(mark.line + 1 if mark else None, "", what)]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = f"is not YAML: {str(error) or type(error).__name__}".splitlines()[0]
        raise TraceError(path, [(None, "", what)]) from None
    if not isinstance(data, dict):
        raise TraceError(path, [(1, "", "must be a mapping with rig:, models: and foreign:")])
    try:
        trace = Trace.model_validate(data)
    except ValidationError as error:
        raise TraceError(path, _problems(error, lines)) from None
    _check_devices(trace, lines, path)
    return trace


def _composed(text: str) -> yaml.Node | None:
    loader: Any = yaml.SafeLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(
                    None, None, f"the key {name!r} is there twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _lines(node: yaml.Node | None) -> dict[Key, int]:
    """The line of every key and item. Raises ``yaml.MarkedYAMLError`` beyond all measure."""
    found: dict[Key, int] = {}

    def walk(at: yaml.Node, key: Key, depth: int) -> None:
        if depth > MAX_DEPTH or len(found) > MAX_NODES:
            # Aliases of aliases: small on disk, huge when followed.
            raise yaml.MarkedYAMLError(None, None, "too large or too deep", at.start_mark)
        if isinstance(at, yaml.MappingNode):
            for name, value in at.value:
                found[(*key, str(name.value))] = name.start_mark.line + 1
                walk(value, (*key, str(name.value)), depth + 1)
        elif isinstance(at, yaml.SequenceNode):
            for position, value in enumerate(at.value):
                found[(*key, position)] = value.start_mark.line + 1
                walk(value, (*key, position), depth + 1)

    if node is not None:
        walk(node, (), 0)
    return found


_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "there is no such key",
    "tuple_type": "must be a list",
    "model_type": "must be a section with keys of its own",
    "dict_type": "must be a section with keys of its own",
}


def _problems(
    error: ValidationError, lines: Mapping[Key, int]
) -> list[tuple[int | None, str, str]]:
    found: list[tuple[int | None, str, str]] = []
    seen: set[str] = set()
    for problem in error.errors(include_url=False, include_context=True):
        # Names of union members and validators are not part of anybody's file.
        key: Key = tuple(part for part in problem["loc"] if isinstance(part, int) or _is_key(part))
        where = key
        while where and where not in lines:
            where = where[:-1]
        words = _WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        given = problem.get("input")
        if problem["type"] not in _WORDS and isinstance(given, str | int | float):
            words = f"{words} (not {given!r})"
        shown = _dotted(key)
        if shown not in seen:  # one bad value can fail each member of a union
            seen.add(shown)
            found.append((lines.get(where), shown, words))
    return found


def _is_key(part: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ -]*", part)) and part not in (
        "GrowthStep",
        "float",
        "str",
    )


def _dotted(key: Iterable[str | int]) -> str:
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _check_devices(trace: Trace, lines: Mapping[Key, int], path: Path | str) -> None:
    cards = len(trace.rig)
    problems: list[tuple[int | None, str, str]] = []
    for section, entries in (("foreign", trace.foreign), ("sensor", trace.sensor)):
        for position, entry in enumerate(entries):
            if entry.device is not None and entry.device >= cards:
                key: Key = (section, position, "device")
                what = f"there is no card {entry.device} (cards here: 0 to {cards - 1})"
                problems.append((lines.get(key), _dotted(key), what))
    if problems:
        raise TraceError(path, problems)
