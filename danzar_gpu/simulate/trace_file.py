"""Reads a trace from YAML. Whatever is wrong is refused with file, line and key."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from danzar_gpu.file_errors import why
from danzar_gpu.plural import counted
from danzar_gpu.refusals import Where, plainer
from danzar_gpu.simulate.trace import Trace
from danzar_gpu.simulate.trace_problems import Problem, contradictions, problems

MAX_BYTES = 4_000_000
MAX_NODES = 500_000
MAX_DEPTH = 12
MAX_SHOWN = 20


class TraceError(Exception):
    """A trace was refused; each line of the message has file, line and key."""

    def __init__(self, path: Path | str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [
            f"{path}:{f'{line}:' if line else ''} {key + ': ' if key else ''}{what}"
            for line, key, what in self.problems[:MAX_SHOWN]
        ]
        if more := len(self.problems) - len(lines):
            lines.append(f"{path}: and {counted(more, 'more problem')}")
        super().__init__("\n".join(lines))


def load(path: Path | str) -> Trace:
    """Read a trace from a file. Raises ``TraceError``."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TraceError(path, [(None, "", f"can't be read: {why(error, path)}")]) from None
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
        what = f"is not YAML: {plainer(error.problem or error.context or 'malformed')}"
        raise TraceError(path, [(mark.line + 1 if mark else None, "", what)]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = f"is not YAML: {str(error) or type(error).__name__}".splitlines()[0]
        raise TraceError(path, [(None, "", what)]) from None
    if not isinstance(data, dict):
        raise TraceError(path, [(1, "", "must be a mapping with rig:, models: and foreign:")])
    try:
        trace = Trace.model_validate(data)
    except ValidationError as error:
        raise TraceError(path, problems(error, lines, most=MAX_SHOWN)) from None
    if found := contradictions(trace, lines):
        raise TraceError(path, found)
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


def _lines(node: yaml.Node | None) -> dict[Where, int]:
    """The line of every key and item. Raises ``yaml.MarkedYAMLError`` beyond all measure."""
    found: dict[Where, int] = {}

    def walk(at: yaml.Node, key: Where, depth: int) -> None:
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
