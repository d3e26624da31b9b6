"""``docs/configuration.md``, made from the models: ``python -m bot.settings_docs``.

The page can't drift from the program: a test compares it with what this prints.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from bot.settings import DEFAULT_PATH, Settings, SettingsError, parse

INTRODUCTION = """\
# Configuration

<!-- Made by `make docs` from bot/settings.py and danzar_gpu/config.py. Don't edit it by hand. -->

Danzar reads `{path}` at the start, and again on `SIGHUP` (`systemctl reload`) or
`gpu reload` in chat. Every section and every key is optional: what is missing has the default
below. Unknown keys, keys that appear twice and values that don't fit, alone or together, are
refused with file, line and key. The bot never works with half a configuration: at the start it
ends, later it goes on with what it had.

    {refusal}

After a reload everything is in use at once but `data`, `observability` and `vision.autostart`,
which count at the next start; the answer and the log name what changed. Of vision only what a
change concerns is started again: a model for its threshold, the capture for its rate, the worker
for `vision.cpu_budget`. What people chose in chat stays above the file.

`danzar config check [FILE]` reads the file without starting anything, and looks whether the models
and the film or pictures that it names are there. Where there is an NVIDIA driver it knows the
cards, too: devices that don't exist, a reservation larger than its card. A reload refuses such a
reservation, and a model, film or folder that it newly names and that is not there. A start goes on
and says so, since a card or a disk may be away for once.

Sizes in GB are GiB (1,073,741,824 bytes), as in the commands' answers. Numbers, words and
`true`/`false` are not taken for each other: `"5"` is no number. Anchors and aliases (`&x`, `*x`)
work; merging (`<<`) and several documents in one file don't.

The Discord token is never in this file: it comes from the environment variable `DISCORD_TOKEN`,
or from a file that `DISCORD_TOKEN_FILE` names.
"""

KINDS_OF_TEXT = {
    "^cuda:": "device such as `cuda:0`",
    "^https": "address with `http://` or `https://`",
    "(?i)^(": "address such as `rtsp://camera/1`",
    "^[A-Za": "host's name or address",
}
"""What a text must be, by the beginning of its pattern."""

LONGEST_DEFAULT = 60
"""Characters; what is longer stands below its section's table."""


def page() -> str:
    """The whole page as Markdown."""
    # Of the whole file, because a section's value may come from another one.
    defaults = Settings()
    path = DEFAULT_PATH.as_posix()
    parts = [INTRODUCTION.format(path=path, refusal=_refusal(path))]
    for key, field in Settings.model_fields.items():
        model = field.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel), key
        parts.append(f"\n## `{key}`\n")
        parts.append(f"\n{inspect.cleandoc(model.__doc__ or '').splitlines()[0]}\n")
        parts.append("\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n")
        parts.extend(_section(key, model, getattr(defaults, key)))
    return "".join(parts)


def _refusal(path: str) -> str:
    """What the program really says to a wrong device."""
    try:
        parse("yolo:\n  model_path: models/yolo-nano.pt\n  device: cuda1\n", path)
    except SettingsError as error:
        return str(error)
    raise AssertionError("cuda1 is taken for a device")


def _section(section: str, model: type[BaseModel], defaults: BaseModel) -> Iterator[str]:
    properties = model.model_json_schema()["properties"]
    long: list[str] = []
    for key, field in model.model_fields.items():
        value = getattr(defaults, key)
        default = "nothing" if value is None else f"`{_as_yaml(value)}`"
        if len(default) > LONGEST_DEFAULT:
            long.append(_block(section, key, value))
            default = "below"
        cells = [f"`{key}`", _type(properties[key]), default, field.description or ""]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    yield from long


def _as_yaml(value: Any) -> str:
    """One line that the file could hold: JSON is YAML, too."""
    return json.dumps(value, ensure_ascii=False)


def _block(section: str, key: str, value: Any) -> str:
    text = yaml.safe_dump(
        {section: {key: json.loads(_as_yaml(value))}}, allow_unicode=True, sort_keys=False
    )
    return f"\nThe default of `{key}`:\n\n```yaml\n{text}```\n"


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words: ``number, above 0, at most 120``."""
    if "anyOf" in schema:
        kinds = [_type(one) for one in schema["anyOf"]]
        return ", or ".join(kinds) if any("," in kind for kind in kinds) else " or ".join(kinds)
    if "enum" in schema or "const" in schema:
        choices = schema.get("enum", [schema.get("const")])
        *most, last = [f"`{choice}`" for choice in choices]
        return f"{', '.join(most)} or {last}" if most else last
    kind = schema.get("type")
    if kind == "null":
        return "nothing"
    if kind == "boolean":
        return "`true` or `false`"
    if kind == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])} {_plural(schema['prefixItems'][0])}"
        return f"list of {_plural(schema['items'])}"
    if kind == "object":
        return f"names, each with a {_type(schema['additionalProperties'])}"
    if kind == "string":
        return KINDS_OF_TEXT.get(str(schema.get("pattern"))[:6], "text")
    number = "whole number" if kind == "integer" else "number"
    return ", ".join([number, *_bounds(schema)])


def _plural(schema: dict[str, Any]) -> str:
    return {"integer": "whole numbers", "number": "numbers", "string": "texts"}[schema["type"]]


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    for name, words in (
        ("exclusiveMinimum", "above"),
        ("minimum", "at least"),
        ("exclusiveMaximum", "below"),
        ("maximum", "at most"),
        ("multipleOf", "a multiple of"),
    ):
        if name in schema:
            yield f"{words} {schema[name]:,}"


def main() -> int:
    sys.stdout.write(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
