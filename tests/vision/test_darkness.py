"""A screen that stays black is told, with what to do about it."""

from __future__ import annotations

import numpy as np
import pytest

from bot.vision.frames import Frame
from bot.vision.worker import darkness
from bot.vision.worker.darkness import BLACK_SECONDS, SENT_BLACK, WAYLAND, WINDOWED, Darkness
from bot.vision.worker.protocol import SourceEnded, SourceOpened, SourceTrouble
from tests.vision.scripted import Bench, ScriptedModel, ScriptedSource


def frame(level: int) -> Frame:
    return Frame(np.full((72, 128, 3), level, np.uint8), 0.0, None, 0)


def test_a_screen_that_stays_black_is_told_until_something_shows() -> None:
    watched = Darkness()
    assert watched.look(frame(0), "screen", 100.0, changed=True) == ""
    assert watched.look(frame(0), "screen", 99.9 + BLACK_SECONDS, changed=False) == ""
    assert watched.look(frame(0), "screen", 100.0 + BLACK_SECONDS, changed=False) == WINDOWED
    assert watched.look(frame(3), "screen", 200.0, changed=True) == WINDOWED, "nearly black, too"
    assert watched.look(frame(90), "screen", 201.0, changed=True) == ""
    assert watched.look(frame(90), "screen", 300.0, changed=False) == ""


def test_a_loading_screen_is_nothing_to_tell() -> None:
    watched = Darkness()
    for at in range(0, 60, 6):
        assert watched.look(frame(0), "screen", at, changed=True) == ""
        assert watched.look(frame(90), "screen", at + 5.0, changed=True) == ""


def test_a_dark_game_with_one_bright_figure_is_not_black() -> None:
    night = frame(0)
    night.image[40:52, 60:72] = 200
    watched = Darkness()
    watched.look(night, "screen", 0.0, changed=True)
    assert watched.look(night, "screen", 100.0, changed=False) == ""


@pytest.mark.parametrize(
    ("source", "wayland", "words"),
    [
        ("screen", False, WINDOWED),
        ("region", False, WINDOWED),
        ("region", True, WAYLAND),
        ("remote", True, WINDOWED),
        ("stream", True, SENT_BLACK),
    ],
)
def test_what_to_do_depends_on_where_the_picture_comes_from(
    monkeypatch: pytest.MonkeyPatch, source: str, wayland: bool, words: str
) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0" if wayland else "")
    watched = Darkness()
    watched.look(frame(0), source, 0.0, changed=True)
    assert watched.look(frame(0), source, 100.0, changed=False) == words


def test_a_screen_that_was_opened_again_and_is_still_black_is_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(darkness, "BLACK_SECONDS", 0.05)
    source = ScriptedSource([0] * 20, live=True, name="stream", fault="the cable came out")
    with Bench(source, ScriptedModel(), every_frame=False, retry=True) as bench:
        troubles = bench.wait_for(SourceTrouble, 3)
    assert [one.words for one in troubles][:3] == [
        SENT_BLACK,
        "the cable came out; mend it",
        SENT_BLACK,
    ]


@pytest.mark.parametrize(("live", "words"), [(True, [SENT_BLACK]), (False, [])])
def test_the_bot_hears_of_it_once_and_of_its_end(
    monkeypatch: pytest.MonkeyPatch, live: bool, words: list[str]
) -> None:
    """A film may be black as long as it likes."""
    monkeypatch.setattr(darkness, "BLACK_SECONDS", 0.05)
    source = ScriptedSource([0] * 20 + [90], live=live, name="stream")
    with Bench(source, ScriptedModel(), every_frame=False, fps=100.0) as bench:
        bench.wait_for(SourceEnded)
        troubles = [one.words for one in bench.told if isinstance(one, SourceTrouble)]
        openings = [one for one in bench.told if isinstance(one, SourceOpened)]
    assert troubles == words
    assert len(openings) == 1 + len(words)
