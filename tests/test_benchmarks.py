"""The benchmarks' runner and page: the parts that measure nothing."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from benchmarks.__main__ import ON_REQUEST, PARTS, run_parts
from benchmarks.chart import draw
from benchmarks.machine import describe
from benchmarks.measuring import Spread, interleaved, ratio
from benchmarks.our_worker import NotComparable, OurWorker
from benchmarks.report import Report, as_markdown, gpu_section, with_section
from benchmarks.results import Bar, Result, Table, Target, number, shown
from benchmarks.runs import Run
from bot.settings import Settings
from bot.vision.measured_worker import MeasuredWorker
from bot.vision.worker.protocol import LoadModel, Placed


async def test_rounds_take_turns_and_go_back_and_forth() -> None:
    order: list[str] = []

    async def take(name: str) -> float:
        order.append(name)
        return float(len(order))

    steps: list[str] = []
    samples = await interleaved({"a": lambda: take("a"), "b": lambda: take("b")}, 3, steps.append)
    assert order == steps == ["a", "b", "b", "a", "a", "b"]
    assert samples == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_a_ratio_is_taken_round_by_round() -> None:
    # The whole machine was half as fast in the second round: the ratio does not care.
    assert ratio([10.0, 20.0, 12.0], [5.0, 10.0, 4.0]) == Spread(2.0, 2.0, 3.0, 3)


@pytest.mark.parametrize(("peer", "ours"), [([1.0], [1.0, 2.0]), ([1.0], [0.0])])
def test_a_ratio_of_unequal_rounds_or_of_nothing_is_refused(
    peer: list[float], ours: list[float]
) -> None:
    with pytest.raises(ValueError, match="same rounds"):
        ratio(peer, ours)


def test_nothing_measured_has_no_median() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


def test_figures_read_as_people_write_them() -> None:
    values = [0, 0.0123, 0.5, 1, 3.14159, 12.34, 99.0, 12345.6]
    assert [number(v) for v in values] == [
        "0",
        "0.0123",
        "0.5",
        "1",
        "3.14",
        "12.3",
        "99",
        "12,346",
    ]
    assert shown(Spread(2.0, 1.5, 3.0, 3), "x") == "2x (1.5 to 3)"
    assert shown(Spread(2.0, 2.0, 2.0, 1), " ms") == "2 ms"


def test_a_target_is_met_by_the_median() -> None:
    spread = Spread(2.0, 1.0, 9.0, 3)
    assert Target.at_least("", 2.0, spread).met is True
    assert Target.at_least("", 2.1, spread).met is False
    assert Target.at_most("", 2.0, spread, " ms").met is True
    assert Target.at_most("", 1.9, spread, " ms").met is False
    assert Target.unknown("", "5x", "no card").met is None


def page(load: float) -> str:
    report = Report.begin(quick=False)
    report.load_before = load
    spread = Spread(4.0, 3.0, 5.0, 3)
    result = Result(
        "Speed",
        [Table("Times", ("case", "ms"), [("a | b", "4")])],
        [
            Target.at_least("fast", 2.0, spread),
            Target.at_least("faster", 8.0, spread),
            Target.unknown("on a card", "at least 5x", "no card here"),
        ],
        [Bar("case", spread)],
        ["A note."],
    )
    report.add("speed", result, 12.0)
    report.add("cards", Result("Cards", skipped="there is no NVIDIA card"), 0.0)
    report.end()
    return as_markdown(report, picture="images/p.png")


def test_the_page_tells_targets_honestly() -> None:
    text = page(load=0.0)
    assert "| fast | at least 2x | 4x (3 to 5) | met |" in text
    assert "| faster | at least 8x | 4x (3 to 5) | **not met** |" in text
    assert "| on a card | at least 5x | no card here | open |" in text
    assert "| a \\| b | 4 |" in text
    assert "Not measured: there is no NVIDIA card" in text
    assert "![" in text and "images/p.png" in text
    assert "Run alone: `python -m benchmarks speed` (12 s here)." in text


def test_the_page_names_machine_versions_and_a_busy_one() -> None:
    machine = describe()
    assert machine.cores >= 1
    assert dict(machine.packages)["torch"]
    assert f"{machine.cores} cores" in page(load=0.0)
    assert "busy with other work" not in page(load=0.0)
    assert "busy with other work" in page(load=machine.cores * 2.0)


def test_the_chart_shows_losses_too(tmp_path: Path) -> None:
    bars = [Bar("faster", Spread(8.0, 6.0, 9.0, 3)), Bar("slower", Spread(0.5, 0.4, 0.6, 3))]
    draw(bars, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


async def test_a_part_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.parts.capture
    import benchmarks.parts.poll

    async def fails(run: Run) -> Result:
        raise OSError("no screen")

    async def works(run: Run) -> Result:
        run.tell(0.5, "half")
        return Result("Poll")

    monkeypatch.setattr(benchmarks.parts.capture, "measure", fails)
    monkeypatch.setattr(benchmarks.parts.poll, "measure", works)
    chosen = {name: PARTS[name] for name in ("capture", "poll")}
    report = await run_parts(chosen, quick=True)
    assert report.failed
    assert report.results["capture"][0].skipped == "it failed: no screen"
    assert report.results["poll"][0].skipped == ""


def test_every_part_that_is_named_exists() -> None:
    from importlib import import_module

    for module, seconds in {**PARTS, **ON_REQUEST}.values():
        assert callable(import_module(module).measure)
        assert seconds > 0


def test_the_cards_have_a_section_of_a_page_that_is_not_theirs() -> None:
    report = Report.begin(quick=False)
    report.add("gpu", Result("Pipeline on a card", notes=["A note."]), 3.0)
    report.end()
    section = gpu_section(report)
    page = with_section("# Measurements\n\nOf others.\n", section)
    assert page.startswith("# Measurements\n\nOf others.\n")
    assert "## Pipeline on a card" in page and "### The machine" in page
    again = with_section(page + "\nMore of others.\n", section.replace("A note.", "Newer."))
    assert "A note." not in again and "Newer." in again
    assert again.endswith("More of others.\n") and "Of others." in again
    assert with_section("", section).startswith("# Measurements\n")


async def test_a_detector_that_looks_for_nothing_is_not_compared() -> None:
    class Idle:
        async def load(self, request: LoadModel) -> Placed:
            note = "the YOLO model knows no boss; so it reports nothing; change yolo.classes"
            return Placed(device="cpu", on_card=False, weights_bytes=1, notes=(note,))

    ours = OurWorker(cast(MeasuredWorker, Idle()), Settings(), ("yolo",))
    with pytest.raises(NotComparable, match="yolo computes nothing"):
        await ours.load(1)
