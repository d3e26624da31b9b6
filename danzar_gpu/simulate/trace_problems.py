"""What is wrong with a trace, by line and key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from danzar_gpu.refusals import Error, Where, by_key, dotted, line_of, sentence, unknown_key
from danzar_gpu.simulate.trace import Trace

Problem = tuple[int | None, str, str]
"""Line, key, and what is wrong with it."""


def problems(error: ValidationError, lines: Mapping[Where, int], *, most: int) -> list[Problem]:
    """What can't be read as a trace: one problem a key, in the order of the file's lines;
    ``most`` of them in detail."""
    # Cards may be written as `rig: {cards: [...]}`, and are the rig's all the same.
    lines = {("rig", *key[2:]): at for key, at in lines.items() if key[:2] == ("rig", "cards")} | {
        **lines
    }
    return [
        (
            line_of(where, lines) or 1,
            dotted(where),
            _words(where, errors) if position < most else "is wrong, too",
        )
        for position, (where, errors) in enumerate(by_key(error, lines).items())
    ]


def _words(where: Where, errors: list[Error]) -> str:
    if errors[0]["type"] == "extra_forbidden":
        return unknown_key(where, Trace, "there is no such key")
    return sentence(errors)


def contradictions(trace: Trace, lines: Mapping[Where, int]) -> list[Problem]:
    """What is well by itself and makes no sense in this trace."""
    cards = len(trace.rig)
    found: list[Problem] = []
    for section, entries in (("foreign", trace.foreign), ("sensor", trace.sensor)):
        for position, entry in enumerate(entries):
            if entry.device is not None and entry.device >= cards:
                where: Where = (section, position, "device")
                words = f"there is no card {entry.device} (cards here: 0 to {cards - 1})"
                found.append((line_of(where, lines), dotted(where), words))
    return sorted(found, key=lambda problem: problem[0] or 0)


def unplayed(trace: Trace) -> Iterator[str]:
    """What would begin when all is over: worth a word, and no harm."""
    for section in ("models", "foreign", "sensor"):
        for position, entry in enumerate(getattr(trace, section)):
            if entry.at >= trace.end:
                yield (
                    f"{section}[{position}] begins at {entry.at:.12g} s, when the trace is over "
                    f"({trace.end:.12g} s): it is not played"
                )
