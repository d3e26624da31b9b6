"""What pydantic has against a person's YAML file, in our words.

The configuration and traces share the sentences; what is special about either is said there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo

from danzar_gpu.plural import counted

Where = tuple[str | int, ...]
Error = Mapping[str, Any]
"""One of pydantic's, as ``ValidationError.errors`` has it."""

LONGEST_VALUE = 60

PATTERNS: Mapping[str, str] = {
    "^cuda:": "a device such as cuda:0",
    "^https": "an address with http:// or https://",
}
"""How a text's pattern begins, and what it wants."""

_SECRETS = (
    (re.compile(r":.*@", re.DOTALL), ":...@"),
    (re.compile(r"(:.*?\?).*", re.DOTALL), r"\1..."),
)
"""Name and password before an address's host, and its query."""

_EXPONENT = re.compile(r"([-+]?\d+)(\.\d*)?e([-+]?)(\d+)", re.IGNORECASE)


def by_key(error: ValidationError, lines: Mapping[Where, int]) -> dict[Where, list[Error]]:
    """All errors by the key that they are about, in the order of the file's lines.

    Where a key takes this or that (a device or ``cpu``), pydantic reports each alternative by
    itself, under a name that is part of nobody's file: here they belong to the key.
    """
    found: dict[Where, list[Error]] = {}
    for one in error.errors(include_url=False):
        where: Where = ()
        path: Where = tuple(one["loc"])
        if one["type"] == "contradiction":  # of a whole section or list, which names the part
            path = (*path, one.get("ctx", {})["key"])
        for part in path:
            if (*where, part) in lines:
                where = (*where, part)
        if one["type"] == "missing" and isinstance(path[-1], str):
            where = (*where, path[-1])
        found.setdefault(where, []).append(dict(one))
    return dict(sorted(found.items(), key=lambda item: line_of(item[0], lines) or 0))


def line_of(where: Where, lines: Mapping[Where, int]) -> int | None:
    """The line of a key, or of what it is missing in."""
    while where and where not in lines:
        where = where[:-1]
    return lines.get(where)


def dotted(where: Where) -> str:
    """A key's path as people read it. What can't be printed, or is endless, is shown escaped."""
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            part = part if part.isprintable() and len(part) <= 80 else ascii(part[:80])
            text += f".{part}" if text else part
    return text


def sentence(errors: Sequence[Error], patterns: Mapping[str, str] = PATTERNS) -> str:
    """What is wrong with one key, to follow its name and a colon."""
    first = errors[0]
    if first["type"] == "contradiction":
        return str(first["ctx"]["words"])
    if first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        return "is missing"
    if first["type"] == "invalid_key":
        return f"a key must be a word, not {shown_value(first['input'])}"
    words = "must be " + ", or ".join(_expectations(errors, patterns))
    shown = shown_value(first["input"])
    if not shown:
        return words
    advice = number_taken_for_text(first["input"]) if "number" in words else ""
    return f"{words}, not {shown}{advice}"


def unknown_key(where: Where, model: type[BaseModel], words: str) -> str:
    """``words`` for a key that ``model`` lacks, with the key that may be meant. Takes a while."""
    if not where or not isinstance(where[-1], str):  # of a merge (<<), whose keys have no lines
        return words
    for part in where[:-1]:
        if isinstance(part, str):
            field = model.model_fields.get(part)
            inner = next(_models_in(field.annotation), None) if field is not None else None
            if inner is None:
                return words
            model = inner
    key = where[-1][:80]
    names = {
        name: field for field, info in model.model_fields.items() for name in _names(field, info)
    }
    if key in names:
        return f"says the same as {names[key]}, which is there already"
    near = difflib.get_close_matches(key, names, n=1)
    return f"{words}; did you mean {near[0]}?" if near else words


def _names(field: str, info: FieldInfo) -> Iterator[str]:
    alias = info.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else ()
    yield field
    yield from (name for name in choices if isinstance(name, str))


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that a field's type names, itself or as items: ``tuple[Card, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _expectations(errors: Iterable[Error], patterns: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(_expectation(one, patterns) for one in errors))


def _expectation(error: Error, patterns: Mapping[str, str]) -> str:
    """What was expected, to follow the words ``must be``."""
    context = error.get("ctx", {})
    match error["type"]:
        case "string_pattern_mismatch":
            pattern = str(context.get("pattern"))
            known = (words for start, words in patterns.items() if pattern.startswith(start))
            return next(known, f"of the form {pattern}")
        case "literal_error":
            return str(context["expected"])
        case "model_type" | "dict_type":
            return "a section with keys of its own"
        case "tuple_type" | "list_type":
            return "a list"
        case "string_type" | "string_unicode":
            return "a word"
        case "bool_type" | "bool_parsing":
            return "true or false"
        case "int_type" | "int_from_float" | "int_parsing":
            return "a whole number"
        case "float_type" | "float_parsing":
            return "a number"
        case "finite_number":
            return "a finite number"
        case "greater_than_equal":
            return f"at least {_limit(context['ge'])}"
        case "greater_than":
            return f"above {_limit(context['gt'])}"
        case "less_than_equal":
            return f"at most {_limit(context['le'])}"
        case "less_than":
            return f"below {_limit(context['lt'])}"
        case "string_too_short":
            return f"at least {counted(context['min_length'], 'character')} long"
        case "string_too_long":
            return f"at most {counted(context['max_length'], 'character')} long"
        case "missing":
            return f"complete: item {error['loc'][-1] + 1} is missing"
        case "too_short":
            return f"a list of at least {counted(context['min_length'], 'item')}"
        case "too_long":
            return f"a list of at most {counted(context['max_length'], 'item')}"
        case _:
            return str(error["msg"]).removeprefix("Input should be ")


def _limit(number: float) -> str:
    return f"{number:.12g}"


def shown_value(value: Any) -> str:
    """The value that was refused, where it is short enough to show."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):  # YAML makes one of 2026-01-31
        return str(value)
    if isinstance(value, dict):
        return ""
    if isinstance(value, str):
        for secret, shown in _SECRETS:
            value = secret.sub(shown, value)
    words = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return words if len(words) <= LONGEST_VALUE else ""


def plainer(words: str) -> str:
    """A parser's words, but ours for its most frequent complaints."""
    if words.startswith("found character '\\t'"):
        return "a tab is where only spaces may be"
    if "escape" in words:
        return (
            "a \\ between double quotes begins an escape: write a path of Windows without quotes, "
            "or between single ones"
        )
    return words


def number_taken_for_text(value: Any) -> str:
    """How to write a number such as 1e12: YAML wants a dot and the exponent's sign."""
    match = _EXPONENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or (match[2] and match[3]):
        return ""
    whole, fraction, sign, exponent = match.groups()
    fraction = fraction if fraction and fraction != "." else ".0"
    written = f"{whole}{fraction}e{sign or '+'}{exponent}"
    plain = repr(float(value)).removesuffix(".0")
    # Endless or with an exponent of its own it is no help.
    ways = f"{plain} or {written}" if plain.lstrip("-").replace(".", "").isdigit() else written
    return f", which YAML takes for text: write {ways}"
