"""Log lines: names can't forge them, secrets are not in them, decisions carry their figures."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.observability import logs
from danzar_gpu import Footprint
from tests.bot.running import ROOT, danzar
from tests.gpu_memory.rig import Rig

TOKEN = "MTAw.planted.in-every_place"
FORGED = "game\n2026-11-23 17:00:00,000 ERROR   bot: all is lost\r\nx\u2028y\x1b[2Jz\u202e"


@contextmanager
def written(form: logs.Form = "text", level: str = "INFO") -> Iterator[StringIO]:
    """What is logged meanwhile."""
    stream = StringIO()
    logs.configure(level, form=form, token=TOKEN, stream=stream)
    try:
        yield stream
    finally:
        logs._secrets.clear()
        logs.configure("WARNING")


def test_a_name_cannot_make_a_line_of_its_own() -> None:
    with written() as stream:
        logging.getLogger("bot").info("%s holds 1GB", FORGED)
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("INFO    bot: game")
    assert all(line.startswith("    ") for line in lines[1:])
    assert "x\\u2028y\\x1b[2Jz\\u202e holds 1GB" in lines[-1]


def test_as_json_it_is_one_object_on_one_line() -> None:
    with written("json") as stream:
        try:
            raise ValueError(FORGED)
        except ValueError:
            logging.getLogger("bot").exception("%s failed", FORGED)
    [line] = stream.getvalue().splitlines()
    found = json.loads(line)
    assert (found["level"], found["logger"]) == ("ERROR", "bot")
    assert found["message"] == f"{FORGED} failed"
    assert found["exception"].startswith("Traceback")
    assert found["time"].endswith("Z")


@given(st.text(max_size=200), st.sampled_from(["text", "json"]))
def test_whatever_is_logged_stays_one_record(name: str, form: logs.Form) -> None:
    with written(form) as stream:
        logging.getLogger("bot").info("seen: %s", name)
    text = stream.getvalue()
    assert text.endswith("\n")
    first, *rest = text[:-1].split("\n")
    assert "seen: " in first
    assert all(line.startswith("    ") for line in rest)
    assert form == "text" or not rest
    assert not any(c in text for c in "\r\x0b\x0c\x1b\x1c\x85\u2028\u2029\u202e\x00")


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_token_is_taken_out_wherever_it_was_put(form: logs.Form) -> None:
    with written(form, "DEBUG") as stream:
        log = logging.getLogger("discord.http")
        log.error("refused %s", TOKEN)
        log.error("header", extra={"event": TOKEN, "facts": {"a": TOKEN, TOKEN: [TOKEN]}})
        try:
            raise ValueError(f"header {TOKEN}")
        except ValueError:
            log.exception("failed")
        log.error("here", stack_info=True)
        # A later call, of a reload for example, knows it still.
        logs.configure("INFO", form=form, stream=stream)
        logging.getLogger("bot").info("%r", {"authorization": TOKEN})
    text = stream.getvalue()
    assert "planted" not in text
    assert text.count(logs.HIDDEN) >= 3


DYING = """
import sys, threading
from bot.observability import logs
logs.configure("INFO", token=sys.argv[1])
logs.catch_what_nobody_caught()
def fail():
    raise ValueError("in a thread: " + sys.argv[1])
thread = threading.Thread(target=fail, name="a thread")
thread.start()
thread.join()
raise RuntimeError("at the end: " + sys.argv[1])
"""


def test_the_traceback_of_a_dying_program_does_not_hold_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING, TOKEN],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "the thread a thread failed" in done.stderr
    assert "in a thread: <token>" in done.stderr
    assert "at the end: <token>" in done.stderr
    assert TOKEN not in done.stderr + done.stdout


def test_no_command_prints_it(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "capture: {source: scene}\nvision: {autostart: false}\nobservability: {port: 0}\n"
        "yolo: {enabled: false}\nclip: {enabled: false}\n"
    )
    token = "MTAw.planted.in-the-environment"
    # The doctor is asked in test_cli.py.
    for command in (["config", "show"], ["status"], ["health"]):
        done = danzar(*command, "--config", str(config), env={**os.environ, "DISCORD_TOKEN": token})
        assert "planted" not in done.stdout + done.stderr, command
    secret = tmp_path / "token"
    secret.write_text("planted and broken")
    done = danzar("run", env={**os.environ, "DISCORD_TOKEN_FILE": str(secret)})
    assert done.returncode == 3
    assert "planted" not in done.stdout + done.stderr


async def test_a_decision_is_one_line_with_its_figures() -> None:
    async with Rig() as rig:
        with written("json") as stream:
            lease = await rig.manager.acquire("yolo", Footprint.of_gb(1.0), holder="worker")
            rig.manager.offload("yolo", "somebody wants it")
            lease.moved()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    decided = [line for line in lines if line.get("event") in ("placed", "revoked", "moved")]
    assert [line["event"] for line in decided] == ["placed", "revoked", "moved"]
    placed, revoked, _ = (line["facts"] for line in decided)
    assert placed["device"] == "cuda:1"
    assert placed["need_bytes"] == 1 << 30
    assert round(placed["free_bytes_1"] / (1 << 30), 1) == 9.9
    assert (revoked["from"], revoked["to"], revoked["cause"]) == ("cuda:1", "cpu", "by hand")


def test_a_connection_that_ends_is_one_line_and_no_error() -> None:
    lost = logging.getLogger("discord.client")
    gateway = logging.getLogger("discord.gateway")
    with written() as stream:
        try:
            raise OSError("100 % gone\nand more")
        except OSError:
            # As discord.py words them.
            lost.exception("Attempting a reconnect in %.2fs", 1.25)
        gateway.info("Shard ID %s has successfully RESUMED session %s.", None, "abc")
        gateway.info("Shard ID %s session has been invalidated.", 3)
        lost.exception("Ignoring exception in %s", "on_message")
    lines = [line.split(" ", 2)[2] for line in stream.getvalue().splitlines()]
    assert lines[:4] == [
        "WARNING discord.client: the connection to Discord was lost; the next try is in 1.2 s: "
        "OSError: 100 % gone",
        "INFO    discord.gateway: gateway: has successfully RESUMED session abc.",
        "INFO    discord.gateway: Shard ID 3 session has been invalidated.",
        "ERROR   discord.client: Ignoring exception in on_message",
    ]
