"""The fuzzing targets with small budgets: seeds, seeds with bytes changed, and plain nonsense."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from random import Random

import discord.ext.test as dpytest
import pytest
from discord.ext import commands
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.client import DanzarBot
from tests.fuzz.seeds import seeds
from tests.fuzz.structure import mutated
from tests.fuzz.targets import TARGETS

QUICK = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """Thousands of refused files are what is asked for."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_seed_is_read_or_refused_in_words(name: str) -> None:
    for seed in seeds(name):
        TARGETS[name](seed)


@pytest.mark.parametrize("name", sorted(TARGETS))
@QUICK
@given(data=st.data())
def test_what_was_changed_on_its_way_is_read_or_refused_in_words(
    name: str, data: st.DataObject
) -> None:
    broken = bytearray(data.draw(st.sampled_from(seeds(name)))[:8192])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(broken)))
        length = data.draw(st.integers(0, 6))
        broken[place : place + length] = data.draw(st.binary(max_size=6))
    TARGETS[name](bytes(broken))


@pytest.mark.parametrize("name", ["chats", "configuration", "messages", "trace"])
@QUICK
@given(seed=st.integers(), number=st.integers(0, 7))
def test_a_document_with_odd_values_is_read_or_refused_in_words(
    name: str, seed: int, number: int
) -> None:
    documents = seeds(name)
    changed = mutated(documents[number % len(documents)], Random(seed))
    if changed is not None:
        TARGETS[name](changed)


@pytest.mark.parametrize("name", sorted(TARGETS))
@QUICK
@given(nonsense=st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode)))
def test_nonsense_is_refused_in_words(name: str, nonsense: bytes) -> None:
    TARGETS[name](nonsense)


WORDS = (
    "gpu", "vision", "status", "history", "fit", "reserve", "offload", "alerts", "processes",
    "devices", "cuda:0", "cuda:99999999999999999999", "7d", "-1", "nan", "inf", "1e309", "auto",
    '"', "'", "\u200b", "@everyone", "<@1>", "```", "\x00", "\ud83d", "\U0001f9ea" * 30, "a" * 300,
    "%s{0}{prefix}", "../../etc/passwd", "ask", "look", "watch", "help", "profile",
)  # fmt: skip
ARGUMENTS = st.lists(
    st.one_of(st.sampled_from(WORDS), st.text(max_size=12)), min_size=1, max_size=5
)


@settings(QUICK, max_examples=60)
@given(arguments=ARGUMENTS)
async def test_whatever_people_type_is_answered_in_words(
    text_bot: DanzarBot, arguments: list[str]
) -> None:
    broken: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: broken.append(record.getMessage())
    logging.disable(logging.NOTSET)
    logging.getLogger().addHandler(handler)
    typed = "!" + " ".join(arguments)
    try:
        # dpytest raises again what the bot has answered; what it could not answer is logged.
        with contextlib.suppress(commands.CommandError):
            await dpytest.message(typed[:1900])
        while not dpytest.sent_queue.empty():
            answer = dpytest.get_message()
            shown = f"{answer.content} {[e.to_dict() for e in answer.embeds]}"
            assert "Traceback" not in shown
            assert "Error:" not in shown
    finally:
        logging.getLogger().removeHandler(handler)
        logging.disable(logging.CRITICAL)
    assert broken == [], typed
