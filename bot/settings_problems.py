"""What pydantic has against a configuration, as one clear line for each key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError

from bot.yaml_document import Problem
from danzar_gpu.refusals import (
    PATTERNS,
    Error,
    Where,
    by_key,
    dotted,
    line_of,
    sentence,
    unknown_key,
)

_PATTERNS: Mapping[str, str] = {
    **PATTERNS,
    "^[^\\x00": "a text that is not blank, without control characters",
    "(?i)^(rtsp": "an address such as rtsp://camera/1 (rtmp, udp, rtp, srt, http(s))",
    "^[A-Za-z0-9.:": "a host's name or address",
}


def problems_of(
    error: ValidationError, model: type[BaseModel], lines: Mapping[Where, int], *, most: int
) -> list[Problem]:
    """One problem a key, in the order of the file's lines; ``most`` of them in detail."""
    # To look for a similar key takes time, and thousands may be wrong.
    return [
        Problem(
            line_of(where, lines),
            dotted(where),
            _sentence(where, errors, model) if position < most else "is wrong, too",
        )
        for position, (where, errors) in enumerate(by_key(error, lines).items())
    ]


def _sentence(where: Where, errors: Sequence[Error], model: type[BaseModel]) -> str:
    if errors[0]["type"] != "extra_forbidden":
        return sentence(errors, _PATTERNS)
    if "token" in str(where[-1]).lower():
        return "must not be here: the token comes from DISCORD_TOKEN or DISCORD_TOKEN_FILE"
    return unknown_key(where, model, "is not a key that Danzar knows")
