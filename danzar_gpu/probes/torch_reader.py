"""The child process behind ``TorchProbe``: one JSON line on stdout for each line on stdin."""

# torch types its device properties as unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import sys
from typing import Any


def read_devices() -> list[dict[str, Any]]:
    """Memory in bytes of every CUDA device that torch sees."""
    import torch

    rows: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        properties = torch.cuda.get_device_properties(index)
        rows.append(
            {
                "index": index,
                "uuid": f"GPU-{properties.uuid}",
                "name": properties.name,
                "total": total,
                "free": free,
                "capability": [properties.major, properties.minor],
                "cores": properties.multi_processor_count,
            }
        )
    return rows


def main() -> None:
    for _ in sys.stdin:
        try:
            answer: Any = read_devices()
        except RuntimeError as error:
            answer = {"error": str(error).splitlines()[0]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
