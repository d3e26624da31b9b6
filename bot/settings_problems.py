"""What pydantic has against a configuration, as one clear line for each key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from bot.yaml_document import Problem, Where, dotted

LONGEST_VALUE = 60

_SECRETS = (
    (re.compile(r":.*@", re.DOTALL), ":...@"),
    (re.compile(r"(:.*?\?).*", re.DOTALL), r"\1..."),
)
"""Name and password before an address's host, and its query."""


def problems_of(
    error: ValidationError, model: type[BaseModel], lines: Mapping[Where, int], *, most: int
) -> list[Problem]:
    """One problem a key, in the order of the file's lines; ``most`` of them in detail.

    Where a key takes this or that (a device or ``cpu``), pydantic reports each alternative by
    itself: here they are one sentence.
    """
    by_key: dict[Where, list[Any]] = {}
    for one in error.errors(include_url=False):
        where: Where = tuple(one["loc"])
        if one["type"] == "contradiction":  # of a whole section, which names the key
            where = (*where, one.get("ctx", {})["key"])
        # What follows the last written key is pydantic's own: the name of an alternative.
        while where and where not in lines:
            where = where[:-1]
        by_key.setdefault(where, []).append(one)
    in_order = sorted(by_key, key=lambda where: lines.get(where) or 0)
    # To look for a similar key takes time, and thousands may be wrong.
    return [
        Problem(
            lines.get(where),
            dotted(where),
            _sentence(where, by_key[where], model) if position < most else "is wrong, too",
        )
        for position, where in enumerate(in_order)
    ]


def _sentence(where: Where, errors: list[Any], model: type[BaseModel]) -> str:
    first = errors[0]
    if first["type"] == "extra_forbidden" and "token" in str(where[-1]).lower():
        return "must not be here: the token comes from DISCORD_TOKEN or DISCORD_TOKEN_FILE"
    if first["type"] == "extra_forbidden":
        return "is not a key that Danzar knows" + _suggestion(where, model)
    if first["type"] == "contradiction":
        return first["ctx"]["words"]
    if first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    alternatives = list(dict.fromkeys(_expectation(one) for one in errors))
    words = "must be " + ", or ".join(alternatives)
    shown = _shown(first["input"])
    return f"{words}, not {shown}" if shown else words


def _expectation(error: Any) -> str:
    """What was expected, to follow the words ``must be``."""
    context = error.get("ctx", {})
    match error["type"]:
        case "string_pattern_mismatch" if str(context.get("pattern")).startswith("^cuda:"):
            return "a device such as cuda:0"
        case "string_pattern_mismatch" if str(context.get("pattern")).startswith("^https"):
            return "an address with http:// or https://"
        case "string_pattern_mismatch" if str(context.get("pattern")).startswith("^[^\\x00"):
            return "a text that is not blank, without control characters"
        case "string_pattern_mismatch" if str(context.get("pattern")).startswith("(?i)^(rtsp"):
            return "an address such as rtsp://camera/1 (rtmp, udp, rtp, srt, http(s))"
        case "string_pattern_mismatch" if str(context.get("pattern")).startswith("^[A-Za-z0-9.:"):
            return "a host's name or address"
        case "string_pattern_mismatch":
            return f"of the form {context.get('pattern')}"
        case "literal_error":
            return str(context["expected"])
        case "model_type" | "dict_type":
            return "a section with keys of its own"
        case "tuple_type" | "list_type":
            return "a list"
        case "string_type":
            return "a word"
        case "bool_type":
            return "true or false"
        case "int_type" | "int_from_float":
            return "a whole number"
        case "float_type":
            return "a number"
        case "string_too_short":
            return f"at least {_count(context['min_length'], 'character')} long"
        case "string_too_long":
            return f"at most {_count(context['max_length'], 'character')} long"
        case "missing" if isinstance(error["loc"][-1], int):
            return f"complete: item {error['loc'][-1] + 1} is missing"
        case "too_short":
            return f"a list of at least {_count(context['min_length'], 'item')}"
        case "too_long":
            return f"a list of at most {_count(context['max_length'], 'item')}"
        case _:
            return str(error["msg"]).removeprefix("Input should be ")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _shown(value: Any) -> str:
    """The value that was refused, where it is short enough to show."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ""
    if isinstance(value, str):
        for secret, shown in _SECRETS:
            value = secret.sub(shown, value)
    words = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return words if len(words) <= LONGEST_VALUE else ""


def _suggestion(where: Where, model: type[BaseModel]) -> str:
    """A known key that looks like the unknown one."""
    for part in where[:-1]:
        found = model.model_fields.get(str(part))
        if found is None or not isinstance(found.annotation, type):
            return ""
        if not issubclass(found.annotation, BaseModel):
            return ""
        model = found.annotation
    near = difflib.get_close_matches(str(where[-1])[:80], model.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else ""
