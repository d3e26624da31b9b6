"""Many runs: each policy on each seed, and what came of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from danzar_gpu.simulate.engine import Engine, Policy, Watch
from danzar_gpu.simulate.jitter import vary
from danzar_gpu.simulate.metrics import METRICS, Score, Spread, spread
from danzar_gpu.simulate.oracle import OraclePolicy
from danzar_gpu.simulate.policies import CpuPolicy, DanzarPolicy, StaticPolicy
from danzar_gpu.simulate.trace import Trace

POLICIES: Mapping[str, Callable[[], Policy]] = {
    "danzar": DanzarPolicy,
    "oracle": OraclePolicy,
    "static": StaticPolicy,
    "cpu": CpuPolicy,
}


class UnknownPolicy(Exception):
    """There is no such policy; the message says which there are."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy made of one trace, over all seeds."""

    trace: str
    policy: str
    runs: tuple[Mapping[str, float], ...]
    """Each metric by seed."""
    metrics: Mapping[str, Spread] = field(init=False)

    def __post_init__(self) -> None:
        found = {name: spread(name, [run[name] for run in self.runs]) for name in METRICS}
        object.__setattr__(self, "metrics", found)


def policy_named(name: str) -> Callable[[], Policy]:
    """A policy of the package, or ``module:Class`` from anywhere. Raises ``UnknownPolicy``."""
    if name in POLICIES:
        return POLICIES[name]
    module, colon, attribute = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), attribute)):
        known = ", ".join(POLICIES)
        raise UnknownPolicy(f"there is no policy {name!r}; there are {known} and module:Policy")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a stranger's module, in which anything may go wrong
        missing = isinstance(error, ImportError | AttributeError)
        why = str(error) if missing else f"{type(error).__name__}: {error}"
        raise UnknownPolicy(
            f"the policy {name} can't be loaded: {why} (its module is looked for in this folder "
            "and among the installed packages)"
        ) from error
    if not callable(made):
        raise UnknownPolicy(f"the policy {name} is not a class")
    return made  # pyright: ignore[reportReturnType]  # a stranger's class: its calls will tell


def play(
    trace: Trace,
    policy: Policy,
    seed: int = 0,
    *,
    record: bool = False,
    watch: Watch | None = None,
) -> Score:
    """One run."""
    return Engine(vary(trace, seed), policy, record=record, watch=watch).run()


def contest(
    trace: Trace, policies: Mapping[str, Callable[[], Policy]], seeds: Sequence[int]
) -> Iterator[Outcome]:
    """Each policy on each seed; an outcome when a policy is through."""
    for name, make in policies.items():
        runs = tuple(play(trace, make(), seed).values() for seed in seeds)
        yield Outcome(trace.name, name, runs)
