"""The simulator: its format, its physics, its score, and the goals on every shipped trace."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress, TaskID

from benchmarks.contention import report
from benchmarks.contention.__main__ import play_all
from benchmarks.contention.random import judge
from bot.__main__ import main
from danzar_gpu.simulate import (
    POLICIES,
    Job,
    PolicyBase,
    Trace,
    TraceError,
    UnknownPolicy,
    load,
    parse,
    play,
    policy_named,
    unplayed,
)
from danzar_gpu.simulate.jitter import vary
from danzar_gpu.simulate.metrics import spread

TRACES = sorted((Path(__file__).parents[2] / "benchmarks/contention/traces").glob("*.yaml"))
DOCUMENT = Path(__file__).parents[2] / "docs" / "simulate.md"

CARDS = "rig: [{name: A, total_gb: 12}, {name: B, total_gb: 12}]\n"


def trace(text: str) -> Trace:
    return parse(CARDS + text)


class Fixed(PolicyBase):
    """Everything goes to one card."""

    name = "fixed"

    def __init__(self, index: int | None) -> None:
        self.index = index

    def asked(self, job: Job) -> None:
        self.desk.place(job, self.index)


def test_the_documents_example_is_a_trace() -> None:
    block = DOCUMENT.read_text(encoding="utf-8").split("```yml\n")[1].split("```")[0]
    found = parse(block)
    assert found.end == 900
    assert found.foreign[1].device == 1
    assert found.models[1].until == 600


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("bla: 1", 2, "bla: there is no such key"),
        ("<<: {bla: 1}", 1, "there is no such key"),
        ("modells: []", 2, "modells: there is no such key; did you mean models?"),
        ("models: [{name: a, need_gb: 1, untill: 3}]", 2, "untill: there is no such key; did you"),
        ("foreign: [{name: a, process: b, gb: 1}]", 2, "says the same as process, which is there"),
        ("models: [{at: 1, name: a}]", 2, "models[0].need_gb: is missing"),
        ("models:\n  - {name: a, need_gb: -1}", 3, "models[0].need_gb"),
        ("models: [{name: a, need_gb: 1, at: soon}]", 2, "models[0].at"),
        ("foreign:\n - {device: 7, gb: 1}", 3, "foreign[0].device: there is no card 7"),
        ("foreign: [{device: 0, gb: 1, at: 5, until: 2}]", 2, "until (2) is before at (5)"),
        ("gpu_memory:\n  vision_devise: cuda:1", 3, "gpu_memory.vision_devise"),
        ("gpu_memory:\n  main_llm_processes: 4096", 3, "main_llm_processes: must be a list"),
        ("jitter: 5", 2, "jitter: must be a section"),
        ("sensor: [{kind: drunk}]", 2, "sensor[0].kind"),
        ("duration: 1e12", 2, "not '1e12', which YAML takes for text: write 1000000000000 or 1.0e"),
        ("duration: 2e-3", 2, "which YAML takes for text: write 0.002 or 2.0e-3"),
        ("duration: 1e400", 2, "which YAML takes for text: write 1.0e+400"),
        (
            "duration: 367d",
            2,
            "duration: must be at most 366 days (31622400 seconds), not 31708800",
        ),
        ("duration: 0", 2, "duration: must be above 0, not 0"),
        ("models: [{name: a, need_gb: -1}]", 2, "need_gb: must be at least 0, not -1"),
        ("models: [{name: a, need_gb: big}]", 2, "need_gb: must be a number, not 'big'"),
        ("models: [{name: a, need_gb: 5e1}]", 2, "write 50 or 5.0e+1"),
        ("models: [{name: '', need_gb: 1}]", 2, "must be at least 1 character long, not ''"),
        ("models: [{name: 5, need_gb: 1}]", 2, "name: must be a word, not 5"),
        ("models: [{name: a, need_gb: 1, priority: 1.5}]", 2, "must be a whole number, not 1.5"),
        ("models: [{name: a, need_gb: 1, at: soon}]", 2, "a time such as 90s, 2m or 1h 30m, not"),
        ("models: [{1: 2, name: a, need_gb: 1}]", 2, "models[0]: a key must be a word, not 1"),
        ("models: 5", 2, "models: must be a list, not 5"),
        ("foreign: [{device: gpu, gb: 1}]", 2, "must be a card, as 1 or cuda:1, not 'gpu'"),
        ("sensor: [{kind: drunk}]", 2, "'lost' or 'no_processes', not 'drunk'"),
        ("gpu_memory: {headroom_gb: x}", 2, "headroom_gb: must be a number, not 'x'"),
        ("gpu_memory: {vision_device: x}", 2, "must be a device such as cuda:0, not 'x'"),
        ("gpu_memory: {main_llm_memory_reservation_gb: x}", 2, "must be a number, or 'auto', not"),
        (
            "gpu_memory: {main_llm_reservation_min_gb: 99}",
            2,
            "gpu_memory.main_llm_reservation_min_gb: must be at most",
        ),
        ("models: [{name: a, need_gb: 1, growth: fast}]", 2, "growth: must be so many GiB, {gb"),
        ("models: [{name: a, need_gb: 1, growth: {gb: x}}]", 2, "growth.gb: must be a number"),
        (
            "models: [{name: a, need_gb: 1, growth: [[1]]}]",
            2,
            "growth[0]: must be complete: item 2 is missing, not [1]",
        ),
        (
            "foreign:\n  - device: 0\n    gb: 1\n    growth:\n      - [9, 1]\n      - [5, 2]",
            7,
            "foreign[0].growth[1]: must not be before the point above it: 5 s comes after 9 s",
        ),
        ("models: [", 2, "is not YAML"),
        ("models: []\nmodels: []", 3, "is there twice"),
    ],
)
def test_a_malformed_trace_is_refused_by_line_and_key(text: str, line: int, words: str) -> None:
    with pytest.raises(TraceError) as refused:
        parse(CARDS + text, "odd.yaml")
    assert f"odd.yaml:{line}: " in str(refused.value)
    assert words in str(refused.value)
    for pydantics in ("Input should", "valid number", "after validation", "String should"):
        assert pydantics not in str(refused.value)


def test_a_rig_is_its_cards_alone() -> None:
    rig = "rig:\n  cards: [{total_gb: 12}]\n  more: 1\n"
    with pytest.raises(TraceError, match=r"trace:3: rig\.more: there is no such key"):
        parse(rig)


@pytest.mark.parametrize("rig", ["", "[]", "{cards: []}", "{cards: }"])
def test_a_rig_without_cards_is_told_how_to_have_one(rig: str) -> None:
    with pytest.raises(TraceError, match=r"trace:1: rig: names no card: write at least one"):
        parse(f"rig: {rig}\n")


def test_a_card_is_found_by_line_however_the_rig_is_written() -> None:
    with pytest.raises(TraceError, match=r":3: rig\[0\].total_gb: must be above 0, not -1"):
        parse("rig:\n  cards:\n  - {total_gb: -1}\n")


@pytest.mark.parametrize(
    "entry",
    ["models: [{%s, name: a, need_gb: 1}]", "foreign: [{%s, device: 0, gb: 1}]", "sensor: [{%s}]"],
)
def test_what_begins_when_all_is_over_is_named_with_both_times(entry: str) -> None:
    section = entry.partition(":")[0]
    begins = "kind: lost, at: %s" if section == "sensor" else "at: %s"
    assert not list(unplayed(trace("duration: 10\n" + entry % (begins % 9))))
    late = trace("duration: 10\n" + entry % (begins % 12))
    assert list(unplayed(late)) == [
        f"{section}[0] begins at 12 s, when the trace is over (10 s): it is not played"
    ]
    assert play(late, Fixed(0)).oom_count == 0


def test_a_growth_may_jump() -> None:
    jump = "duration: 99\nmodels: [{name: a, need_gb: 1, growth: [[50, 0], [50, %s], [60, 0]]}]"
    assert play(trace(jump % 12), Fixed(1)).oom_count == 1
    assert play(trace(jump % 2), Fixed(1)).oom_count == 0


@pytest.mark.parametrize("text", ["", "- 1", "rig: []", "rig: &a [*a]", "\x00", "rig: {? [1]: 2}"])
def test_junk_is_refused_without_a_traceback(text: str) -> None:
    with pytest.raises(TraceError):
        parse(text)


@pytest.mark.parametrize(("wrong", "words"), [(21, "1 more problem"), (22, "2 more problems")])
def test_of_many_mistakes_some_are_shown_and_the_others_counted(wrong: int, words: str) -> None:
    with pytest.raises(TraceError) as refused:
        trace("".join(f"key{n}: 1\n" for n in range(wrong)))
    assert str(refused.value).splitlines()[20:] == [f"trace: and {words}"]


def test_sensible_spellings_are_the_same_trace() -> None:
    one = parse(
        "rig: {cards: [{total_gb: 8, release_lag_seconds: 1}]}\nseconds: 2m\n"
        "foreign: [{device: cuda:0, name: x, gb: 1, at: 30s}]\nsensor: [{fault: zero, device: 0}]"
    )
    two = parse(
        "rig: [{total_gb: 8, release_lag: 1}]\nduration: 120\n"
        "foreign: [{device: 0, process: x, gb: 1, at: 30}]\nsensor: [{kind: zero, device: '0'}]"
    )
    assert one == two


def test_seed_0_is_the_trace_as_written_and_others_keep_its_order() -> None:
    written = load(TRACES[0])
    assert vary(written, 0) is written
    other = vary(written, 3)
    assert other != written
    assert vary(written, 3) == other
    order = [m.at for m in written.models]
    assert [m.at for m in other.models] == sorted(m.at for m in other.models) or order != sorted(
        order
    )
    for before, after in zip(written.foreign, other.foreign, strict=True):
        assert not before.llm or after.gb <= before.gb


def test_a_model_that_has_no_room_runs_out_of_memory_and_goes_on_on_the_cpu() -> None:
    found = trace(
        "duration: 100\nmodels: [{name: a, need_gb: 1.5, load_seconds: 0}]\n"
        "foreign: [{device: 1, gb: 11}]"
    )
    score = play(found, Fixed(1))
    assert (score.oom_count, score.gpu_fraction) == (1, 0)
    assert score.needless_cpu_seconds == 100  # the other card had room


def test_a_context_is_taken_once_for_a_process_and_a_card() -> None:
    models = "models: [{name: a, need_gb: 5.5}, {name: b, need_gb: 5.5%s}]"
    assert play(trace(models % ""), Fixed(1)).oom_count == 0  # 11 and one context of 0.45
    assert play(trace(models % ", holder: other"), Fixed(1)).oom_count == 0
    tight = "models: [{name: a, need_gb: 5.6}, {name: b, need_gb: 5.6%s}]"
    assert play(trace(tight % ""), Fixed(1)).oom_count == 0
    assert play(trace(tight % ", holder: other"), Fixed(1)).oom_count == 1


@pytest.mark.parametrize("keeps", ["false", "true"])
def test_a_context_that_is_kept_is_not_in_the_llms_way_for_long(keeps: str) -> None:
    found = parse(
        f"rig: [{{total_gb: 12, keeps_context: {keeps}, context_gb: 0.5}}]\nduration: 300\n"
        "gpu_memory: {main_llm_memory_reservation_gb: 10, vision_device: 'cuda:0'}\n"
        "models: [{name: a, need_gb: 0.5}]\n"
        "foreign: [{device: 0, gb: 1.8, at: 50}, "
        "{device: 0, process: ollama, gb: 9.9, at: 100, llm: true}]"
    )
    score = play(found, POLICIES["danzar"](), record=True)
    assert (score.llm_starved_count, score.oom_count) == (0, 0)
    # Who knows what will happen doesn't go there.
    assert play(found, POLICIES["oracle"]()).llm_starved_count == 0
    ended = [text for _, text in score.notes if "vision's CUDA context" in text]
    assert len(ended) == (keeps == "true"), "the process ends once, and only for that"


def test_a_process_that_ended_for_its_context_asks_again_when_a_new_one_is_up() -> None:
    found = parse(
        "rig: [{total_gb: 12, keeps_context: true, context_gb: 0.6}, "
        "{total_gb: 12, keeps_context: true, context_gb: 0.5}]\nduration: 300\n"
        "models: [{name: yolo, priority: 20, need_gb: 0.6}, {name: clip, need_gb: 0.8}]\n"
        "foreign: [{device: 0, process: ollama, gb: 7.8, llm: true}, "
        "{device: 1, process: game.exe, gb: 11.5, at: 150}]"
    )
    score = play(found, POLICIES["danzar"](), record=True)
    [ended] = [at for at, text in score.notes if "vision's CUDA context" in text]
    # Before that the driver still shows what the old one held: a model would go to the CPU.
    after = [(at - ended, text) for at, text in score.notes if at > ended]
    assert [text for _, text in after if text.endswith("on the CPU")] == []
    assert all(3 <= waited < 6 for waited, _ in after)
    assert score.thrash == 0


def test_a_kept_context_goes_when_none_of_its_models_is_wanted_any_more() -> None:
    found = parse(
        "rig: [{total_gb: 12, keeps_context: true, context_gb: 0.5}]\nduration: 300\n"
        "gpu_memory: {main_llm_memory_reservation_gb: 10, vision_device: 'cuda:0'}\n"
        "models: [{name: a, need_gb: 0.5, until: 90}]\n"
        "foreign: [{device: 0, gb: 1.8, at: 50}, "
        "{device: 0, process: ollama, gb: 9.9, at: 100, llm: true}]"
    )
    assert play(found, POLICIES["danzar"]()).llm_starved_count == 0


def test_the_llm_starves_while_our_model_is_in_its_way() -> None:
    found = trace(
        "duration: 200\ngpu_memory: {main_llm_memory_reservation_gb: 10}\n"
        "models: [{name: a, need_gb: 3, until: 100}]\n"
        "foreign: [{device: 0, process: ollama, gb: 9.5, at: 50, llm: true}]"
    )
    score = play(found, Fixed(0))
    assert score.llm_starved_count == 1
    assert 50 <= score.llm_starved_seconds <= 51  # until the driver shows it as free
    assert score.squeezed_seconds == 50
    assert play(found, Fixed(1)).llm_starved_count == 0


def test_beyond_its_reservation_the_llm_waits_without_being_starved() -> None:
    found = trace(
        "duration: 200\ngpu_memory: {main_llm_memory_reservation_gb: 8}\n"
        "models: [{name: a, need_gb: 3}]\n"
        "foreign: [{device: 0, process: ollama, gb: 9.5, at: 50, llm: true}]"
    )
    score = play(found, Fixed(0))
    assert score.llm_starved_count == 0
    assert score.squeezed_seconds == 150


def test_a_reservation_that_is_learned_follows_the_llm_through_the_hours_of_a_trace() -> None:
    text = (
        "duration: %s\nrig: [{total_gb: 6, context_gb: 0.3}]\n"
        "gpu_memory: {main_llm_memory_reservation_gb: auto, vision_device: 'cuda:0'}\n"
        "models: [{name: a, need_gb: 0.5}]\n"
        "foreign:\n- {device: 0, process: ollama, gb: 2.4, at: 10m, llm: true, until: 200m}"
    )
    for policy in ("danzar", "oracle"):
        # All of the card until the LLM was seen in a third hour, 2.6 GB from then on.
        assert play(parse(text % "2h"), POLICIES[policy]()).gpu_fraction == 0
        assert play(parse(text % "4h"), POLICIES[policy]()).gpu_fraction > 0.49
    # What the LLM asks for beyond what it ever held was promised by nobody.
    more = text + "\n- {device: 0, process: ollama, gb: 5.9, at: 210m, llm: true, until: 220m}"
    assert play(parse(more % "4h"), Fixed(0)).llm_starved_count == 0


def test_growth_runs_out_of_memory_where_there_is_none() -> None:
    text = "duration: 300\nmodels: [{name: a, need_gb: 1, growth: {gb: %s, seconds: 100}}]\n"
    tight = "foreign: [{device: 1, gb: 9.5}]"
    assert play(trace(text % 0.5 + tight), Fixed(1)).oom_count == 0
    score = play(trace(text % 2 + tight), Fixed(1))
    assert score.oom_count == 1
    assert 0 < score.gpu_fraction < 0.4


def test_a_lost_card_takes_its_models_with_it() -> None:
    found = trace(
        "duration: 100\nmodels: [{name: a, need_gb: 1, load_seconds: 0}]\n"
        "sensor: [{kind: lost, device: 1, at: 50}]"
    )
    score = play(found, Fixed(1))
    assert (score.gpu_fraction, score.oom_count, score.moves) == (0.5, 0, 1)


def test_odd_but_valid_traces_are_played() -> None:
    for text in (
        "",
        "models: [{name: a, need_gb: 0}]",
        "models: [{name: a, need_gb: 1, at: 5, until: 5}]\nduration: 10",
        "models: [{name: a, need_gb: 1, at: 9.99}]\nduration: 10",
        "models: [{name: a, need_gb: 999}]\nforeign: [{device: 0, gb: 999, llm: true}]",
        "sensor: [{kind: lost}, {kind: zero, at: 3, until: 4}, {kind: stale, at: 0}]\n"
        "models: [{name: a, need_gb: 1}]",
        "duration: 0.001\nmodels: [{name: a, need_gb: 1}]",
        "gpu_memory: {fallback_to_cpu: false, enable_memory_monitoring: false}\n"
        "models: [{name: a, need_gb: 99}, {name: a, need_gb: 1}]",
    ):
        for name, make in POLICIES.items():
            score = play(trace(text), make(), 1)
            assert 0 <= score.gpu_seconds <= score.model_seconds, (text, name)


def test_where_no_model_was_wanted_there_is_no_share_on_cards(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "nobody.yaml"
    path.write_text(CARDS, encoding="utf-8")
    assert main(["simulate", str(path), "--seeds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["policies"]
    assert list(found) == list(POLICIES)
    for policy in found.values():
        assert set(policy["gpu_fraction"].values()) == {None}
        assert [run["gpu_fraction"] for run in policy["runs"]] == [None, None]
        assert policy["moves"]["mean"] == 0
    assert main(["simulate", str(path), "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "%" not in out.split("mean over")[0]
    assert out.count(" - ") == len(POLICIES)


def test_a_mean_share_is_over_the_seeds_that_have_one() -> None:
    some = spread("gpu_fraction", [0.5, math.nan, 0.7])
    assert some == spread("gpu_fraction", [0.5, 0.7])
    assert math.isnan(spread("gpu_fraction", [math.nan]).mean)


def test_the_contest_takes_a_trace_without_models(tmp_path: Path) -> None:
    with_model = trace("name: one\nmodels: [{name: a, need_gb: 1}]")
    played = [trace("name: nobody"), with_model]
    outcomes = play_all(played, POLICIES, 2)
    text = report.page(played, outcomes, 2)
    nobody = text.split("### one")[0]
    assert "nan" not in text
    assert "| **danzar** | 0.0 | 0.0 | 0 | - |" in nobody
    shares = {o.policy: o.metrics["gpu_fraction"].mean for o in outcomes if o.trace == "one"}
    assert f"| {shares['danzar']:.1%} |" in nobody, "the mean is that of the other trace"
    assert "They all hold." in text
    report.picture(outcomes[: len(POLICIES)], tmp_path / "empty.png")
    assert judge(played[0]).ratio == 1


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_goals_hold_on_every_shipped_trace(path: Path, seed: int) -> None:
    played = load(path)
    oracle = play(played, POLICIES["oracle"](), seed)
    ours = play(played, POLICIES["danzar"](), seed)
    assert oracle.oom_count == oracle.thrash == 0
    assert ours.oom_count == 0, ours.faults
    assert ours.llm_starved_count <= oracle.llm_starved_count, ours.faults
    assert ours.thrash == 0
    assert ours.gpu_fraction >= 0.95 * oracle.gpu_fraction


def test_a_run_is_the_same_each_time() -> None:
    played = load(TRACES[-1])
    first, second = (play(played, POLICIES["danzar"](), 2).values() for _ in range(2))
    assert first == second


def test_there_are_ten_kinds_of_trace_on_four_rigs() -> None:
    rigs = {tuple(card.total_gb for card in load(path).rig) for path in TRACES}
    assert len(TRACES) >= 10
    assert {(12, 12), (24, 8), (8,), (24, 24, 24, 24)} <= rigs


def test_policies_are_found_by_name_or_module() -> None:
    assert policy_named("danzar")().name == "danzar"
    assert policy_named("danzar_gpu.simulate.policies:CpuPolicy")().name == "cpu"
    for name in ("nobody", "", ":", "json:", "..json:loads"):
        with pytest.raises(UnknownPolicy, match=f"there is no policy '{re.escape(name)}'; there a"):
            policy_named(name)
    for name in ("no.such:Thing", "json:Nothing"):
        with pytest.raises(UnknownPolicy, match=f"{name} can't be loaded: .* among the installed"):
            policy_named(name)
    with pytest.raises(UnknownPolicy, match="is not a class"):
        policy_named("json:decoder")


@pytest.mark.parametrize("text", ["class Broken(:", "1 / 0"])
def test_a_policys_module_that_fails_is_refused_in_words(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"broken_policy_{len(text)}"
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["simulate", str(TRACES[0]), "--policy", f"{name}:Broken"]) == 2
    assert f"the policy {name}:Broken can't be loaded: " in capsys.readouterr().err


def test_a_run_tells_how_far_it_is() -> None:
    seen: list[float] = []
    play(
        trace("duration: 100\nmodels: [{name: a, need_gb: 1, at: 50}]"), Fixed(1), watch=seen.append
    )
    assert seen == sorted(seen)
    assert 50 in seen
    assert max(seen) <= 100


def test_somebody_who_looks_sees_a_bar_that_moves_within_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(CARDS + "duration: 5d\nmodels: [{name: a, need_gb: 1}]", encoding="utf-8")
    words = ["simulate", str(path), "--policy", "static", "danzar", "--seeds", "2", "--json"]
    assert main(words) == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    moved: list[float] = []
    update = Progress.update

    def watched(bar: Progress, task: TaskID, *, completed: float, **more: Any) -> None:
        moved.append(completed)
        update(bar, task, completed=completed, **more)

    monkeypatch.setattr(Progress, "update", watched)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for rich
    assert main(words) == 0
    looked = capsys.readouterr()
    assert looked.out == quiet.out
    assert "danzar, seed 1" in looked.err
    assert moved == sorted(moved)
    assert len([share for share in moved if 3 < share < 4]) > 100


def test_one_of_a_thing_is_called_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(
        "description: a [/b] [red]dog\nduration: 1\nrig: [{total_gb: 8}]\n"
        "models: [{name: a, need_gb: 1}]",
        encoding="utf-8",
    )
    assert main(["simulate", str(path), "--policy", "cpu"]) == 0
    title = capsys.readouterr().out.splitlines()[0]
    assert title.strip() == "one: a [/b] [red]dog (1 second, 1 card, 1 model)"
    path.write_text("rig: [{total_gb: 8}, {total_gb: 8}]\nduration: 30d", encoding="utf-8")
    assert main(["simulate", str(path), "--policy", "cpu"]) == 0
    title = capsys.readouterr().out.splitlines()[0]
    assert title.strip() == "one: a trace (2592000 seconds, 2 cards, 0 models)"


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(TRACES[0])
    words = ["simulate", path, "--policy", "danzar", "cpu", "--seeds", "2", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["policies"]) == ["danzar", "cpu"]
    assert found["policies"]["danzar"]["oom_count"]["mean"] == 0
    assert len(found["policies"]["cpu"]["runs"]) == 2


def test_the_command_tells_every_decision_with_its_reason_and_what_it_answers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "told.yaml"
    path.write_text(
        CARDS + "duration: 200\nmodels: [{name: clip, need_gb: 1, at: 5}]\n"
        "foreign: [{device: 1, process: game.exe, gb: 11.5, at: 60}]\n"
        "sensor: [{kind: no_processes, device: 0, at: 90, until: 95}]",
        encoding="utf-8",
    )
    words = ["simulate", str(path), "--policy", "danzar", "static"]
    assert main([*words, "--json"]) == 0
    assert "decisions" not in capsys.readouterr().out
    assert main([*words, "--json", "--decisions"]) == 0
    policies = json.loads(capsys.readouterr().out)["policies"]
    told = [(e["at"], e["words"]) for e in policies["danzar"]["decisions"]]
    assert [at for at, _ in told] == sorted(at for at, _ in told)
    game = told.index((60.0, "+ game.exe: 11.5GB on card 1"))
    assert told[0] == (5.0, "+ clip is wanted (priority 0, 1.0GB expected, 1.0GB taken)")
    assert told[1][1].startswith("clip goes to cuda:1: Device 1")
    leaves = next(words for _, words in told[game:] if words.startswith("clip leaves cuda:1"))
    assert "is short of" in leaves
    assert (95.0, "! card 0: over (no list of processes)") in told
    assert not any("leaves" in e["words"] for e in policies["static"]["decisions"])
    assert main([*words, "--decisions"]) == 0
    out = capsys.readouterr().out
    assert f"      60.0  {told[game][1]}" in out
    assert out.index("static (seed 0), seconds:") > out.index("danzar (seed 0), seconds:")


def test_the_command_prints_a_table_and_draws(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "run.png"
    words = ["simulate", "--policy", "danzar", str(TRACES[0]), "--plot", str(picture)]
    assert main(words) == 0
    assert "danzar" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_names_with_dollar_signs_are_drawn_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "dollars.yaml"
    path.write_text(
        "rig: [{name: 'A $x^$', total_gb: 8}]\nmodels: [{name: '$a_$ {', need_gb: 1}]",
        encoding="utf-8",
    )
    words = ["simulate", str(path), "--policy", "danzar", "--plot", str(tmp_path / "run.png")]
    assert main(words) == 0


def test_a_picture_that_can_not_be_written_is_told_before_anything_is_played(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("bot.cli.simulate.play", None)
    saved = tmp_path / "saved.yaml"
    for place, words in (
        (tmp_path, "is a folder: --plot wants a file in it, such as run.png"),
        (tmp_path / "run.foo", "is no picture's name: end it in .png, .svg or .pdf"),
        (tmp_path / "run", "is no picture's name"),
        (tmp_path / "none" / "run.png", f"there is no folder {tmp_path / 'none'}"),
    ):
        command = ["simulate", str(TRACES[0]), "--plot", str(place), "--save-trace", str(saved)]
        assert main(command) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith(f"danzar simulate: {place} ")
        assert words in shown.err
    assert not saved.exists()


def test_a_picture_that_fails_in_the_end_leaves_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from matplotlib.figure import Figure

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    picture = tmp_path / "run.png"
    words = ["simulate", str(TRACES[0]), "--policy", "cpu", "--plot", str(picture)]
    assert main(words) == 1
    shown = capsys.readouterr()
    assert "cpu" in shown.out
    assert shown.err == f"danzar simulate: {picture} can't be written: No space left on device\n"


def test_the_command_refuses_with_a_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("rig: [{total_gb: 8}]\nmodells: []\n", encoding="utf-8")
    assert main(["simulate", str(bad)]) == 2
    assert f"{bad}:2: modells: there is no such key" in capsys.readouterr().err
    assert main(["simulate", str(TRACES[0]), "--policy", "nobody"]) == 2
    assert main(["simulate"]) == 2


def test_what_is_no_trace_at_all_is_refused_by_its_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    empty, binary = tmp_path / "empty.yaml", tmp_path / "binary.yaml"
    empty.touch()
    binary.write_bytes(b"\x7fELF\xff\xfe")
    for path, words in (
        (tmp_path / "none.yaml", ": can't be read: No such file or directory"),
        (tmp_path, ": can't be read: it is a folder, not a file"),
        (empty, ":1: must be a mapping with rig:, models: and foreign:"),
        (binary, ": is not UTF-8 text: "),
    ):
        assert main(["simulate", str(path)]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith(f"{path}{words}")


class Fickle(PolicyBase):
    """Sends a model to a card, and calls that off while it is loaded."""

    name = "fickle"

    def asked(self, job: Job) -> None:
        self.desk.place(job, 0)
        self.desk.call_at(self.desk.now + 0.5, lambda: self.desk.place(job, None))


def test_a_load_that_is_called_off_ends_elsewhere_without_delay() -> None:
    score = play(
        trace(
            "duration: 60\n"
            "models: [{at: 0, name: a, need_gb: 4}]\n"
            "foreign: [{at: 1.5, device: 0, process: ollama, gb: 12, llm: true}]\n"
            "gpu_memory: {main_llm_memory_reservation_gb: 12}"
        ),
        Fickle(),
    )
    assert (score.llm_starved_count, score.gpu_seconds, score.waits) == (0, 0.0, [2.0])
