"""Replays a trace of programs and models through a placement policy, in virtual time.

The product's own admission, ledger and placement run here as they run in the bot; see
docs/simulate.md for the format of a trace.
"""

from danzar_gpu.simulate.engine import Desk, Engine, Job, Policy, PolicyBase, Timer, Watch
from danzar_gpu.simulate.metrics import METRICS, Score, Spread, percent
from danzar_gpu.simulate.runs import (
    POLICIES,
    Outcome,
    UnknownPolicy,
    contest,
    play,
    policy_named,
)
from danzar_gpu.simulate.trace import Trace
from danzar_gpu.simulate.trace_file import TraceError, load, parse
from danzar_gpu.simulate.trace_problems import unplayed

__all__ = [
    "METRICS",
    "POLICIES",
    "Desk",
    "Engine",
    "Job",
    "Outcome",
    "Policy",
    "PolicyBase",
    "Score",
    "Spread",
    "Timer",
    "Trace",
    "TraceError",
    "UnknownPolicy",
    "Watch",
    "contest",
    "load",
    "parse",
    "percent",
    "play",
    "policy_named",
    "unplayed",
]
