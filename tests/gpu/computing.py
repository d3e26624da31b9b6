"""What a card computes, beside the CPU: ``python -m tests.gpu.computing INDEX UUID``.

A process of its own, since it breaks its CUDA context at the end. Prints one JSON object.
"""

# torch types little of what is used here.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import os
import sys
from typing import Any

from bot.vision.worker import environment
from tests.gpu.program import ROOT

ROUNDS = 6
"""Graphs are captured at the fourth: both ways are compared."""
BATCHES = (1, 4)
PHRASES = ("a boss fight", "an inventory")


def main(index: int, uuid: str) -> dict[str, Any]:
    environment.prepare(os.environ, 2)
    import torch

    from bot.vision.worker import contexts
    from bot.vision.worker.backends.agreement import boxes_differ, features_differ
    from bot.vision.worker.backends.card import Graphs
    from bot.vision.worker.backends.torch_clip import TorchClip
    from bot.vision.worker.backends.torch_yolo import TorchYolo
    from bot.vision.worker.boxes import fits
    from bot.vision.worker.devices import give_back, held, is_poisoned, resolve
    from bot.vision.worker.protocol import Destination

    yolo = TorchYolo.open(ROOT / "models" / "yolo-nano.pt", 2)
    clip = TorchClip.open(ROOT / "models" / "clip-tiny", 2)
    pictures = _pictures(max(BATCHES))

    def boxes() -> list[Any]:
        laid = fits(pictures, yolo.image_size, yolo.facts["stride"])
        pairs = zip(pictures, laid, strict=True)
        return [yolo.rows([picture], [place], 0.0)[0] for picture, place in pairs]

    large = _pictures(1, (3840, 2160))
    expected, features, of_large = boxes(), clip.features(pictures), clip.features(large)
    of_phrases = clip.text(PHRASES)
    place = resolve(Destination(device=f"cuda:{index}", uuid=uuid))
    yolo.to_card(place.device)
    clip.to_card(place.device)
    differences: set[str] = set()
    for _ in range(ROUNDS):
        for count in BATCHES:
            some = pictures[:count]
            laid = fits(some, yolo.image_size, yolo.facts["stride"])
            found = yolo.rows(some, laid, 0.0)

            def known(picture: Any, confidence: float, rows: Any = expected) -> Any:
                return _above(rows, picture, confidence)

            def said(picture: Any, confidence: float, rows: Any = found) -> Any:
                return _above(rows, picture, confidence)

            differences.add(boxes_differ(known, said, range(count)))  # pyright: ignore
            differences.add(features_differ(features[:count], clip.features(some)))
        # What encodes phrases comes and goes beside the graphs.
        differences.add(features_differ(of_phrases, clip.text(PHRASES)))
    differences.add(features_differ(of_large, clip.features(large)))
    for _ in range(ROUNDS):  # back to graphs, after another size
        differences.add(features_differ(features[:1], clip.features(pictures[:1])))
    report: dict[str, Any] = {
        "differences": sorted(differences - {""}),
        "backends": [yolo.backend, clip.backend],
        "notes": [*yolo.notes, *clip.notes],
        "graphs": [len(yolo._graphs._captured), len(clip._graphs._captured)],
        "context_mib": held()[0].context_bytes >> 20,
    }
    yolo.leave()
    clip.leave()
    give_back()
    report["left_bytes"] = held()[0].reserved_bytes
    cards = range(torch.cuda.device_count())
    report["cards_with_context"] = [i for i in cards if torch._C._cuda_hasPrimaryContext(i)]
    report["ordinal"] = torch.device(place.device).index

    with contexts.on(place.device):
        graphs = Graphs(enabled=True)
        frames = torch.ones(1, 4, 4, 3, device=place.device)
        for _ in range(ROUNDS):  # a question to the card can't be captured
            graphs.run(lambda given: torch.full((1,), given.sum().item()), frames)
        report["uncapturable"] = graphs.note
        try:
            torch.ones(2, device=place.device)[torch.tensor([5], device=place.device)].cpu()
        except RuntimeError as error:
            report["assert"] = [str(error).splitlines()[0], is_poisoned(error)]
    return report


def _above(rows: Any, picture: int, confidence: float) -> Any:
    return rows[picture][rows[picture][:, 4] > confidence]


def _pictures(count: int, size: tuple[int, int] = (1280, 720)) -> list[Any]:
    import numpy as np

    from bot.vision.scene import render

    scenes = (render(seed, size) for seed in range(3, 3 + count))
    return [np.ascontiguousarray(scene.image[..., ::-1]) for scene in scenes]


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2])), flush=True)
    os._exit(0)  # a broken context has nothing to tidy up
