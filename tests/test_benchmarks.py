"""The benchmarks' runner and page: the parts that measure nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from benchmarks.__main__ import ON_REQUEST, PARTS, run_parts
from benchmarks.chart import draw
from benchmarks.machine import describe
from benchmarks.measuring import Spread, interleaved, ratio
from benchmarks.our_worker import NotComparable, OurWorker
from benchmarks.parts import gpu
from benchmarks.parts.pipeline import Case, Models, Row
from benchmarks.report import Report, as_markdown, gpu_section, with_section
from benchmarks.results import Bar, Result, Table, Target, number, shown
from benchmarks.runs import Run
from bot.settings import Settings
from bot.vision.measured_worker import MeasuredWorker
from bot.vision.reports import PipelineCounts
from bot.vision.worker.handle import WorkerGone
from bot.vision.worker.protocol import Destination, Held, LoadModel, Placed, Pong
from danzar_gpu.memory import GIB, DeviceMemory, GpuProcess


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


class Card:
    """What the part for a card asks: the driver, our worker, and the comparison with a plain loop.

    ``row`` is the number that the driver has for our process; ours is 77.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, row: int, others: float = 0.0) -> None:
        self.row, self.others, self.readings = row, others, 0
        self.fails: list[str] = []
        for name in ("_card", "_reading", "our_worker", "rows_on"):
            monkeypatch.setattr(gpu, name, getattr(self, name))
        self.worker, self.pid, self.backend = self, 77, "torch f16"

    def _card(self) -> tuple[str, str]:
        return "H100", ""

    def _reading(self) -> DeviceMemory:
        self.readings += 1
        ours = 900 << 20 if self.readings == 3 else 0  # for the UUID, before, and after
        foreign = int(self.others * GIB) if self.readings == 3 else 0
        process = (GpuProcess(self.row, "python", ours),) if ours else ()
        total = 80 * GIB
        free = total - ours - foreign
        return DeviceMemory(0, "GPU-1", "H100", total, free, ours, processes=process)

    @asynccontextmanager
    async def our_worker(self, *_: object) -> AsyncIterator[Card]:
        if "memory" in self.fails:
            raise RuntimeError("a fault\nthat nobody foresaw")
        yield self

    async def load(self, batch_size: int, destination: Destination) -> None:
        assert (batch_size, destination.device, destination.uuid) == (1, "cuda:0", "GPU-1")

    async def play(self, film: Path) -> None:
        pass

    async def memory(self) -> Pong:
        held = (Held(index=0, reserved_bytes=400 << 20, active_bytes=0, context_bytes=450 << 20),)
        return Pong(busy_seconds=0, counts=PipelineCounts(), held=held, resident_bytes=1)

    async def rows_on(
        self, run: Run, where: Destination, modes: object, chosen: list[tuple[Models, str]]
    ) -> tuple[list[Row], None]:
        title = chosen[0][0].title
        if title in self.fails:
            raise WorkerGone(f"{title} broke it")
        case = Case(title, "both", 1, "moving", "default")
        times = Spread(6.0, 5.0, 7.0, 3)
        return [Row(case, times, times, times, "torch f16", 1, 1)], None

    async def measured(self, folder: Path) -> Result:
        run = Run(folder, False, lambda share, words: None, _made={"films", "models"})
        return await gpu.measure(run)


async def memory_target(card: Card, folder: Path) -> Target:
    return next(t for t in (await card.measured(folder)).targets if t.what == gpu.MEMORY)


@pytest.mark.parametrize("row", [77, 4711])  # in a container the driver has another number
async def test_memory_on_a_card_is_the_driver_s_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, row: int
) -> None:
    card = Card(monkeypatch, row=row)
    result = await card.measured(tmp_path)
    assert not result.failed
    assert [t.found for t in result.targets] == ["0.879 GiB", "6x (5 to 7)", "6x (5 to 7)"]
    assert all(t.met for t in result.targets)
    found = " ".join(cell for line in result.tables[1].rows for cell in line)
    assert "0.391 GiB" in found and "0.439 GiB" in found
    assert ("before and after" in found) == (row != 77)


async def test_what_others_gave_back_meanwhile_is_no_figure_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = Card(monkeypatch, row=4711, others=-0.7)
    target = await memory_target(card, tmp_path)
    assert target.met is None and "another program" in target.found


async def test_what_fails_on_a_card_costs_nothing_that_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = Card(monkeypatch, row=77)
    card.fails = ["memory", "YOLOv8n, ViT-B/32"]
    result = await card.measured(tmp_path)
    assert result.failed
    assert [t.met for t in result.targets] == [None, None, True]
    assert len(result.tables) == 1
    assert "RuntimeError: a fault that nobody foresaw" in result.notes[0]
    assert "WorkerGone: YOLOv8n, ViT-B/32 broke it" in result.notes[1]


async def test_a_detector_that_looks_for_nothing_is_not_compared() -> None:
    class Idle:
        async def load(self, request: LoadModel) -> Placed:
            note = "the YOLO model knows no boss; so it reports nothing; change yolo.classes"
            return Placed(device="cpu", on_card=False, weights_bytes=1, notes=(note,))

    ours = OurWorker(cast(MeasuredWorker, Idle()), Settings(), ("yolo",))
    with pytest.raises(NotComparable, match="yolo computes nothing"):
        await ours.load(1)
