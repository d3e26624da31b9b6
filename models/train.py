"""Train and measure the models that ship: ``python -m models.train yolo|clip|evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from models.environment import prepare

HERE = Path(__file__).resolve().parent


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("what", choices=("yolo", "clip", "evaluate"))
    parser.add_argument("--minutes", type=float, default=40, help="wall clock of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads on the CPU")
    parser.add_argument(
        "--scenes",
        type=Path,
        default=Path(".cache/scenes"),
        help="folder of rendered scenes, filled when it is empty",
    )
    parser.add_argument("--count", type=int, default=8000, help="scenes to render, or to evaluate")
    parser.add_argument("--out", type=Path, default=HERE, help="where the models go")
    parser.add_argument("--state", type=Path, help="file to resume an interrupted training from")
    parser.add_argument(
        "--refine", action="store_true", help="train the finished detector further, at full size"
    )
    return parser.parse_args()


def main() -> None:
    """Run the chosen step."""
    options = parse()
    prepare()
    import torch

    from models import dataset

    torch.set_num_threads(options.threads)
    if options.what == "evaluate":
        from models import evaluate

        evaluate.write_manifest(options.out, options.count)
        return
    if not dataset.chunks(options.scenes):
        dataset.write(options.scenes, 0, options.count)
    if options.what == "yolo":
        from models import detector

        torch.set_num_threads(options.threads)
        detector.train(
            options.scenes,
            options.out / "yolo-nano.pt",
            options.minutes,
            options.seed,
            options.device,
            options.state,
            options.refine,
        )
    else:
        from models import contrastive

        torch.set_num_threads(options.threads)
        contrastive.train(
            options.scenes, options.out / "clip-tiny", options.minutes, options.seed, options.device
        )


if __name__ == "__main__":
    main()
