"""Changes a document where it means something: bytes that were swapped rarely pass a parser."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

import yaml

ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1e308,
    float("nan"),
    float("inf"),
    2**63,
    10**400,
    "",
    " ",
    "a" * 3000,
    "\ud800",
    "\0",
    "cuda:99999999999999999999",
    "../../etc/passwd",
    [],
    {},
    [[[[[]]]]],
    {"": {"": ""}},
)
"""Values that a person would not have meant."""

Place = tuple[Any, Any]
"""A mapping or list, and the key or index of a value in it."""


def mutated(data: bytes, random: Random) -> bytes | None:
    """The document with one to three values changed, as JSON; ``None`` if it is none."""
    try:
        document = yaml.load(data, yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    root = [document]
    for _ in range(random.randint(1, 3)):
        places = list(_places(root))
        _change(*random.choice(places), places, random)
    try:
        return json.dumps(root[0] if root else None, default=str).encode()
    except (ValueError, TypeError, RecursionError):
        return None


def _places(container: Any) -> list[Place]:
    found: list[Place] = []
    waiting = [container]
    while waiting and len(found) < 2000:
        each = waiting.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each))
        for key in keys:
            found.append((each, key))
            if isinstance(each[key], dict | list):
                waiting.append(each[key])
    return found


def _change(container: Any, key: Any, places: list[Place], random: Random) -> None:
    other, other_key = random.choice(places)
    match random.randrange(6):
        case 0 | 1:
            container[key] = copy.deepcopy(random.choice(ODD))
        case 2:
            container[key] = copy.deepcopy(other[other_key])
        case 3 if isinstance(container, dict):
            container[random.choice(("", "nonsense", str(other_key), "a.b", "\n"))] = container[key]
        case 4 if isinstance(container, dict):
            del container[key]
        case 5 if isinstance(container[key], int | float):
            container[key] = container[key] * random.choice((-1, 0, 1000, 10**12))
        case _:
            container[key] = [container[key]] * random.choice((1, 2, 50))
