"""The session with Discord: how it ends, what is said then, and what is never said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import discord
import pytest

from bot.cli.exits import Exit
from bot.client import DanzarBot, run_on_discord
from bot.context import open_context
from bot.observability import logs
from bot.settings import DataSettings, Settings, VisionSettings
from danzar_gpu import GPUMemoryManager
from tests.bot.doubles import scripted_context
from tests.gpu_memory.rig import ScriptedProbe, guide_rig, settle

TOKEN = "MTAw.not-a-real.token-at-all"


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is kept on disk by default is kept there."""
    monkeypatch.chdir(tmp_path)


def refusing(error: Exception) -> Callable[..., object]:
    async def start(self: DanzarBot, token: str, *, reconnect: bool = True) -> None:
        raise error

    return start


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (discord.LoginFailure("Improper token"), Exit.TOKEN, "DISCORD_TOKEN"),
        (discord.PrivilegedIntentsRequired(None), Exit.INTENTS, "Message Content Intent"),
        (ConnectionResetError(104, "reset by peer"), Exit.FAILED, "reset by peer"),
    ],
)
async def test_discords_refusals_have_words_and_exit_statuses(
    error: Exception,
    status: Exit,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(DanzarBot, "start", refusing(error))
    async with scripted_context() as context:
        assert await run_on_discord(context, TOKEN, asyncio.Event()) is status
    assert words in caplog.text
    assert TOKEN not in caplog.text


async def test_a_stop_closes_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = asyncio.Event()
    stop = asyncio.Event()

    async def start(self: DanzarBot, token: str, *, reconnect: bool = True) -> None:
        stop.set()
        await closed.wait()

    async def close(self: DanzarBot) -> None:
        closed.set()

    monkeypatch.setattr(DanzarBot, "start", start)
    monkeypatch.setattr(DanzarBot, "close", close)
    async with scripted_context() as context:
        assert await run_on_discord(context, TOKEN, stop) is Exit.OK
    assert closed.is_set()


def test_the_token_is_taken_out_of_log_lines() -> None:
    stream = StringIO()
    logs.configure("DEBUG", token=TOKEN, stream=stream)
    try:
        logging.getLogger("discord.http").error("refused %s", TOKEN)
        try:
            raise ValueError(f"header {TOKEN}")
        except ValueError:
            logging.getLogger("bot").exception("failed")
    finally:
        logs.configure("WARNING")
    assert TOKEN not in stream.getvalue()
    assert stream.getvalue().count("<token>") == 2


async def test_resources_close_in_reverse_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Recording:
        def __init__(self, settings: Settings, manager: object) -> None:
            order.append("vision made")

        async def start(self) -> None:
            order.append("vision started")

        async def stop(self) -> None:
            order.append("vision stopped")

    class Probe(ScriptedProbe):
        def close(self) -> None:
            order.append("probe closed")

    monkeypatch.setattr("bot.vision.pipeline.VisionPipeline", Recording)
    managers: list[GPUMemoryManager] = []
    with pytest.raises(RuntimeError, match="in the middle"):
        async with open_context(Settings(), Probe(*guide_rig())) as context:
            managers.append(context.gpu_memory_manager)
            assert context.gpu_memory_manager.monitoring_enabled
            await asyncio.sleep(0)
            raise RuntimeError("in the middle")
    await settle(lambda: "probe closed" in order)
    assert order == ["vision made", "vision started", "vision stopped", "probe closed"]
    assert not managers[0].monitoring_enabled


async def test_vision_that_never_comes_up_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stuck:
        def __init__(self, settings: Settings, manager: object) -> None: ...

        async def start(self) -> None:
            await asyncio.Event().wait()

        async def stop(self) -> None: ...

    monkeypatch.setattr("bot.vision.pipeline.VisionPipeline", Stuck)
    async with asyncio.timeout(10), open_context(Settings(), ScriptedProbe(*guide_rig())):
        pass


async def test_vision_waits_for_its_command_where_it_does_not_start_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[str] = []

    class Recording:
        def __init__(self, settings: Settings, manager: object) -> None: ...

        async def start(self) -> None:
            starts.append("started")

        async def stop(self) -> None: ...

    monkeypatch.setattr("bot.vision.pipeline.VisionPipeline", Recording)
    settings = Settings(vision=VisionSettings(autostart=False))
    async with open_context(settings, ScriptedProbe(*guide_rig())):
        await asyncio.sleep(0)
    assert starts == []


async def test_what_was_chosen_and_where_panels_are_outlives_the_process(tmp_path: Path) -> None:
    settings = Settings(
        vision=VisionSettings(autostart=False), data=DataSettings(folder=str(tmp_path / "kept"))
    )
    async with open_context(settings, ScriptedProbe(*guide_rig())) as first:
        first.gpu_memory_manager.choices.reserve(5.5, "Ada")
        await first.chats.put("panels", "1", {"message": 2})
    async with open_context(settings, ScriptedProbe(*guide_rig())) as second:
        manager = second.gpu_memory_manager
        assert manager.config.main_llm_memory_reservation_gb == 5.5
        assert [(c.value, c.who) for c in manager.choices.made] == [("5.5", "Ada")]
        assert second.chats.section("panels") == {"1": {"message": 2}}


async def test_a_simulated_rig_and_the_chat_page_leave_nothing_behind(tmp_path: Path) -> None:
    probe = ScriptedProbe(*guide_rig())
    probe.source = "simulated"
    settings = Settings(vision=VisionSettings(autostart=False))
    async with open_context(settings, probe, demo=True) as context:
        context.gpu_memory_manager.choices.reserve(5.5, "Ada")
        await context.chats.put("panels", "1", {"message": 2})
    left = await asyncio.to_thread(lambda: list(tmp_path.iterdir()))
    assert left == []
