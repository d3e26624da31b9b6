"""Traces that nobody wrote: ``python -m benchmarks.contention.random --traces 200``.

Each seed gives one trace of one kind on one rig, with round times as people write them, so that
things often happen in the same instant. Played by the product and by the oracle; a broken promise
is named with its seed, and the exit status is 1. ``--save DIR`` keeps such traces as YAML.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

from danzar_gpu.simulate import POLICIES, Trace, play
from danzar_gpu.simulate.writing import as_yaml

LEAST_SHARE = 0.95
RIGS: Mapping[str, tuple[float, ...]] = {
    "12+12": (12, 12),
    "24+8": (24, 8),
    "8": (8,),
    "4x24": (24, 24, 24, 24),
}
NAMES = ("yolo", "clip", "ocr", "depth", "sam")
PROGRAMS = ("game.exe", "obs64.exe", "chrome", "blender", "train.py")


@dataclass
class Draft:
    """A trace in the making."""

    chance: random.Random
    rig: tuple[float, ...]
    reservation: float
    duration: float
    limit: float
    models: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    foreign: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    sensor: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    crossed: bool = False

    @property
    def vision(self) -> int:
        return min(1, len(self.rig) - 1)

    def moment(self, share: float = 0.7) -> float:
        """A round time within the first ``share`` of the trace."""
        chance = self.chance
        if chance.random() < 0.3:
            return float(chance.choice([0, 0, 5, 10, 20, 30, 60, 100, 120, 200, 300]))
        return float(round(chance.uniform(0, share * self.duration)))

    def model(self, at: float | None = None, **keys: object) -> None:
        chance = self.chance
        at = chance.choice([0, 0, 5, 8, 10, 20, 30, self.moment(0.5)]) if at is None else at
        need = chance.choice([0.4, 0.5, 0.6, 0.7, 0.9, 1.2, 1.5])
        if self.limit > 3:
            need = chance.choice([0.6, 1.0, 1.5, 2.0, 3.0])
        true = need * chance.choice([0.8, 0.9, 1, 1, 1.1, 1.2, 1.3, 1.5])
        name = f"{chance.choice(NAMES)}{len(self.models)}"
        self.models.append(
            {
                "at": float(at),
                "name": name,
                "priority": chance.choice([0, 5, 10, 20]),
                "need_gb": need,
                "true_gb": round(true, 2),
                **keys,
            }
        )

    def program(self, device: int, gb: float, at: float, until: float | None = None) -> None:
        entry: dict[str, object] = {
            "at": at,
            "device": device,
            "process": self.chance.choice(PROGRAMS),
            "gb": round(max(0.1, gb), 1),
        }
        if until is not None:
            entry["until"] = until
        self.foreign.append(entry)

    def llm(self, at: float, share: float, until: float | None = None, **keys: object) -> None:
        entry: dict[str, object] = {
            "at": at,
            "device": 0,
            "process": self.chance.choice(["ollama", "llama-server", "vllm", "my-llm"]),
            "gb": round(share * self.reservation, 2),
            "llm": True,
            **keys,
        }
        if until is not None:
            entry["until"] = until
        self.foreign.append(entry)

    def beyond(self, device: int) -> float:
        """GiB of a card that nobody reserved."""
        return self.rig[device] - (self.reservation if device == 0 else 0.0)

    def fault(self, kinds: tuple[str, ...]) -> None:
        chance = self.chance
        at = round(chance.uniform(10, 0.8 * self.duration))
        entry: dict[str, object] = {
            "kind": chance.choice(kinds),
            "at": at,
            "until": at + chance.choice([5, 20, 60, 120]),
        }
        if chance.random() < 0.7:
            entry["device"] = chance.randrange(len(self.rig))
        if entry["kind"] == "zero" and chance.random() < 0.5:
            entry["field"] = chance.choice(["total", "free", "used"])
        self.sensor.append(entry)


def chat_steady(draft: Draft) -> None:
    draft.llm(0, draft.chance.uniform(0.7, 0.98))
    for _ in range(2):
        draft.model(draft.chance.choice([2, 5, 8]))


def llm_late(draft: Draft) -> None:
    at = draft.moment()
    leaves = at + draft.chance.choice([100, 300, 600])
    again = draft.chance.random() < 0.5
    share = draft.chance.uniform(0.6, 0.98)
    draft.llm(at, share, leaves if again else None)
    if again:
        draft.llm(leaves + draft.chance.choice([10, 30, 100]), share)
    for _ in range(draft.chance.randint(1, 3)):
        draft.model()


def game_grabs(draft: Draft) -> None:
    chance = draft.chance
    if chance.random() < 0.8:
        draft.llm(chance.choice([0, 0, 30]), chance.uniform(0.7, 0.98))
    for _ in range(chance.randint(1, 3)):
        device = chance.randrange(len(draft.rig))
        at = draft.moment()
        size = min(chance.uniform(4, 10), draft.rig[device])
        ends = at + chance.choice([45, 90, 120, 300, 600]) if chance.random() < 0.75 else None
        draft.program(device, size, at, ends)
    for _ in range(chance.randint(1, 4)):
        draft.model()


def in_turn(draft: Draft) -> None:
    chance = draft.chance
    draft.llm(0, chance.uniform(0.6, 0.98))
    at, length = 5.0, float(chance.choice([30, 60, 120]))
    while at + length < draft.duration:
        draft.model(at, until=at + length)
        at += length


def kv_growth(draft: Draft) -> None:
    chance = draft.chance
    first = chance.uniform(0.4, 0.7)
    more = round((0.97 - first) * draft.reservation, 2)
    growth = {"gb": more, "seconds": round(draft.duration * chance.uniform(0.3, 0.8))}
    draft.llm(draft.moment(0.2), first, growth=growth)
    for _ in range(chance.randint(1, 3)):
        grows = {"gb": round(chance.uniform(0.1, 0.8), 1), "seconds": chance.choice([120, 300])}
        draft.model(None, **({"growth": grows} if chance.random() < 0.5 else {}))
    if chance.random() < 0.7:
        device = chance.randrange(len(draft.rig))
        draft.program(device, draft.beyond(device) * chance.uniform(0.3, 0.95), draft.moment())


def at_once(draft: Draft) -> None:
    chance = draft.chance
    at = draft.moment(0.2)
    for _ in range(chance.randint(3, 6)):
        draft.model(at)
    draft.llm(chance.choice([0, at, at + 60]), chance.uniform(0.6, 0.98))
    device = chance.randrange(len(draft.rig))
    draft.program(device, draft.beyond(device) * chance.uniform(0.3, 0.9), draft.moment())


def flicker(draft: Draft) -> None:
    chance = draft.chance
    draft.llm(0, chance.uniform(0.6, 0.98))
    device = chance.randrange(len(draft.rig))
    draft.program(device, draft.beyond(device) - chance.uniform(1.4, 2.5), 0.0)
    half = chance.choice([10, 20, 30, 60, 120])
    for n in range(int(draft.duration / half / 2)):
        on = 40.0 + 2 * n * half
        draft.program(device, chance.uniform(0.4, 1.0), on, on + half)
    for _ in range(chance.randint(1, 3)):
        draft.model()


def crossed_order(draft: Draft) -> None:
    draft.crossed = True
    game_grabs(draft)


def sensor_faults(draft: Draft) -> None:
    game_grabs(draft)
    for _ in range(draft.chance.randint(1, 4)):
        draft.fault(("stale", "not_supported", "zero", "no_processes"))


def lost_gpu(draft: Draft) -> None:
    llm_late(draft)
    draft.fault(("lost",))


def everything(draft: Draft) -> None:
    game_grabs(draft)
    llm_late(draft)
    if draft.chance.random() < 0.5:
        draft.fault(("stale", "not_supported", "zero", "no_processes", "lost"))


KINDS: Mapping[str, Callable[[Draft], None]] = {
    kind.__name__: kind
    for kind in (
        chat_steady,
        llm_late,
        game_grabs,
        in_turn,
        kv_growth,
        at_once,
        flicker,
        crossed_order,
        sensor_faults,
        lost_gpu,
        everything,
    )
}


def random_trace(seed: int) -> Trace:
    """The trace of a seed: always the same."""
    chance = random.Random(seed)
    kind = tuple(KINDS)[seed % len(KINDS)]
    name = chance.choice(tuple(RIGS))
    rig = RIGS[name]
    reservations = {"8": (4, 4.5, 5), "12+12": (8, 9, 10), "24+8": (8, 16, 20), "4x24": (8, 18, 20)}
    draft = Draft(
        chance,
        rig,
        float(chance.choice(reservations[name])),
        float(chance.choice([600, 900, 1800, 3600])),
        chance.choice([2.0, 2.0, 2.0, 4.0, 6.0, 8.0]),
    )
    KINDS[kind](draft)
    cards: list[dict[str, object]] = [
        {
            "name": f"card {i}",
            "total_gb": size,
            "context_gb": chance.choice([0.3, 0.45, 0.6]),
            "release_lag": chance.choice([0.2, 0.5, 1.0, 2.0]),
            **({"fastest_first": len(rig) - 1 - i} if draft.crossed else {}),
        }
        for i, size in enumerate(rig)
    ]
    return Trace.model_validate(
        {
            "name": f"{kind}-{seed}",
            "description": f"{kind}, drawn by chance ({name}, seed {seed})",
            "duration": draft.duration,
            "rig": cards,
            "gpu_memory": {
                "main_llm_memory_reservation_gb": draft.reservation,
                "vision_memory_limit_gb": draft.limit,
                "vision_device": f"cuda:{draft.vision}",
            },
            "models": draft.models,
            "foreign": draft.foreign,
            "sensor": draft.sensor,
        }
    )


@dataclass(frozen=True)
class Verdict:
    """What the product made of one trace, beside the oracle."""

    trace: Trace
    ratio: float
    broken: tuple[str, ...]


def judge(trace: Trace) -> Verdict:
    """Play a trace with the product and the oracle; what of the promise is broken."""
    ours, best = (play(trace, POLICIES[name]()) for name in ("danzar", "oracle"))
    broken = [
        f"{words} {mine} (oracle {least})"
        for words, mine, least in (
            ("out of memory", ours.oom_count, best.oom_count),
            ("LLM starved", ours.llm_starved_count, best.llm_starved_count),
            ("thrash", ours.thrash, 0),
        )
        if mine > least
    ]
    ratio = ours.gpu_fraction / best.gpu_fraction if best.gpu_fraction > 0 else 1.0
    if ratio < LEAST_SHARE:
        broken.append(
            f"{ratio:.3f} of the oracle's share ({ours.gpu_fraction:.3f}, {best.gpu_fraction:.3f})"
        )
    return Verdict(trace, ratio, tuple(broken))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contention.random", description=__doc__
    )
    parser.add_argument("--traces", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="start there")
    parser.add_argument("--kind", choices=tuple(KINDS), help="only traces of this kind")
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep broken ones as YAML there")
    args = parser.parse_args()
    step = 1 if args.kind is None else len(KINDS)
    first = args.first
    while args.kind is not None and tuple(KINDS)[first % len(KINDS)] != args.kind:
        first += 1
    seeds = range(first, first + max(1, args.traces) * step, step)
    console = Console(stderr=True)
    verdicts = [
        judge(random_trace(seed))
        for seed in track(seeds, "playing", console=console, disable=not console.is_terminal)
    ]
    broken = [v for v in verdicts if v.broken]
    for verdict in broken:
        print(f"{verdict.trace.description}: {'; '.join(verdict.broken)}")
        if args.save is not None:
            args.save.mkdir(parents=True, exist_ok=True)
            comment = f"{verdict.trace.description}\n{'; '.join(verdict.broken)}"
            path = args.save / f"{verdict.trace.name}.yaml"
            path.write_text(as_yaml(verdict.trace, comment), encoding="utf-8")
    mean = sum(v.ratio for v in verdicts) / len(verdicts)
    print(
        f"{len(verdicts)} traces: the promise holds on {len(verdicts) - len(broken)}; "
        f"mean share {mean:.3f} of the oracle's"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
