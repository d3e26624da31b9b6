"""What the doctor asks in a process of its own: torch and the screen never enter the doctor's.

``python -m bot.cli.doctor_questions torch`` or ``capture``; the settings of the capture section
come as JSON on stdin, one JSON object goes to stdout.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def ask_torch() -> dict[str, Any]:
    """torch's version and the cards that it sees, by ordinal; why, if it sees none."""
    import torch

    from bot.vision.worker.no_cuda import why_no_cuda

    answer: dict[str, Any] = {"version": torch.__version__, "cuda": torch.version.cuda, "cards": []}
    if (trouble := why_no_cuda(torch)) is not None:
        return {**answer, "why": trouble.why, "remedy": trouble.remedy}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        card = {"index": index, "name": properties.name, "uuid": str(properties.uuid)}
        answer["cards"].append(card)
    return answer


def ask_capture(section: dict[str, Any]) -> dict[str, Any]:
    """Take one frame from the configured source."""
    from bot.settings import CaptureSettings
    from bot.vision.frames import SourceError, SourceWaiting
    from bot.vision.sources import open_source

    try:
        source = open_source(CaptureSettings.model_validate(section))
        try:
            frame = source.grab()
        finally:
            source.close()
    except SourceWaiting as error:
        return {"waiting": error.what, "remedy": error.remedy}
    except SourceError as error:
        return {"failed": error.what, "remedy": error.remedy}
    if frame is None:
        return {"failed": f"{source.description} is empty", "remedy": "choose another source"}
    height, width = frame.image.shape[:2]
    return {"source": source.name, "description": source.description, "size": [width, height]}


def main() -> None:
    given = json.loads(sys.stdin.read() or "{}")
    answer = ask_torch() if sys.argv[1] == "torch" else ask_capture(given)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
