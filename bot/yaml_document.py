"""A YAML file as plain values, with the line of every key, and nothing that can hurt.

PyYAML's own constructor raises half a dozen kinds of errors on odd values, keeps the last of two
equal keys, and follows aliases as often as they are written: ten lines can ask for gigabytes.
Here values are built from the parsed nodes, within bounds, and every refusal has its line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import yaml

from bot.text_file import decode
from danzar_gpu.refusals import Where, dotted, plainer

MAX_BYTES = 1 << 18
MAX_DEPTH = 20
MAX_VALUES = 20_000
"""Counted as often as an alias repeats them."""
MAX_NUMBER_LENGTH = 32

HALF_CHARACTER = "holds half of a character (a lone surrogate)"

_TAG = "tag:yaml.org,2002:"
_CONSTRUCTOR = yaml.constructor.SafeConstructor()


class _TooDeep(Exception):
    """Nesting that no configuration needs, on this line."""

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__(line)


class _ShallowLoader(yaml.SafeLoader):
    """Stops at deep nesting, for which PyYAML needs time that grows with the square of it."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level > MAX_DEPTH:
            raise _TooDeep(self.get_mark().line + 1)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        if self.indent < column and len(self.indents) > MAX_DEPTH:
            raise _TooDeep(self.get_mark().line + 1)
        return super().add_indent(column)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the file."""

    line: int | None
    key: str
    message: str


class DocumentError(Exception):
    """The text was refused; ``problems`` says why, line by line."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(problem.message for problem in problems))


@dataclass(slots=True)
class Document:
    """What stands in the file."""

    data: Any = None
    lines: dict[Where, int] = field(default_factory=dict[Where, int])
    """From the path of a key or a list's item to its line, from 1."""
    problems: list[Problem] = field(default_factory=list[Problem])
    values: int = 0


def read(raw: bytes | str) -> Document:
    """Parse YAML text into dicts with string keys, lists, strings, numbers, booleans and None.

    Raises:
        DocumentError: it is no text, no YAML, too large, or holds what no configuration needs.
    """
    text = _decode(raw)
    try:
        root = yaml.compose(text, Loader=_ShallowLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        words = error.problem or error.context or "malformed"
        if words.startswith("but ") and error.context:
            words = f"{error.context}, {words}"
        raise DocumentError([Problem(line, "", f"is not valid YAML: {plainer(words)}")]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        words = f"is not valid YAML: character {error.character:#x} is not allowed"
        raise DocumentError([Problem(line, "", words)]) from None
    except _TooDeep as error:
        raise DocumentError([Problem(error.line, "", "is nested too deeply")]) from None
    except RecursionError:
        raise DocumentError([Problem(1, "", "is nested too deeply")]) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets a few of Python's own errors through: an escape beyond Unicode, `%YAML 9..9`.
        words = " ".join(str(error).split())
        raise DocumentError([Problem(1, "", f"is not valid YAML: {words}")]) from None
    document = Document()
    if root is not None:
        document.data = _value(root, (), document)
    if document.problems:
        raise DocumentError(document.problems)
    return document


def _decode(raw: bytes | str) -> str:
    if len(raw) > MAX_BYTES:
        raise DocumentError([Problem(1, "", f"is larger than {MAX_BYTES // 1024} KiB")])
    if isinstance(raw, str):
        return raw
    try:
        return decode(raw)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DocumentError([Problem(line, "", "is not text in UTF-8")]) from None


def _value(node: yaml.Node, where: Where, document: Document) -> Any:
    line = node.start_mark.line + 1
    document.values += 1
    if document.values > MAX_VALUES:
        # Not one more problem among others: to go on would be the harm.
        words = f"holds more than {MAX_VALUES} values, aliases counted as often as they are used"
        raise DocumentError([*document.problems[:1], Problem(line, "", words)])
    if len(where) > MAX_DEPTH:
        raise DocumentError([Problem(line, "", "is nested too deeply")])
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node, where, document)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        items: list[Any] = []
        for position, item in enumerate(node.value):
            document.lines[(*where, position)] = item.start_mark.line + 1
            items.append(_value(item, (*where, position), document))
        return items
    if isinstance(node, yaml.ScalarNode):
        try:
            return _scalar(node)
        except ValueError as error:
            document.problems.append(Problem(line, dotted(where), str(error)))
            return None
    words = f"has a tag that is not allowed here: {dotted((node.tag,))}"
    document.problems.append(Problem(line, dotted(where), words))
    return None


def _mapping(node: yaml.MappingNode, where: Where, document: Document) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            document.problems.append(Problem(line, dotted(where), "a key must be a word"))
            continue
        # As written, whatever YAML makes of it: the words `on`, `no` and 1 may be keys.
        name = str(key.value)
        here = (*where, name)
        if key.tag == _TAG + "merge":
            words = "merging with << is not supported: write the keys out"
            document.problems.append(Problem(line, dotted(here), words))
            continue
        if name in values:
            first = document.lines[here]
            words = f"appears twice (first on line {first})"
            document.problems.append(Problem(line, dotted(here), words))
            continue
        document.lines[here] = line
        if _half_character(name):
            document.problems.append(Problem(line, dotted(here), HALF_CHARACTER))
            continue
        values[name] = _value(value, here, document)
    return values


def _scalar(node: yaml.ScalarNode) -> Any:
    """The value of a word. Raises ``ValueError`` with words for people."""
    text = str(node.value)
    match node.tag.removeprefix(_TAG):
        # A date is a word here: no key wants one, and 2026-13-45 would raise.
        case "str" | "timestamp":
            if _half_character(text):
                raise ValueError(HALF_CHARACTER)
            return text
        case "null":
            return None
        case "bool" if text.lower() in _CONSTRUCTOR.bool_values:
            return _CONSTRUCTOR.bool_values[text.lower()]
        case "int" | "float" as kind:
            return _number(node, text, kind)
        case _:
            raise ValueError(f"has a tag that is not allowed here: {dotted((node.tag,))}")


def _half_character(text: str) -> bool:
    """Whether text can't be written as UTF-8; YAML's escapes can make such."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _number(node: yaml.ScalarNode, text: str, kind: str) -> int | float:
    if len(text) > MAX_NUMBER_LENGTH:
        raise ValueError(f"is a number of {len(text)} characters")
    try:
        if kind == "int":
            return _CONSTRUCTOR.construct_yaml_int(node)
        number = _CONSTRUCTOR.construct_yaml_float(node)
    except (ValueError, IndexError, OverflowError):
        raise ValueError(f"is not a number: {dotted((text,))}") from None
    if not math.isfinite(number):
        raise ValueError(f"must be a finite number, not {dotted((text,))}")
    return number
