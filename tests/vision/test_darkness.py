"""A screen that stays black is told, with what to do about it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bot.vision.frames import Frame
from bot.vision.worker import darkness
from bot.vision.worker.darkness import BLACK_SECONDS, HIDDEN, SENT_BLACK, Darkness
from bot.vision.worker.protocol import SourceOpened, SourceTrouble
from tests.vision.scripted import Bench, ScriptedModel, ScriptedSource


def frame(level: int) -> Frame:
    return Frame(np.full((72, 128, 3), level, np.uint8), 0.0, None, 0)


def test_a_screen_that_stays_black_is_told_until_something_shows() -> None:
    watched = Darkness()
    assert watched.look(frame(0), "screen", 100.0, changed=True) == ""
    assert watched.look(frame(0), "screen", 99.9 + BLACK_SECONDS, changed=False) == ""
    assert watched.look(frame(0), "screen", 100.0 + BLACK_SECONDS, changed=False) == HIDDEN
    assert watched.look(frame(3), "screen", 200.0, changed=True) == HIDDEN, "nearly black, too"
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


def test_a_sender_is_told_to_look_at_what_it_sends() -> None:
    watched = Darkness()
    watched.look(frame(0), "remote", 0.0, changed=True)
    assert watched.look(frame(0), "remote", 100.0, changed=False) == SENT_BLACK


@pytest.mark.parametrize(("live", "told"), [(True, 1), (False, 0)])
def test_the_bot_hears_of_it_once_and_of_its_end(
    monkeypatch: pytest.MonkeyPatch, live: bool, told: int
) -> None:
    monkeypatch.setattr(darkness, "BLACK_SECONDS", 0.05)
    source = ScriptedSource([0] * 20 + [90], live=live)
    with Bench(source, ScriptedModel(), every_frame=not live) as bench:
        bench.wait_for(SourceOpened, 1 + told)
        if not live:
            time.sleep(0.3)  # a film may be black as long as it likes
        troubles = [one.words for one in bench.told if isinstance(one, SourceTrouble)]
    assert troubles == [SENT_BLACK] * told
