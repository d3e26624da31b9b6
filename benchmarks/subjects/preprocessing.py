"""CLIP's preprocessing of 1080p frames, ours and open_clip's own.

    python -m benchmarks.subjects.preprocessing CLIP_FOLDER FILM

Answers milliseconds a frame for ``ours`` and ``open_clip``, and for ``compare`` how alike the two
make a picture's embedding.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.subjects.answering import answer_lines
from benchmarks.subjects.plain_vision import PlainVision, batches
from bot.vision.model_files import CLIP_CONFIG
from bot.vision.worker.clip_pictures import Preprocess


def main() -> None:
    folder, film = Path(sys.argv[1]), sys.argv[2]
    import cv2
    import torch
    from PIL import Image

    plain = PlainVision("", str(folder))
    described = json.loads((folder / CLIP_CONFIG).read_text(encoding="utf-8"))
    size = described["model_cfg"]["vision_cfg"]["image_size"]
    preprocess = Preprocess({**described["preprocess_cfg"], "size": size})
    # PIL and OpenCV have one thread here: torch's small steps take no more.
    torch.set_num_threads(1)
    frames = [batch[0] for batch in batches(film, 1)]

    def ours(frame: Any) -> Any:
        # The worker leaves the last step to OpenVINO; done here, so that both end at the same.
        small = torch.from_numpy(preprocess.arrays([frame]))
        return preprocess.normalised(small.permute(0, 3, 1, 2).flip(1))

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
