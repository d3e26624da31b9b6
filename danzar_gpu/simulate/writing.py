"""A trace as YAML, as ``load`` reads it."""

from __future__ import annotations

from typing import Any, cast

import yaml

from danzar_gpu.simulate.trace import Trace


def as_yaml(trace: Trace, comment: str = "") -> str:
    """The text of a trace, one line for each card, model, program and fault."""
    data: dict[str, Any] = trace.model_dump(mode="json", exclude_defaults=True)
    lines = [f"# {line}" if line else "#" for line in comment.splitlines()]
    for key, value in data.items():
        if isinstance(value, list):
            lines.append(f"{key}:")
            lines += [f"  - {_flow(entry)}" for entry in cast("list[object]", value)]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: object) -> str:
    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1_000_000
    )
    return text.removesuffix("\n").removesuffix("...").rstrip()
