"""What is learned, kept on disk, and asked of the LLM's server."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from danzar_gpu import AdmissionRefused, Footprint, GPUMemoryConfig, GPUMemoryManager
from danzar_gpu.history import SCHEMA_VERSION, HistoryStore, Measurement, percentile
from danzar_gpu.learning import FootprintBook, PeakRecorder
from danzar_gpu.llm_server import ask_server
from danzar_gpu.memory import GIB, DeviceMemory
from tests.gpu_memory.rig import Card, Rig, ScriptedProbe, gb

AUTO = GPUMemoryConfig(main_llm_memory_reservation_gb="auto")
HOUR = 3600.0


@given(st.lists(st.integers(0, 1000), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(
    values: list[int], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= len(values) * share - 0.001 * len(values) - 1e-9


def test_a_measured_footprint_outlives_a_restart_and_replaces_the_prediction(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.sqlite3"
    store = HistoryStore(path)
    assert store.open().measurements == ()
    for size in (0.4, 0.5, 0.6):
        measured = Measurement(1.0, "yolo fp16", "RTX 4070", Footprint.of_gb(size))
        store.measurement(measured)
    store.close()
    again = HistoryStore(path)
    book = FootprintBook(again.open().measurements)
    again.close()
    assert book.expected("yolo fp16", "RTX 4070") == Footprint.of_gb(0.6)
    assert book.expected("yolo fp16", "another card") == Footprint.of_gb(0.6)
    assert book.expected("unknown") is None


async def test_the_manager_learns_from_a_lease_and_uses_it_next_time(tmp_path: Path) -> None:
    for prediction, expected in ((1.5, 1.5), (1.5, 0.4)):
        store = HistoryStore(tmp_path / "history.sqlite3")
        manager = GPUMemoryManager(
            GPUMemoryConfig(enable_memory_monitoring=False),
            ScriptedProbe(Card("A"), Card("B")),
            store=store,
        )
        await manager.start()
        need = Footprint.of_gb(prediction)
        async with manager.lease("yolo", need, model="yolo-nano.pt fp16") as lease:
            assert lease.need == Footprint.of_gb(expected)
            lease.measured(Footprint.of_gb(0.4))
        await manager.close()


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"main_llm_reservation_min_gb": 30.0}, "must be at most main_llm_reservation_max_gb"),
        ({"main_llm_reservation_max_gb": 1.0}, "must be at least main_llm_reservation_min_gb"),
    ],
)
def test_bounds_that_leave_nothing_between_them_are_refused(
    bounds: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        GPUMemoryConfig(**bounds)


def test_the_reservation_follows_the_llms_peak_within_its_bounds() -> None:
    peaks = PeakRecorder()
    assert peaks.reservation(AUTO, 12 * GIB).size_bytes == 8 * GIB
    for hour in range(5):
        peaks.add(hour * HOUR, gb(5.0))
    learned = peaks.reservation(AUTO, 12 * GIB)
    assert learned.size_bytes == pytest.approx(gb(5.5), rel=1e-6)
    assert learned.reason == "5.5GB: the LLM's peak of 5.0GB in 5 hours, and a tenth more"
    peaks.add(5 * HOUR, gb(11.9))
    assert peaks.reservation(AUTO, 12 * GIB).size_bytes == 12 * GIB


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 40)), max_size=60))
def test_a_learned_reservation_never_leaves_its_bounds(seen: list[tuple[int, float]]) -> None:
    peaks = PeakRecorder()
    for hour, size in seen:
        peaks.add(hour * HOUR, gb(size))
    assert 2 * GIB <= peaks.reservation(AUTO, 24 * GIB).size_bytes <= 24 * GIB


@pytest.mark.parametrize(
    ("peak", "bounds", "why"),
    [
        (6.0, {}, "6.6GB: the LLM's peak of 6.0GB in 3 hours, and a tenth more"),
        (
            1.0,
            {},
            "2.0GB: the LLM's peak of 1.0GB in 3 hours, and a tenth more; "
            "main_llm_reservation_min_gb asks for more",
        ),
        (
            9.0,
            {"main_llm_reservation_max_gb": 7.0},
            "7.0GB: the LLM's peak of 9.0GB in 3 hours, "
            "and a tenth more; main_llm_reservation_max_gb allows no more",
        ),
        (
            11.5,
            {},
            "12.0GB: the LLM's peak of 11.5GB in 3 hours, and a tenth more; the card has no more",
        ),
    ],
)
def test_what_was_learned_is_said_with_the_bound_that_cut_it(
    peak: float, bounds: dict[str, float], why: str
) -> None:
    config = AUTO.model_copy(update=bounds)
    recorder = PeakRecorder([(hour, gb(peak)) for hour in range(3)])
    assert recorder.reservation(config, gb(12)).reason == why


async def test_auto_is_said_and_used() -> None:
    llm = Card("A", programs={"ollama": 4.0})
    async with Rig(llm, Card("B"), main_llm_memory_reservation_gb="auto") as rig:
        hours = iter(range(100))
        rig.manager._wall = lambda: next(hours) * HOUR  # pyright: ignore[reportPrivateUsage]
        await rig.step(times=5)
        assert rig.manager.rooms()[0].outstanding == pytest.approx(gb(0.4), abs=2)
        assert any("the LLM's peak of 4.0GB" in text for text in rig.events("reservation"))


def test_a_damaged_file_is_set_aside_not_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.sqlite3"
    path.write_bytes(b"this is no database" * 1000)
    store = HistoryStore(path)
    store.open()
    store.close()
    (aside,) = tmp_path.glob("history.sqlite3.damaged-*")
    assert aside.read_bytes().startswith(b"this is no database")
    assert "set aside" in caplog.text
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_a_folder_that_cannot_be_written_leaves_history_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    store = HistoryStore(tmp_path / "file" / "history.sqlite3")
    store.open()
    store.measurement(Measurement(0, "m", "d", Footprint()))
    store.close()
    assert store.trouble is not None
    assert "kept in memory only" in store.trouble


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(**paths: Any) -> AsyncIterator[str]:
    """A local HTTP server that answers these paths (``api_ps``, ``v1_models``) as given."""
    app = web.Application()

    def answer(body: Any) -> Handler:
        async def handle(_: web.Request) -> web.StreamResponse:
            if isinstance(body, str):
                return web.Response(text=body)
            return web.json_response(body)

        return handle

    for path, body in paths.items():
        app.router.add_get("/" + path.replace("_", "/"), answer(body))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


OLLAMA = {"models": [{"name": "qwen2.5:7b", "size": 9 * GIB, "size_vram": gb(7.5)}]}


async def test_ollama_tells_what_is_loaded_and_how_large() -> None:
    async with server(api_ps=OLLAMA) as address:
        state = await ask_server(address, 1.0)
    assert (state.names, state.vram_bytes, state.error) == ("qwen2.5:7b", gb(7.5), None)


async def test_an_openai_server_tells_names() -> None:
    async with server(v1_models={"data": [{"id": "llama"}]}) as address:
        state = await ask_server(address + "/", 1.0)
    assert (state.names, state.vram_bytes) == ("llama", 0)


@pytest.mark.parametrize("body", ["no json", [], {"models": 7}, {"models": [3, {"size_vram": -1}]}])
async def test_a_strange_answer_is_no_reason_to_fall(body: Any) -> None:
    async with server(api_ps=body) as address:
        assert (await ask_server(address, 1.0)).vram_bytes == 0
    assert (await ask_server(address, 1.0)).error


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://me:secret@127.0.0.1:1", "nothing answers at its address"),
        ("http://127.0.0.1:99999", "its address is none"),
    ],
)
async def test_a_failure_is_told_in_words_without_the_address(address: str, why: str) -> None:
    assert (await ask_server(address, 1.0)).error == why


class Endless(web.StreamResponse):
    """Starts an answer and never says how long it will be."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        writer = await super().prepare(request)
        with suppress(ConnectionError):
            while True:
                await self.write(b" " * (1 << 16))
        return writer


async def test_an_answer_without_end_or_bottom_is_cut_off() -> None:
    async with server(api_ps="[" * 200_000) as address:
        state = await ask_server(address, 1.0)
    assert state.error == "its answer is nested too deeply"
    app = web.Application()

    async def endless(_: web.Request) -> web.StreamResponse:
        return Endless()

    app.router.add_get("/api/ps", endless)
    async with TestServer(app) as running:
        state = await ask_server(str(running.make_url("")), 1.0)
    assert state.error == "its answer is too long"


async def test_the_servers_word_counts_only_where_the_driver_is_silent() -> None:
    silent = Card("A", programs={"": 7.5})
    async with server(api_ps=OLLAMA) as address:
        async with Rig(silent, Card("B"), main_llm_endpoint=address) as told:
            # The card's account is kept under no name: the driver does tell sizes.
            assert told.manager.rooms()[0].outstanding == 8 * GIB
        probe = ScriptedProbe(silent, Card("B"))
        manager = GPUMemoryManager(
            GPUMemoryConfig(main_llm_endpoint=address, enable_memory_monitoring=False),
            NamelessProbe(probe),
        )
        await manager.start()
        assert manager.rooms()[0].outstanding == pytest.approx(gb(0.5), abs=2)
        assert manager.llm_server is not None
        assert manager.llm_server.names == "qwen2.5:7b"
        await manager.close()


async def test_in_a_container_our_own_worker_does_not_hide_the_llm() -> None:
    # The driver names what runs in the container, and that alone: the LLM runs in another one.
    card = Card("A", programs={"ollama": 7.5}, ours={77: gb(0.5)})
    probe = ScriptedProbe(card, Card("B"))
    async with server(api_ps=OLLAMA) as address:
        config = GPUMemoryConfig(main_llm_endpoint=address, enable_memory_monitoring=False)
        manager = GPUMemoryManager(config, NamelessProbe(probe, named={77}))
        manager.holder_memory("vision", 77, {0: (gb(0.5), gb(0.4))})
        await manager.start()
        assert manager.rooms()[0].outstanding == pytest.approx(gb(0.5), abs=2)
        # Whoever else is named: then the driver would name the LLM, too.
        manager.holder_gone("vision", "it ended")
        await manager.refresh(max_age=0)
        assert manager.rooms()[0].outstanding == 8 * GIB
        await manager.close()


@pytest.mark.parametrize("endpoint", ["{}/v1", "{}/v1/", "{}"])
async def test_a_server_that_answers_anything_to_what_it_does_not_know_is_asked_on(
    endpoint: str,
) -> None:
    # As LM Studio does; and its address is mostly given as OpenAI's clients want it.
    unknown = {"error": "Unexpected endpoint or method. (GET /api/ps)"}
    async with server(api_ps=unknown, v1_models={"data": [{"id": "qwen2.5"}]}) as address:
        state = await ask_server(endpoint.format(address), 1.0)
    assert (state.names, state.error) == ("qwen2.5", None)


@asynccontextmanager
async def moody_server(mood: dict[str, Any]) -> AsyncIterator[str]:
    """Ollama while ``mood`` says nothing else: ``status``, or ``busy`` until an event is set."""

    async def handle(_: web.Request) -> web.StreamResponse:
        if "busy" in mood:
            await mood["busy"].wait()
        return web.json_response(OLLAMA, status=mood.get("status", 200))

    app = web.Application()
    app.router.add_get("/api/ps", handle)
    async with TestServer(app) as running:
        yield str(running.make_url(""))


async def test_a_server_that_fails_drives_nobody_out_and_lets_nobody_in() -> None:
    rig = Rig(Card("A", total=16, programs={"": 7.5}))
    mood: dict[str, Any] = {}
    async with moody_server(mood) as address:
        config = GPUMemoryConfig(main_llm_endpoint=address)
        manager = GPUMemoryManager(config, NamelessProbe(rig.probe), clock=rig.clock)
        await manager.start()
        lease = await manager.acquire("yolo", Footprint.of_gb(1), policy="fail")
        mood["status"] = 500
        for _ in range(10):
            rig.now += 6
            await manager.refresh(max_age=0)
        assert manager.llm_server is not None
        assert manager.llm_server.error == "it answered 500"
        assert lease.target is None
        with pytest.raises(AdmissionRefused, match="reserved for main LLM"):
            await manager.acquire("clip", Footprint.of_gb(0.3), policy="fail")
        # The LLM's memory comes back, and somebody else takes more than was free before.
        rig.cards[0].programs = {"": 0.5}
        rig.now += 6
        await manager.refresh(max_age=0)
        rig.cards[0].programs = {"": 8.5}
        rig.now += 6
        await manager.refresh(max_age=0)
        assert lease.target is not None
        await manager.close()


async def test_a_busy_server_keeps_no_reading_waiting() -> None:
    rig = Rig(Card("A", programs={"": 7.5}), Card("B"))
    mood: dict[str, Any] = {}
    async with moody_server(mood) as address:
        config = GPUMemoryConfig(main_llm_endpoint=address, enable_memory_monitoring=False)
        manager = GPUMemoryManager(config, NamelessProbe(rig.probe), clock=rig.clock)
        await manager.start()
        mood["busy"] = asyncio.Event()
        rig.now += 6
        await asyncio.wait_for(manager.refresh(max_age=0), 1.5)
        # Its last word counts while it thinks.
        assert manager.rooms()[0].outstanding == pytest.approx(gb(0.5), abs=2)
        mood["busy"].set()
        await manager.close()


class NamelessProbe:
    """A driver without accounts per process, as under WDDM; or for ``named`` alone."""

    source = "scripted"

    def __init__(self, probe: ScriptedProbe, named: Set[int] | None = None) -> None:
        self._probe = probe
        self._named = named

    def read(self, now: float, *, processes: bool) -> Any:
        shot = self._probe.read(now, processes=processes)
        return replace(shot, devices=tuple(self._without_names(d) for d in shot.devices))

    def _without_names(self, device: DeviceMemory) -> DeviceMemory:
        if self._named is None:
            return replace(device, processes=None)
        rows = tuple(p for p in device.processes or () if p.pid in self._named)
        return replace(device, processes=rows)

    def close(self) -> None:
        self._probe.close()


async def test_what_people_choose_outlives_a_restart_and_can_be_reset(tmp_path: Path) -> None:
    def manager() -> GPUMemoryManager:
        return GPUMemoryManager(
            GPUMemoryConfig(enable_memory_monitoring=False, vision_memory_limit_gb=3.0),
            ScriptedProbe(Card("A"), Card("B")),
            store=HistoryStore(tmp_path / "history.sqlite3"),
        )

    first = manager()
    await first.start()
    first.choices.reserve(4.5, "Ada")
    first.choices.prefer("cuda:0", "Ada")
    first.choices.offload("clip", "Bo")
    with pytest.raises(ValueError, match="is no vision_device"):
        first.choices.prefer("the big one", "Ada")
    await first.close()

    second = manager()
    await second.start()
    assert second.config.main_llm_memory_reservation_gb == 4.5
    assert second.config.vision_device == "cuda:0"
    assert second.config.vision_memory_limit_gb == 3.0
    assert [(c.key, c.who) for c in second.choices.made][-1] == ("offload:clip", "Bo")
    clip = await second.acquire("clip", Footprint.of_gb(0.5))
    assert (clip.device, clip.reason) == (
        "cpu",
        "Bo sent it there; `gpu restore clip` brings it back",
    )
    second.choices.reset()
    assert second.config.vision_device == "cuda:1"
    assert second.choices.made == ()
    assert clip.target is not None
    assert clip.target.device == "cuda:1"
    await second.close()


async def test_an_offloaded_model_leaves_its_card_and_stays_away() -> None:
    async with Rig() as rig:
        lease = await rig.manager.acquire("clip", Footprint.of_gb(0.5))
        rig.manager.choices.offload("clip", "Ada")
        assert lease.target is not None
        assert lease.target.device == "cpu"
        lease.moved()
        await rig.step(times=300)
        assert lease.device == "cpu"
        assert not lease.revoked.is_set()
        (placement,) = rig.manager.choices.restore("clip")
        assert placement.device == "cuda:1"
        lease.moved()
        assert lease.device == "cuda:1"


async def test_a_model_that_all_cards_refuse_keeps_no_other_from_returning() -> None:
    async with Rig(main_llm_memory_reservation_gb=0.0) as rig:
        rig.cards[0].programs, rig.cards[1].programs = {}, {}
        clip = await rig.manager.acquire("clip", Footprint.of_gb(0.5), holder="worker")
        clip.move_failed("torch has no kernels for it", unusable=True)
        await rig.step(times=300)
        clip.move_failed("torch has no kernels for it", unusable=True)
        yolo = await rig.manager.acquire("yolo", Footprint.of_gb(0.5), holder="worker")
        rig.cards[1].programs = {"game": 11.9}
        await rig.step(times=3)
        assert yolo.target is not None
        assert yolo.target.device == "cuda:0"
        yolo.moved()
        rig.cards[1].programs = {}
        await rig.step(times=300)
        assert yolo.target is not None
        assert yolo.target.device == "cuda:1"
        assert clip.device == "cpu"


async def test_who_waits_for_no_card_that_would_have_it_holds_up_nobody() -> None:
    async with Rig(main_llm_memory_reservation_gb=0.0, fallback_to_cpu=False) as rig:
        rig.cards[0].programs, rig.cards[1].programs = {}, {}
        need = Footprint.of_gb(0.5)
        for device in ("cuda:1", "cuda:0"):
            refused = await rig.manager.acquire("yolo", need, holder="worker", priority=20)
            assert refused.device == device
            refused.move_failed("torch has no kernels for it", unusable=True)
            refused.release()
        asked = rig.manager.acquire("yolo", need, holder="worker", priority=20, policy="wait")
        waiting = asyncio.create_task(asked)
        await asyncio.sleep(0)
        clip = await rig.manager.acquire("clip", need, holder="worker", policy="fail")
        assert clip.device == "cuda:1"
        # Another model of that process is there: what kept the first one away may be over.
        clip.model = "clip fp16"
        clip.measured(need)
        await rig.step(times=3)
        assert (await waiting).device == "cuda:1"


async def test_a_card_that_torch_cannot_use_is_not_tried_again_but_another_one_is() -> None:
    async with Rig() as rig:
        rig.cards[0].programs = {}
        lease = await rig.manager.acquire("clip", Footprint.of_gb(0.5), holder="worker")
        assert lease.device == "cuda:1"
        lease.move_failed("torch has no kernels for it", unusable=True)
        await rig.step(times=300)
        assert lease.target is not None
        assert lease.target.device == "cuda:0"
        lease.move_failed("it is busy", unusable=True)
        await rig.step(times=300)
        assert lease.device == "cpu"
        assert not lease.revoked.is_set()
        again = await rig.manager.acquire("clip", Footprint.of_gb(0.5), holder="worker")
        assert again.device == "cpu"
        assert "cuda:1 failed: torch has no kernels for it" in again.reason
        assert "cuda:0 failed: it is busy" in again.reason
        # Another process may have more luck.
        rig.manager.holder_gone("worker", "it was restarted")
        anew = await rig.manager.acquire("clip", Footprint.of_gb(0.5), holder="worker")
        assert anew.device == "cuda:1"
