"""What a person would write: ``YOLO.predict(stream=True)`` and a loop round open_clip.

    python -m benchmarks.subjects.plain_vision --which both --yolo FILE --clip FOLDER

At its defaults unless ``--threads`` is given; ultralytics then changes what a process uses, which
is part of its defaults. Each line read is a film; the answer says how long it took.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.subjects.answering import answer_lines
from bot.settings import GAME_CONCEPTS

CONFIDENCE = 0.5
"""As Danzar's configuration has it."""


class PlainVision:
    """Both models as their own documentation shows them."""

    def __init__(self, yolo: str, clip: str, device: str = "cpu") -> None:
        self.device = device
        self.yolo: Any = None
        self.clip: Any = None
        if yolo:
            from ultralytics import YOLO

            self.yolo = YOLO(yolo, task="detect")
        if clip:
            import open_clip
            import torch

            folder = f"local-dir:{clip}"
            create: Any = open_clip.create_model_and_transforms
            self.clip, _, self.preprocess = create(folder, device=device)
            self.clip.eval()
            tokens = open_clip.get_tokenizer(folder)(list(GAME_CONCEPTS)).to(device)
            with torch.no_grad():
                text = self.clip.encode_text(tokens)
                self.text = text / text.norm(dim=-1, keepdim=True)

    def boxes(self, result: Any) -> list[tuple[str, float, list[float]]]:
        return [
            (result.names[int(box.cls)], float(box.conf), box.xyxy[0].tolist())
            for box in result.boxes
        ]

    def detect(self, frames: list[Any]) -> list[Any]:
        results = self.yolo.predict(frames, conf=CONFIDENCE, device=self.device, verbose=False)
        return [self.boxes(result) for result in results]

    def label(self, frames: list[Any]) -> list[Any]:
        import cv2
        import torch
        from PIL import Image

        pictures = [Image.fromarray(cv2.cvtColor(f, cv2.COLOR_BGR2RGB)) for f in frames]
        with torch.no_grad():
            batch = torch.stack([self.preprocess(p) for p in pictures]).to(self.device)
            features = self.clip.encode_image(batch)
            features = features / features.norm(dim=-1, keepdim=True)
            chances = (100.0 * features @ self.text.T).softmax(dim=-1)
        return chances.tolist()

    def look(self, frames: list[Any]) -> list[Any]:
        """Whatever there is of both, on a batch of BGR frames."""
        found: list[Any] = []
        if self.yolo is not None:
            found += self.detect(frames)
        if self.clip is not None:
            found += self.label(frames)
        return found

    def play(self, film: str, batch: int) -> int:
        """A whole film; how many frames it had."""
        if self.clip is None:
            shown = self.yolo.predict(
                film, stream=True, batch=batch, conf=CONFIDENCE, device=self.device, verbose=False
            )
            return sum(1 for result in shown if self.boxes(result) is not None)
        count = 0
        for frames in batches(film, batch):
            self.look(frames)
            count += len(frames)
        return count


def batches(film: str, size: int) -> Iterator[list[Any]]:
    """The film's frames, so many at a time."""
    import cv2

    reader = cv2.VideoCapture(film)
    waiting: list[Any] = []
    while True:
        there, frame = reader.read()
        if not there:
            break
        waiting.append(frame)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
    reader.release()


def exported(checkpoint: Path, folder: Path) -> str:
    """The checkpoint as ultralytics' own OpenVINO export, made in ``folder`` once."""
    from ultralytics import YOLO

    there = folder / f"{checkpoint.stem}_openvino_model"
    if not there.is_dir():
        # The export is written beside its checkpoint.
        copy = shutil.copy(checkpoint, folder) if checkpoint.parent != folder else checkpoint
        return str(YOLO(copy, task="detect").export(format="openvino", verbose=False))
    return str(there)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--yolo", default="")
    parser.add_argument("--clip", default="")
    parser.add_argument("--threads", type=int, default=0, help="0: whatever the libraries choose")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--openvino", action="store_true", help="YOLO's own export")
    parser.add_argument("--nice", type=int, default=0, help="as niced as what it is compared with")
    parser.add_argument("--warm", required=True, help="a film to warm up with")
    args = parser.parse_args()
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    if args.nice and hasattr(os, "nice"):
        os.nice(args.nice)
    folder = Path(args.warm).parent
    yolo = exported(Path(args.yolo), folder) if args.openvino else args.yolo
    plain = PlainVision(yolo, args.clip, args.device)
    plain.look(next(batches(args.warm, 1)))
    import torch

    if args.threads:
        # After the first prediction, which sets what ultralytics thinks right.
        torch.set_num_threads(args.threads)

    def do(question: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        frames = plain.play(question["film"], question["batch"])
        if args.device != "cpu":
            torch.cuda.synchronize()
        took = time.perf_counter() - began
        answer: dict[str, Any] = {"seconds": took, "frames": frames}
        answer["threads"] = torch.get_num_threads()
        if args.device != "cpu":
            answer["reserved_bytes"] = torch.cuda.max_memory_reserved()
        return answer

    answer_lines(do)


if __name__ == "__main__":
    main()
