"""The contest: every policy on every trace and seed. ``python -m benchmarks.contention``.

Writes docs/contention.md and docs/images/contention.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.progress import Progress

from benchmarks.contention.peers import PEERS
from benchmarks.contention.report import page, picture
from danzar_gpu.simulate import POLICIES, Outcome, Policy, Trace, load, play

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"


def traces() -> list[Trace]:
    """The shipped traces by name."""
    return [load(path) for path in sorted((HERE / "traces").glob("*.yaml"))]


def everybody() -> dict[str, Callable[[], Policy]]:
    """The product, the controls and the peers."""
    return {**POLICIES, **PEERS}


def play_all(
    played: list[Trace], policies: Mapping[str, Callable[[], Policy]], seeds: int
) -> list[Outcome]:
    """All outcomes, with a progress bar."""
    outcomes: list[Outcome] = []
    with Progress() as bar:
        task = bar.add_task("", total=len(played) * len(policies) * seeds)
        for trace in played:
            for name, make in policies.items():
                bar.update(task, description=f"{trace.name}: {name}")
                runs: list[Mapping[str, float]] = []
                for seed in range(seeds):
                    runs.append(play(trace, make(), seed).values())
                    bar.advance(task)
                outcomes.append(Outcome(trace.name, name, tuple(runs)))
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contention", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="of each trace (default: 10)")
    parser.add_argument("--out", type=Path, default=DOCS, help="where the page goes")
    args = parser.parse_args()
    played = traces()
    outcomes = play_all(played, everybody(), max(1, args.seeds))
    images = args.out / "images"
    images.mkdir(parents=True, exist_ok=True)
    picture(outcomes, images / "contention.png")
    (args.out / "contention.md").write_text(
        page(played, outcomes, max(1, args.seeds)), encoding="utf-8"
    )
    print(f"wrote {args.out / 'contention.md'} and {images / 'contention.png'}")


if __name__ == "__main__":
    main()
