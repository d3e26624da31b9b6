"""The promise on traces that nobody wrote, one of each kind, and the generator's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.contention.random import KINDS, RIGS, judge, main, random_trace
from danzar_gpu.simulate import POLICIES, load, parse, play
from danzar_gpu.simulate.engine import Engine
from danzar_gpu.simulate.oracle import PlanPolicy
from danzar_gpu.simulate.plan import Plan
from danzar_gpu.simulate.writing import as_yaml


@pytest.mark.parametrize("seed", range(len(KINDS)), ids=tuple(KINDS))
def test_the_promise_holds(seed: int) -> None:
    assert judge(random_trace(seed)).broken == ()


def test_a_seed_is_always_the_same_trace_and_all_kinds_and_rigs_come_up() -> None:
    drawn = [random_trace(seed) for seed in range(5 * len(KINDS))]
    assert drawn == [random_trace(seed) for seed in range(5 * len(KINDS))]
    assert {trace.name.rsplit("-", 1)[0] for trace in drawn} == set(KINDS)
    assert {tuple(card.total_gb for card in trace.rig) for trace in drawn} == set(RIGS.values())


@pytest.mark.parametrize("seed", [32, 50, 83])  # events in a row, up to the end and beyond
def test_what_was_drawn_can_be_written_and_read(seed: int) -> None:
    drawn = random_trace(seed)
    read = parse(as_yaml(drawn))
    assert (read.models, read.foreign, read.sensor) == (drawn.models, drawn.foreign, drawn.sensor)


@pytest.mark.parametrize("seed", [2, 5, 51])
def test_the_oracle_is_never_below_the_product_nor_its_own_plan(seed: int) -> None:
    trace = random_trace(seed)
    best = play(trace, POLICIES["oracle"]())
    assert best.gpu_seconds >= play(trace, POLICIES["danzar"]()).gpu_seconds
    planned = Engine(trace, PlanPolicy(Plan(trace))).run()
    assert (planned.oom_count, planned.thrash) == (0, 0)
    assert best.gpu_seconds >= planned.gpu_seconds


def test_broken_traces_are_kept_and_make_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["random", "--traces", "1", "--save", str(tmp_path)])
    assert main() == 0
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("benchmarks.contention.random.LEAST_SHARE", 2.0)
    assert main() == 1
    assert "of the oracle's share" in capsys.readouterr().out
    [kept] = tmp_path.iterdir()
    written, drawn = load(kept), random_trace(0)
    assert (written.rig, written.models) == (drawn.rig, drawn.models)
