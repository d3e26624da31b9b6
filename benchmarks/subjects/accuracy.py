"""The shipped models' scores on held-out scenes, backend by backend.

    python -m benchmarks.subjects.accuracy FOLDER

Conversions are kept in the folder. Each question says on how many scenes; the answer has a score
of 0 to 1 by backend and measure, that of torch first.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.subjects.answering import answer_lines


def main() -> None:
    from models.environment import prepare

    prepare()
    from models.backends import cpu_sides, measured

    sides = cpu_sides(sys.argv[1], threads=2)

    def do(question: dict[str, Any]) -> dict[str, Any]:
        return {"scores": measured(question["scenes"], sides)}

    answer_lines(do)


if __name__ == "__main__":
    main()
