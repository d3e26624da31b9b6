"""The oracle: the best schedule that is known for a trace, with the whole future in hand.

Several are compared by playing them: the plan (``plan.py``) and the product's own run, so that the
oracle is never below the product; and where a card keeps contexts, which the plan does not look
ahead for, a plan that leaves the LLM's card alone. The one without harm wins, then the one without
thrash, then the larger share on cards.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from danzar_gpu.simulate.engine import Desk, Engine, Job, Policy, PolicyBase
from danzar_gpu.simulate.plan import Plan, Stop
from danzar_gpu.simulate.policies import DanzarPolicy
from danzar_gpu.simulate.trace import Trace


class PlanPolicy(PolicyBase):
    """Follows a plan."""

    name = "plan"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def asked(self, job: Job) -> None:
        stops = self._plan.stops.get(job.key) or [Stop(self.desk.now, None)]
        self.desk.place(job, stops[0].device)
        for stop in stops[1:]:
            self.desk.call_at(stop.at, lambda device=stop.device: self.desk.place(job, device))


class OraclePolicy(PolicyBase):
    """Knows what will happen, and does what turned out to be best."""

    name = "oracle"

    def start(self, desk: Desk) -> None:
        super().start(desk)
        trace = desk.trace
        plans = [Plan(trace)]
        llm = trace.gpu_memory.main_llm_index
        if llm < len(trace.rig) and trace.rig[llm].keeps_context:
            plans.append(Plan(trace, frozenset({llm})))
        ways: list[Callable[[], Policy]] = [partial(PlanPolicy, plan) for plan in plans]
        best = max([*ways, DanzarPolicy], key=lambda make: _merit(trace, make()))
        self._chosen: Policy = best()
        self._chosen.start(desk)

    def asked(self, job: Job) -> None:
        self._chosen.asked(job)

    def landed(self, job: Job) -> None:
        self._chosen.landed(job)

    def failed(self, job: Job, why: str) -> None:
        self._chosen.failed(job, why)

    def ended(self, job: Job) -> None:
        self._chosen.ended(job)


def _merit(trace: Trace, policy: Policy) -> tuple[int, int, float]:
    score = Engine(trace, policy).run()
    return -score.oom_count - score.llm_starved_count, -score.thrash, score.gpu_seconds
