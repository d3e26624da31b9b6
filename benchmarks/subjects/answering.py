"""A subject's end of the line: JSON lines in, JSON lines out, and nothing else on that pipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def answer_lines(do: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer each line until the input ends. What libraries print goes to standard error."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=pipe, flush=True)
    for line in sys.stdin:
        print(json.dumps(do(json.loads(line))), file=pipe, flush=True)
