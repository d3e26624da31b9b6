"""Bars, processes, models, fit and history, typed and as slash commands."""

from __future__ import annotations

import struct
from typing import Any

import discord
import discord.ext.test as dpytest
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.client import DanzarBot
from bot.history_chart import ChartError
from cogs.bars import CELLS, FREE, LLM, OTHER, OURS, PROMISED, bar, figures
from cogs.gpu_parts.control import Control
from cogs.gpu_parts.holders import chunked, fit_embed
from cogs.host import host_of
from danzar_gpu import Footprint
from danzar_gpu.holders import Shares
from tests.bot.world import World, in_world, last, world
from tests.gpu_memory.rig import Card, ScriptedProbe, gb

SIZES = st.integers(0, 96 * 2**30)


def shares(llm: int, promised: int, ours: int, other: int, free: int) -> Shares:
    return Shares(llm + promised + ours + other + free, llm, promised, ours, other, free, True)


@given(SIZES, SIZES, SIZES, SIZES, SIZES)
def test_a_bar_has_its_length_and_shows_what_is_notable(
    llm: int, promised: int, ours: int, other: int, free: int
) -> None:
    card = shares(llm, promised, ours, other, free)
    drawn = bar(card)
    assert len(drawn) == CELLS
    sizes = {LLM: llm, PROMISED: promised, OURS: ours, OTHER: other, FREE: free}
    assert drawn == "".join(square * drawn.count(square) for square in sizes)
    for square, size in sizes.items():
        if card.total and size >= 0.01 * card.total:
            assert square in drawn
        elif card.total:
            assert drawn.count(square) <= 1
        if card.total:
            assert abs(drawn.count(square) - size * CELLS / card.total) < 4


def test_figures_name_only_what_is_there() -> None:
    card = shares(gb(6.2), gb(1.8), 0, gb(0.9), gb(3.1))
    assert figures(card) == "🟦 LLM 6.2 · 🟪 promised 1.8 · 🟧 other 0.9 · ⬛ free 3.1 GB"
    assert bar(card) == "🟦🟦🟦🟦🟦🟦🟪🟪🟧⬛⬛⬛"


async def typed(text: str) -> discord.Message:
    await dpytest.message(text)
    return dpytest.get_message()


async def test_status_carries_a_bar_for_each_card(text_bot: DanzarBot) -> None:
    embed = (await typed("!gpu status")).embeds[0]
    assert str(embed.description).splitlines()[:2] == [
        "`0` 🟦🟦🟦🟦🟦🟦🟪🟪🟧⬛⬛⬛ 59%",
        "`1` 🟧🟧⬛⬛⬛⬛⬛⬛⬛⬛⬛⬛ 17%",
    ]


async def test_processes_say_whose_they_are(text_bot: DanzarBot, probe: ScriptedProbe) -> None:
    manager = text_bot.app_context.gpu_memory_manager
    await manager.acquire("yolo", Footprint.of_gb(0.5), holder="vision-worker")
    manager.holder_memory("vision-worker", 77, {})
    probe.cards[1].ours[77] = gb(0.5)
    await manager.refresh(max_age=0)
    embed = (await typed("!gpu processes")).embeds[0]
    assert str(embed.description).splitlines() == [
        "**Device 0 (RTX 4070)**: 7.1 of 12.0GB in use",
        "`  6.20GB` 🟦 ollama (pid 1000): LLM",
        "`  0.90GB` ⬜ the driver itself, and unaccounted",
        "**Device 1 (RTX 4070 Super)**: 2.6 of 12.0GB in use",
        "`  1.80GB` 🟧 obs64.exe (pid 1000): other",
        "`  0.50GB` 🟩 python (pid 77): ours",
        "`  0.30GB` ⬜ the driver itself, and unaccounted",
    ]


async def test_what_the_driver_hides_is_said_to_be_hidden(
    text_bot: DanzarBot, probe: ScriptedProbe
) -> None:
    probe.cards[0].names_known = False
    await text_bot.app_context.gpu_memory_manager.refresh(max_age=0)
    text = str((await typed("!gpu ps")).embeds[0].description)
    assert "❔ unnamed (pid 1000): not visible: another user or container" in text
    assert "🟦" not in text


async def test_a_smuggled_mention_stays_text(text_bot: DanzarBot, probe: ScriptedProbe) -> None:
    probe.cards[1].programs = {"**@everyone** `x`": 2.0}
    await text_bot.app_context.gpu_memory_manager.refresh(max_age=0)
    text = str((await typed("!gpu processes")).embeds[0].description)
    assert "@everyone" not in text
    assert r"\*\*" in text


async def test_two_hundred_processes_are_pages() -> None:
    cards = [
        Card(f"Card {i}", total=48, programs={f"p{n}" + "x" * 80: 0.2 for n in range(200)})
        for i in range(2)
    ]
    async with world(ScriptedProbe(*cards)) as w:
        await w.guest.send(w.channel, "!gpu processes")
        seen = 0
        pages = 0
        while True:
            message = last(w)
            text = str(message.embeds[0].description)
            assert len(text) <= 4096
            assert text.startswith("**Device")
            seen += text.count("(pid ")
            pages += 1
            row = message.components[0]
            assert isinstance(row, discord.ActionRow)
            forward = row.children[1]
            assert isinstance(forward, discord.Button)
            if forward.disabled:
                break
            await w.guest.click(message, label="Next")
        assert f"page {pages} of {pages}" in str(message.embeds[0].footer.text)
        assert seen == 400
        result = await w.owner.click(last(w), label="Previous")
        assert result.response is not None
        assert "belong to whoever asked" in result.response.content


@given(st.lists(st.integers(0, 30), max_size=20))
def test_pages_lose_no_line_and_begin_with_their_card(counts: list[int]) -> None:
    lines = []
    for i, count in enumerate(counts):
        lines += [f"**{i}**", *(f"{i}-{n}" for n in range(count))]
    pages = chunked(lines, 6)
    assert [line for page in pages for line in page if "(continued)" not in line] == lines
    for page in pages:
        assert page[0].startswith("**")
        assert len(page) <= 6
        card = page[0].removeprefix("**").partition("**")[0]
        if len(page) > 1 and not page[1].startswith("**"):
            assert page[1].startswith(f"{card}-")


async def test_models_show_ours_and_the_llm(text_bot: DanzarBot) -> None:
    manager = text_bot.app_context.gpu_memory_manager
    lease = await manager.acquire("yolo", Footprint.of_gb(0.75), priority=10)
    embed = (await typed("!gpu models")).embeds[0]
    found = {str(f.name): str(f.value) for f in embed.fields}
    yolo = found["🟩 yolo (yolo-nano.pt)"]
    assert "on **cuda:1**: Device 1 (RTX 4070 Super) available with 9.9GB free" in yolo
    assert f"lease {lease.lease_id}, priority 10, counted with 0.75GB" in yolo
    assert "1.00GB predicted, 0.75GB measured" in yolo
    assert "up to 1.2GB more would fit next to it" in yolo
    llm = found["🟦 Main LLM"]
    assert "on **cuda:0**: holds 6.20GB, 8.0GB are reserved, 1.80GB of it still promised" in llm
    assert str(embed.footer.text) == "as configured; nothing was chosen in chat"


async def test_fit_says_where_and_who_would_have_to_move(
    text_bot: DanzarBot, probe: ScriptedProbe
) -> None:
    embed = (await typed("!gpu fit 1536 MB")).embeds[0]
    assert embed.description == "✅ A model (1.50GB) fits on **cuda:1** now."
    assert "may take 30% more, and that counts" in str(embed.footer.text)
    manager = text_bot.app_context.gpu_memory_manager
    await manager.acquire("yolo", Footprint.of_gb(1.5), holder="vision-worker")
    manager.holder_memory("vision-worker", 77, {})
    probe.cards[1].ours[77] = gb(1.5)
    probe.cards[0].programs["game.exe"] = 3.0
    await manager.refresh(max_age=0)
    embed = (await typed("!gpu fit yolo")).embeds[0]
    assert embed.description == "🟠 Another yolo (1.50GB) fits only if models of ours move."
    card = str(embed.fields[0].value)
    assert "would exceed vision's limit of 2.0GB" in card
    assert "it would fit after **yolo** moved away" in card
    embed = (await typed("!gpu fit 30")).embeds[0]
    assert "fits on no card. It would run on the CPU." in str(embed.description)


async def test_a_context_is_shared_and_told_apart_from_the_models(
    text_bot: DanzarBot, probe: ScriptedProbe
) -> None:
    manager = text_bot.app_context.gpu_memory_manager
    need = Footprint(weights_bytes=gb(0.25), context_bytes=gb(0.5))
    leases = [
        await manager.acquire(name, need, holder="vision-worker") for name in ("yolo", "clip")
    ]
    manager.holder_memory("vision-worker", 77, {1: (gb(0.5), gb(0.5))})
    probe.cards[1].ours[77] = gb(0.8)  # its context takes less than was thought
    await manager.refresh(max_age=0)
    models = text_of_fields(await typed("!gpu models"))
    assert models.count("counted with 0.25GB, beside 0.50GB of CUDA context") == 2
    fit = await typed("!gpu fit clip")
    assert fit.embeds[0].description == "✅ Another clip (0.25GB) fits on **cuda:1** now."
    assert "✅ fits; 8.7GB would be left" in text_of_fields(fit)
    assert "✅ fits, with 0.50GB of CUDA context on top; 2.3GB would be left" in text_of_fields(fit)
    figures = Control(host_of(text_bot)).figures
    there = "Device 1 (RTX 4070 Super): 9.10GB free, 0.80GB held by vision (0.30GB of it CUDA con"
    assert [line[: len(there)] for line in figures()][1] == there
    # The process stays, and so does its context.
    for lease in leases:
        manager.release(lease)
    manager.holder_memory("vision-worker", 77, {})
    probe.cards[1].ours[77] = gb(0.5)
    await manager.refresh(max_age=0)
    there = "Device 1 (RTX 4070 Super): 9.40GB free, 0.50GB held by vision (0.50GB of it CUDA con"
    assert [line[: len(there)] for line in figures()][1] == there


def text_of_fields(message: discord.Message) -> str:
    return "\n".join(f"{f.name}\n{f.value}" for f in message.embeds[0].fields)


async def test_fit_counts_with_what_was_measured(text_bot: DanzarBot) -> None:
    manager = text_bot.app_context.gpu_memory_manager
    worker = "vision-worker"
    need = Footprint(weights_bytes=gb(0.25), context_bytes=gb(0.5))
    lease = await manager.acquire("yolo", need, model="yolo fp16", holder=worker)
    lease.measured(Footprint(weights_bytes=gb(1.0), context_bytes=gb(0.5)))
    lease.release()
    # Predicted anew, as for a model that is not loaded at present.
    answer = manager.fit(need, "yolo", "another-process")
    assert answer is not None
    embed = fit_embed(host_of(text_bot), "yolo", need, answer)
    assert embed.description == "✅ yolo (1.00GB) fits on **cuda:1** now."
    assert "with 0.50GB of CUDA context on top; 8.4GB would be left" in str(embed.fields[0].value)


@in_world
async def test_the_same_as_slash_commands(w: World) -> None:
    for name, options, words in (
        ("processes", {}, "ollama"),
        ("models", {}, "Main LLM"),
        ("fit", {"what": "1"}, "fits on"),
        ("alerts status", {}, "Wrong now"),
    ):
        await w.guest.slash(w.channel, f"gpu {name}", **options)
        assert words in str(last(w).embeds[0].to_dict()), name
    available = set(w.guest.available_commands(w.channel))
    assert {
        "gpu dashboard start",
        "gpu dashboard stop",
        "gpu history",
        "gpu offload",
        "gpu restore",
        "gpu trim",
        "gpu reserve",
        "gpu prefer",
        "gpu reset",
        "gpu alerts here",
        "gpu alerts off",
        "gpu alerts level",
        "gpu alerts mute",
    } <= available


async def test_history_is_a_real_picture(text_bot: DanzarBot, probe: ScriptedProbe) -> None:
    """Drawn by the child process, in full; the others have it drawn by a stand-in."""
    manager = text_bot.app_context.gpu_memory_manager
    probe.cards[1].programs["game.exe"] = 5.0
    await manager.refresh(max_age=0)
    message = await typed("!gpu history 15m")
    assert message.embeds == [] or message.attachments == []  # dpytest shows one of them
    picture = message if message.attachments else dpytest.get_message()
    data = await picture.attachments[0].read()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width == 1000
    assert height < width


@in_world
async def test_history_draws_what_was_read_once_for_all(
    w: World, probe: ScriptedProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    async def drawn(cards: Any, marks: Any, title: str, *, simulated: bool) -> bytes:
        asked.append((cards, marks, title, simulated))
        return b"\x89PNG"

    monkeypatch.setattr("cogs.gpu_parts.pictures.history_png", drawn)
    await w.guest.send(w.channel, "!gpu history")
    assert "Nothing was read in the last hour yet" in last(w).content
    manager = w.bot.app_context.gpu_memory_manager
    lease = await manager.acquire("yolo", Footprint.of_gb(0.5))
    manager.offload("yolo", "a test")
    lease.moved()
    await manager.refresh(max_age=0)
    await w.guest.slash(w.channel, "gpu history", span="24h", card="cuda:0")
    await w.owner.send(w.channel, "!gpu history 24h cuda:0")
    assert len(asked) == 1
    (card,), marks, title, simulated = asked[0]
    assert (card.title, card.total_gb, card.warn_percent) == ("Device 0 (RTX 4070)", 12.0, 90.0)
    assert card.reserved_for_llm_gb == 8.0
    assert round(card.llm[-1], 2) == 6.2
    assert round(card.other[-1], 2) == 0.9
    assert [m.text for m in marks] == ["yolo → cpu"]
    assert title == "GPU memory, the last day"
    assert not simulated
    assert last(w).attachments[0].filename == "history.png"
    await w.env.advance_time(11)
    await w.guest.send(w.channel, "!gpu history cuda:1")
    assert asked[1][0][0].title == "Device 1 (RTX 4070 Super)"
    assert asked[1][0][0].reserved_for_llm_gb is None


@in_world
async def test_a_picture_that_fails_is_told_in_words(
    w: World, probe: ScriptedProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> bytes:
        raise ChartError("no **matplotlib** here")

    monkeypatch.setattr("cogs.gpu_parts.pictures.history_png", broken)
    await w.bot.app_context.gpu_memory_manager.refresh(max_age=0)
    await w.guest.send(w.channel, "!gpu history")
    assert r"could not be drawn: no \*\*matplotlib\*\* here" in last(w).content
    await w.owner.send(w.channel, "!gpu dashboard")
    panel = next(m for m in w.channel.history() if m.embeds and "live" in str(m.embeds[0].title))
    result = await w.guest.click(panel, label="History")
    assert result.response is not None
    assert "could not be drawn" in result.response.content
