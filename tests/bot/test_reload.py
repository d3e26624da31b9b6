"""The configuration, read again: all of it or nothing, and no restart for what needs none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.context import AppContext
from bot.misfits import misfits
from bot.observability import logs
from bot.reload import Reloaded, differences, reload, reload_or_say_why
from bot.settings import Settings, SettingsError, parse
from danzar_gpu import Footprint
from tests.bot.doubles import ScriptedVision, scripted_context
from tests.bot.world import last, world
from tests.gpu_memory.rig import Card, Rig, ScriptedProbe, guide_rig


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("gpu_memory: {headroom_gb: 0.5}\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def log_level_as_before() -> Iterator[None]:
    yield
    logs.configure("WARNING")


async def reloaded(context: AppContext, path: Path, text: str) -> Reloaded:
    await asyncio.to_thread(path.write_text, text, encoding="utf-8")
    return await reload(context, path)


async def test_what_can_be_applied_is_in_use_at_once(config: Path) -> None:
    vision = ScriptedVision()
    async with scripted_context(vision=vision) as context:
        manager = context.gpu_memory_manager
        done = await reloaded(
            context,
            config,
            "gpu_memory: {headroom_gb: 1.5, probe_timeout_seconds: 2, history_samples: 50}\n"
            "discord: {control_permission: everyone}\n"
            "logging: {level: DEBUG}\n",
        )
        assert done.changed == (
            "gpu_memory.headroom_gb: 0.5 → 1.5",
            "gpu_memory.probe_timeout_seconds: 5.0 → 2.0",
            "gpu_memory.history_samples: 2880 → 50",
            "discord.control_permission: manage_guild → everyone",
            "logging.level: INFO → DEBUG",
        )
        assert done.needs_restart == ()
        assert manager.config.headroom_gb == 1.5
        assert manager.history.maxlen == 50
        assert context.settings.discord.control_permission == "everyone"
        assert vision.settings is context.settings
        assert logging.getLogger("bot").level == logging.DEBUG
        assert "headroom_gb: 0.5 → 1.5" in manager.events[-1].text


async def test_a_refused_file_changes_nothing(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_context() as context:
        before = context.settings
        text = "gpu_memory: {headroom_gb: 3}\nyolo: {speed: 3}\nlogging: {level: DEBUG}\n"
        with pytest.raises(SettingsError, match=r"mine\.yaml:2: yolo\.speed"):
            await reloaded(context, config, text)
        assert context.settings is before
        assert context.gpu_memory_manager.config.headroom_gb == 0.5
        context.config_path = config
        await reload_or_say_why(context, "SIGHUP")
        assert "the old one stays in use" in caplog.text
        assert "yolo.speed" in caplog.text


async def test_a_promise_that_no_card_can_keep_changes_nothing(config: Path) -> None:
    async with scripted_context() as context:
        before = context.settings
        text = "yolo: {enabled: false}\ngpu_memory:\n  main_llm_memory_reservation_gb: 900\n"
        said = r"mine\.yaml:3: gpu_memory\.main_llm_memory_reservation_gb: 900GB are reserved"
        with pytest.raises(SettingsError, match=said):
            await reloaded(context, config, text)
        assert context.settings is before
        assert context.gpu_memory_manager.config.main_llm_memory_reservation_gb == 8.0


async def test_a_file_that_is_named_and_not_there_changes_nothing(config: Path) -> None:
    async with scripted_context() as context:
        before = context.settings
        text = "clip: {enabled: false}\nyolo:\n  model_path: models/typo.pt\n"
        with pytest.raises(
            SettingsError, match=r"mine\.yaml:3: yolo\.model_path: .*typo\.pt is mis"
        ):
            await reloaded(context, config, text)
        assert context.settings is before


async def test_a_file_that_was_missing_before_holds_up_no_other_change(config: Path) -> None:
    text = "yolo: {model_path: models/typo.pt}\n"
    async with scripted_context() as context:
        context.settings = parse(text)
        done = await reloaded(context, config, text + "gpu_memory: {headroom_gb: 2}\n")
        assert context.settings.gpu_memory.headroom_gb == 2
    assert any("headroom_gb" in words for words in done.changed)


async def test_what_is_read_at_the_start_is_named_until_the_next_start(config: Path) -> None:
    text = "data: {folder: elsewhere}\nobservability: {port: 9000}\nvision: {autostart: false}\n"
    async with scripted_context() as context:
        for _ in range(2):
            done = await reloaded(context, config, text)
            assert "at the next start: vision.autostart" in done.words
            assert done.changed == ()
            assert done.needs_restart == (
                "vision.autostart: true → false",
                "data.folder: data → elsewhere",
                "observability.port: 9477 → 9000",
            )
        assert context.settings.data.folder == "data"


async def test_what_was_chosen_in_chat_stays_above_the_file(config: Path) -> None:
    async with scripted_context() as context:
        manager = context.gpu_memory_manager
        manager.choices.reserve(5.5, "Ada")
        text = "gpu_memory: {main_llm_memory_reservation_gb: 6}\n"
        [words] = (await reloaded(context, config, text)).changed
        assert words.endswith("8.0 → 6.0 (but Ada chose 5.5)")
        assert manager.config.main_llm_memory_reservation_gb == 5.5
        manager.choices.reset("Ada")
        assert manager.config.main_llm_memory_reservation_gb == 6.0


async def test_monitoring_follows_the_file_only_when_the_file_changed(config: Path) -> None:
    async with scripted_context() as context:
        manager = context.gpu_memory_manager
        await reloaded(context, config, "gpu_memory: {enable_memory_monitoring: false}\n")
        assert not manager.monitoring_enabled
        manager.start_monitoring()  # somebody in chat
        await reloaded(
            context, config, "gpu_memory: {enable_memory_monitoring: false, headroom_gb: 1}\n"
        )
        assert manager.monitoring_enabled


async def test_an_address_is_never_shown_and_a_share_is_told_once() -> None:
    before = Settings()
    after = parse(
        "capture: {source: stream, url: 'rtsp://user:hidden@camera/1'}\n"
        "performance: {gpu_memory_fraction: 0.5}\n"
    )
    told = list(differences(before, after))
    assert "capture.url" in told
    assert "hidden" not in " ".join(told)


async def test_the_same_figures_mean_something_else_under_another_configuration() -> None:
    cards = Card("RTX 4070", programs={"ollama": 1.0}), Card("RTX 4070 Super")
    async with Rig(*cards, main_llm_memory_reservation_gb=2, min_residency_seconds=0) as rig:
        manager = rig.manager
        cards[1].programs["game"] = 11.5
        await rig.step()
        lease = await manager.acquire("yolo", Footprint.of_gb(1.0), holder="worker")
        assert lease.device == "cuda:0"
        manager.holder_memory("worker", 77, {})
        lease.measured(Footprint.of_gb(1.0))
        cards[0].ours[77] = 1 << 30
        await rig.step(1.0, times=40)
        assert not lease.revoked.is_set()
        # 12 - 1 (LLM) - 1 (ours) are free: less than the 11.5 - 1 that are now promised.
        manager.reconfigure(
            manager.config.model_copy(update={"main_llm_memory_reservation_gb": 11.5})
        )
        await rig.step(1.0, times=3)
        assert lease.revoked.is_set()


async def test_chat_notices_another_prefix_and_other_permissions(config: Path) -> None:
    async with world(ScriptedProbe(*guide_rig())) as w:
        await w.guest.send(w.channel, "!gpu monitor")
        assert "🔒" in (last(w).content or "")
        await reloaded(
            w.bot.app_context,
            config,
            "discord: {prefix: '?', control_permission: everyone}\n",
        )
        await w.guest.send(w.channel, "?gpu monitor")
        assert not w.bot.app_context.gpu_memory_manager.monitoring_enabled


def test_a_promise_that_no_card_can_keep_is_known_with_a_reading() -> None:
    snapshot = ScriptedProbe(*guide_rig()).read(0.0, processes=True)
    settings = parse("gpu_memory: {main_llm_memory_reservation_gb: 24, vision_device: 'cuda:5'}\n")
    found = {m.key: m for m in misfits(settings.gpu_memory, snapshot)}
    assert found["gpu_memory.main_llm_memory_reservation_gb"].fatal
    assert "there are: cuda:0, cuda:1" in str(found["gpu_memory.vision_device"])
    assert list(misfits(settings.gpu_memory, None)) == []
    assert list(misfits(Settings().gpu_memory, snapshot)) == []
