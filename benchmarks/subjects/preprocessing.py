"""CLIP's preprocessing of 1080p frames, ours and open_clip's own.

    python -m benchmarks.subjects.preprocessing CLIP_FOLDER FILM THREADS

Answers milliseconds a frame for ``ours`` and ``open_clip``, and for ``compare`` how alike the two
make a picture's embedding.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.subjects.answering import answer_lines
from benchmarks.subjects.plain_vision import PlainVision, batches
from bot.settings import GAME_CONCEPTS
from bot.vision.worker.labeller import Labeller
from bot.vision.worker.protocol import ClipSpec


def main() -> None:
    folder, film, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    import cv2
    import torch
    from PIL import Image

    plain = PlainVision("", str(folder))
    spec = ClipSpec(
        folder=str(folder),
        concepts=GAME_CONCEPTS,
        confidence_threshold=0.0,
        max_insights=1,
        batch_size=1,
    )
    labeller = Labeller.load(spec, threads)
    torch.set_num_threads(threads)
    cpu = torch.device("cpu")
    frames = [batch[0] for batch in batches(film, 1)]

    def ours(frame: Any) -> Any:
        return labeller.preprocess([frame], cpu)

    def theirs(frame: Any) -> Any:
        picture = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        return plain.preprocess(picture).unsqueeze(0)

    ways: dict[str, Callable[[Any], Any]] = {"ours": ours, "open_clip": theirs}

    def do(question: dict[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            if question["way"] == "compare":
                alike: list[float] = []
                for frame in frames:
                    one, other = (plain.clip.encode_image(ways[w](frame)) for w in ways)
                    alike.append(float(torch.nn.functional.cosine_similarity(one, other)))
                return {"least_cosine": min(alike), "frames": len(frames)}
            way = ways[question["way"]]
            way(frames[0])
            began = time.perf_counter()
            for frame in frames:
                way(frame)
            return {"milliseconds": 1000 * (time.perf_counter() - began) / len(frames)}

    answer_lines(do)


if __name__ == "__main__":
    main()
