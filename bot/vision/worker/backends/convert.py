"""Turns a model into OpenVINO's format, in a process of its own that ends with it.

torch and the converter take ten times the memory of the networks that come out, and several
seconds: the worker on the CPU shall know neither. Started by ``conversion``, never by hand.
The last line of standard output is JSON: ``{}``, or ``what`` and ``remedy`` of a ``ModelError``.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bot.vision.worker import environment, priority
from bot.vision.worker.backends.openvino import Precision


def main() -> None:
    order = json.loads(sys.argv[1])
    environment.die_with(order["parent"])
    environment.prepare(os.environ, order["threads"])
    priority.lower_priority()
    # Libraries print; the last word is ours.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    from bot.vision.worker.models import ModelError

    try:
        convert(
            order["kind"],
            Path(order["path"]),
            Path(order["folder"]),
            order["threads"],
            order["precisions"],
        )
    except ModelError as error:
        answer.write(json.dumps({"what": error.what, "remedy": error.remedy}))
    else:
        answer.write("{}")
    answer.flush()
    os._exit(0)


def convert(
    kind: str, path: Path, folder: Path, threads: int, precisions: Sequence[Precision]
) -> None:
    """Write a model's networks and ``about.json`` into a new folder.

    ``precisions`` are tried in this order.

    Raises:
        ModelError: the model can't be opened by anything.
        Exception: whatever the converter hit upon, or that its result is not good enough.
    """
    from bot.vision.worker.backends import cache

    with cache.being_made(folder) as made:
        if kind == "yolo":
            precision, facts, note = _yolo(path, made, threads, precisions)
        else:
            precision, facts, note = _clip(path, made, threads, precisions)
        cache.describe(made, precision=precision, facts=facts, note=note)


def _yolo(
    path: Path, made: Path, threads: int, precisions: Sequence[Precision]
) -> tuple[str, dict[str, Any], str]:
    from bot.vision.worker.backends.agreement import boxes_differ, frames
    from bot.vision.worker.backends.torch_yolo import TorchYolo

    torch_yolo = TorchYolo.open(path, threads)
    import torch

    facts = torch_yolo.facts
    model, stride, size = torch_yolo.module, facts["stride"], facts["image_size"]
    head = model.model[-1]
    size = -(-size // stride) * stride
    # Traced with shapes that vary: anchors are computed from the picture's.
    head.export = head.dynamic = True
    example = torch.zeros(1, 3, size, size)
    with torch.inference_mode():
        model(example)
        _save(model, example, [-1, 3, -1, -1], made / "yolo.xml")
    head.export = head.dynamic = False
    head.shape = None
    pictures = frames()
    reference = partial(_boxes, torch_yolo, facts)
    precision, note = _chosen(
        lambda network: boxes_differ(reference, partial(_boxes, network, facts), pictures),
        made / "yolo.xml",
        threads,
        {"scale": (255.0, 255.0, 255.0)},
        precisions,
    )
    return precision, {**facts, "weights_bytes": torch_yolo.weights_bytes}, note


def _boxes(
    run: Callable[[np.ndarray], np.ndarray],
    facts: dict[str, Any],
    picture: np.ndarray,
    confidence: float,
) -> np.ndarray:
    from bot.vision.worker.boxes import candidates, fits, letterboxed

    laid = fits([picture], facts["image_size"], facts["stride"])
    said = run(letterboxed([picture], laid))[0]
    if facts["end_to_end"]:
        return said[said[:, 4] > confidence].copy()
    return candidates(said, confidence)


def _clip(
    folder: Path, made: Path, threads: int, precisions: Sequence[Precision]
) -> tuple[str, dict[str, Any], str]:
    from bot.vision.scene import CONCEPTS
    from bot.vision.worker.backends.agreement import features_differ, frames
    from bot.vision.worker.backends.openvino import Network
    from bot.vision.worker.backends.torch_clip import TorchClip
    from bot.vision.worker.tokens import Tokens

    torch_clip = TorchClip.open(folder, threads)
    import torch

    facts = torch_clip.facts
    preprocess = torch_clip.preprocess
    size = (preprocess.height, preprocess.width)
    theirs = torch_clip.tokenizer(list(CONCEPTS)).numpy()
    if not np.array_equal(Tokens(facts["context_length"])(CONCEPTS), theirs):
        raise ValueError("its tokens are not CLIP's own")

    class Pictures(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch_clip.module

        def forward(self, pictures: Any) -> Any:
            return self.model.encode_image(pictures, normalize=True)

    class Phrases(Pictures):
        def forward(self, pictures: Any) -> Any:
            return self.model.encode_text(pictures, normalize=True)

    with torch.inference_mode():
        _save(Pictures(), torch.zeros(1, 3, *size), [-1, 3, *size], made / "clip.xml")
        tokens = torch.from_numpy(theirs)
        _save(Phrases(), tokens, [-1, facts["context_length"]], made / "text.xml")
    pictures = frames()
    known = _open_clips_own(folder, torch_clip, pictures)
    way = _normal_scale(preprocess)
    precision, note = _chosen(
        lambda network: features_differ(known, _each(network, preprocess.arrays(pictures))),
        made / "clip.xml",
        threads,
        way,
        precisions,
    )
    text = Network(made / "text.xml", threads, "f32")
    if why := features_differ(torch_clip.text(CONCEPTS), text(theirs)):
        raise ValueError(f"for phrases: {why}")
    return precision, {**facts, "weights_bytes": torch_clip.weights_bytes}, note


def _open_clips_own(folder: Path, torch_clip: Any, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Features by the library's own, slow transform."""
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    wanted = {k: v for k, v in torch_clip.facts["preprocess"].items() if v is not None}
    transform: Any = image_transform_v2(PreprocessCfg(**wanted), is_train=False)
    assert open_clip
    with torch.inference_mode():
        batch = torch.stack([transform(Image.fromarray(p[..., ::-1])) for p in pictures])
        return torch_clip.module.encode_image(batch, normalize=True).numpy()


def _each(network: Any, batch: np.ndarray) -> np.ndarray:
    return np.concatenate([network(batch[i : i + 1]).copy() for i in range(len(batch))])


def _normal_scale(preprocess: Any) -> dict[str, tuple[float, ...]]:
    return {
        "mean": tuple(255 * v for v in preprocess.mean),
        "scale": tuple(255 * v for v in preprocess.std),
    }


def _save(model: Any, example: Any, shape: list[int], path: Path) -> None:
    from bot.vision.worker.backends.openvino import library

    openvino = library()
    converted = openvino.convert_model(model, example_input=example, input=[shape])
    openvino.save_model(converted, path, compress_to_fp16=False)


def _chosen(
    differs: Callable[[Any], str],
    path: Path,
    threads: int,
    way: dict[str, Any],
    precisions: Sequence[Precision],
) -> tuple[str, str]:
    """The first precision that says what the reference says, and why none before it does.

    Raises:
        ValueError: none does.
    """
    from bot.vision.worker.backends.openvino import Network

    why = ""
    for precision in precisions:
        found = differs(Network(path, threads, precision, **way))
        if not found:
            return precision, why
        why = f"not in {precision}: {found}"
    raise ValueError(why)


if __name__ == "__main__":
    main()
