"""What measures a card works without one, too: the second program, the figures, the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import SECTION_BEGIN
from danzar_gpu import GPUMemoryManager
from danzar_gpu.memory import GIB, MemorySnapshot
from tests.gpu.contest import makes_room, seconds_until_all_are_on, taken
from tests.gpu.measurements import Measurements, load, page
from tests.gpu.program import ROOT, Cuda, Program
from tests.vision.running import (
    SimulatedRig,
    inline,
    manager_of,
    running,
    settings_for,
    two_cards,
)
from tests.vision.scripted import ScriptedModel

PAGE = ROOT / "docs" / "measurements.md"


def test_the_program_takes_gives_and_says_when_it_starved() -> None:
    program = Program("host")
    try:
        program.take(1 << 20)
        with pytest.raises(MemoryError, match="failed more than any test means"):
            program.take(1 << 50)
        program.give()
    finally:
        program.close()


class Driver:
    """libcuda with so many bytes; called through ctypes, as the real one."""

    def __init__(self, size: int) -> None:
        self.left, self.blocks = size, dict[int, int]()

    def __getattr__(self, function: str) -> Any:
        return lambda *_: 0

    def cuMemAlloc_v2(self, block: Any, size: Any) -> int:
        if size.value > self.left:
            return 2
        block._obj.value = len(self.blocks) + 1
        self.blocks[block._obj.value] = size.value
        self.left -= size.value
        return 0

    def cuMemFree_v2(self, block: Any) -> int:
        self.left += self.blocks[block.value]
        return 0

    def cuGetErrorName(self, status: int, name: Any) -> int:
        name._obj.value = b"CUDA_ERROR_OUT_OF_MEMORY"
        return 0


def test_a_card_s_memory_is_taken_in_pieces_and_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver(5 * GIB)
    monkeypatch.setattr("tests.gpu.program.ctypes.CDLL", lambda name: driver)
    cuda = Cuda(0)
    cuda.take(2 * GIB + 7)
    assert sorted(driver.blocks.values()) == [7, GIB, GIB]
    with pytest.raises(MemoryError, match=r"cuMemAlloc_v2 said CUDA_ERROR_OUT_OF_MEMORY \(2\)"):
        cuda.take(4 * GIB)
    assert driver.left == 3 * GIB - 7
    cuda.take(0)
    cuda.give()
    assert driver.left == 5 * GIB


async def test_who_starves_says_of_what() -> None:
    def refuse(size: int) -> None:
        raise MemoryError("failed cuMemAlloc_v2")

    settings = settings_for("nothing.pt", "nowhere")
    async with running(settings, two_cards(), start=False) as pipeline:
        with pytest.raises(AssertionError) as failure:
            await taken(pipeline, 1, refuse, GIB)
    words = str(failure.value)
    assert "wanted 1024 MiB more" in words and "10240 MiB are free" in words
    assert "services: yolo off on None" in words and "leases: []" in words


class LivingRig(SimulatedRig):
    """Two cards on which our models take what they are leased."""

    manager: GPUMemoryManager | None = None

    def ours(self) -> int:
        here = [x for x in self.manager.leases if x.device == "cuda:1"] if self.manager else []
        context = max((x.need.context_bytes for x in here), default=0)
        return sum(x.need.model_bytes for x in here) + context

    def read(self, now: float, *, processes: bool) -> MemorySnapshot:
        self.cards[1].ours = {os.getpid(): self.ours()}
        return super().read(now, processes=processes)

    def take(self, size: int) -> None:
        """The program beside us takes more; refused where the card has no more."""
        card = self.cards[1]
        held = int(sum(card.programs.values()) * GIB) + self.ours()
        if held + size > card.total * GIB:
            raise MemoryError("starved")
        card.programs["rival"] = card.programs.get("rival", 0.0) + size / GIB

    def give(self) -> None:
        del self.cards[1].programs["rival"]


async def test_the_contest_s_steps_hold_on_a_scripted_rig(film: Path, tmp_path: Path) -> None:
    rig = LivingRig(*two_cards().cards)
    weights, folder = tmp_path / "some.pt", tmp_path / "some-clip"
    weights.write_bytes(bytes(6 << 20))
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    (folder / "open_clip_model.safetensors").write_bytes(bytes(20 << 20))
    settings = settings_for(
        weights, folder, capture={"source": "video", "path": str(film), "loop": True}
    )
    factory = inline(ScriptedModel("yolo"), ScriptedModel("clip"))
    found = Measurements("none", "none", "none", "today", 12.0)
    async with running(settings, rig, worker_factory=factory, every_frame=True) as pipeline:
        await seconds_until_all_are_on(pipeline, "cuda:1", 45.0)
        rig.manager = manager_of(pipeline)
        reports = await makes_room(pipeline, 1, rig.take, rig.give, found, 2, 45.0)
    assert [len(row.values) for row in found.rows] == [4, 4, 2]
    numbers = [report.sequence for report in reports]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_figures_of_several_runs_make_one_page(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    for card in ("RTX 4070", "H200"):
        found = Measurements(card, "580.1", "2.9", "2026-11-23", 12.0)
        found.add("yolo-nano.pt: park", "s", 0.25)
        found.add("yolo-nano.pt: park", "s", 0.125, 0.5)
        found.add("never measured", "s")
        found.save(path)
    text = page(load(path))
    assert "## RTX 4070, 12 GB" in text
    assert text.count("| yolo-nano.pt: park | 0.25 s | 0.5 s | 3 |") == 2
    assert "never measured" not in text
    assert "No card has been measured yet" not in text


def test_the_page_is_the_one_that_is_made() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "tests.gpu.measurements"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    # The benchmarks' section is made by another program.
    written = PAGE.read_text(encoding="utf-8").partition(SECTION_BEGIN)[0].rstrip() + "\n"
    if "No card has been measured yet" in written:
        assert written == made
    else:  # figures of somebody's card: the words around them are still ours
        assert written.startswith(made.split("\n**No card")[0].rstrip())
