"""Values that are well by themselves and make no sense together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bot.yaml_document import Problem
from danzar_gpu.refusals import Where, dotted

if TYPE_CHECKING:
    from bot.settings import Settings


def contradictions(settings: Settings, lines: Mapping[Where, int]) -> list[Problem]:
    """One problem for each, at the key that has to change, in the order of the file's lines.

    ``lines``: from the path of each written key to its line.
    """
    found = [
        Problem(lines.get(where), dotted(where), words)
        for where, words in (
            *_devices(settings, lines),
            *_sizes(settings, lines),
            *_lists(settings),
            *_address(settings),
        )
    ]
    return sorted(found, key=lambda problem: problem.line or 0)


def _devices(settings: Settings, lines: Mapping[Where, int]) -> Iterator[tuple[Where, str]]:
    memory = settings.gpu_memory
    if memory.main_llm_index != memory.vision_index:
        return
    llm, vision = ("gpu_memory", "main_llm_device"), ("gpu_memory", "vision_device")
    device = memory.main_llm_device
    if vision not in lines:
        yield (
            llm,
            f"is {device}, which vision_device is by default, too: write another vision_device",
        )
    elif llm not in lines:
        yield vision, f"is {device}, which main_llm_device is by default, too: write both"
    else:
        yield (
            vision,
            f"must be another card than main_llm_device (line {lines[llm]}), not {device}, too; "
            "with a single card leave vision_device out: vision then gets what is not promised "
            "to the LLM",
        )


def _sizes(settings: Settings, lines: Mapping[Where, int]) -> Iterator[tuple[Where, str]]:
    pressure, headroom = settings.gpu_memory.pressure_gb, settings.gpu_memory.headroom_gb
    if pressure > headroom:
        why = "a model would have to leave as soon as it came"
        written = ("gpu_memory", "pressure_gb")
        if written in lines:
            yield (
                written,
                f"must be at most headroom_gb, which is {headroom:g}, not {pressure:g}: {why}",
            )
        else:
            here = ("gpu_memory", "headroom_gb")
            yield (
                here,
                f"must be at least pressure_gb, which is {pressure:g}, not {headroom:g}: {why}",
            )


def _lists(settings: Settings) -> Iterator[tuple[Where, str]]:
    lists: list[tuple[Where, tuple[str, ...]]] = [(("yolo", "classes"), settings.yolo.classes)]
    lists += [(("clip", "profiles", n), given) for n, given in settings.clip.profiles.items()]
    for where, given in lists:
        seen: set[str] = set()
        for position, name in enumerate(given):
            if not name.strip():
                yield (*where, position), "must be a word, not blanks"
            elif name in seen:
                yield (*where, position), f"is there twice: {name!r}"
            seen.add(name)


def _address(settings: Settings) -> Iterator[tuple[Where, str]]:
    endpoint = settings.gpu_memory.main_llm_endpoint
    try:
        well = endpoint is None or urlsplit(endpoint).port != 0
    except ValueError:
        well = False
    if not well:
        yield ("gpu_memory", "main_llm_endpoint"), "must have a port between 1 and 65535"
