"""What chats keep across restarts, and what happens when the disk or the file is bad."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bot.chat_state import ChatState


async def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "new" / "chats.json"
    state = ChatState(path)
    state.load()
    await state.put("panels", "1", {"message": 2})
    await state.put("panels", "3", {"message": 4})
    await state.remove("panels", "1")
    again = ChatState(path)
    again.load()
    assert again.section("panels") == {"3": {"message": 4}}
    assert again.section("alerts") == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"panels": 3}', '{"panels": {"1": 2}}'])
async def test_a_damaged_file_is_set_aside_and_said(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chats.json"
    path.write_text(content, encoding="utf-8")
    state = ChatState(path)
    state.load()
    assert state.section("panels") == {}
    assert "is damaged" in caplog.text
    (aside,) = await asyncio.to_thread(lambda: list(tmp_path.glob("chats.json.damaged-*")))
    assert aside.read_text(encoding="utf-8") == content
    await state.put("panels", "1", {"message": 2})
    assert path.exists()


async def test_a_write_that_breaks_off_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chats.json"
    state = ChatState(path)
    await state.put("panels", "1", {"message": 2})
    before = path.read_text(encoding="utf-8")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    await state.put("panels", "1", {"message": 3})
    await state.put("panels", "1", {"message": 4})
    assert path.read_text(encoding="utf-8") == before
    assert state.section("panels") == {"1": {"message": 4}}
    assert caplog.text.count("No space left") == 1


async def test_without_a_file_it_lives_in_memory() -> None:
    state = ChatState()
    state.load()
    await state.put("panels", "1", {"message": 2})
    assert state.section("panels") == {"1": {"message": 2}}
