"""The program as a whole: its start, its end, and a second one beside it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import Literal

import psutil

from benchmarks.faults import PATIENCE, Group, Seen, Trial, asked, logged
from benchmarks.faults.chat import panel
from benchmarks.faults.data import history, samples
from benchmarks.host import Bench, Line, a_host, well
from bot.cli.exits import Exit


def _second(bench: Bench) -> Seen:
    began = time.monotonic()
    second = bench.another()
    try:
        status = second.wait_ended()
    finally:
        second.kill()
    took = time.monotonic() - began
    assert status == Exit.LOCKED, f"status {status}"
    said = second.logged("Another Danzar").replace(str(bench.data), "data")
    recovered = asked(bench)
    return Seen(f"{said} (status {status})", took, recovered, "nothing: the first one goes on")


def _terminated(bench: Bench) -> Seen:
    """The last trial of a bot: SIGTERM, then another start for whoever comes after."""
    host, fake = bench.host, bench.discord.fake
    standing = len(panel(fake))
    bench.discord.says("!gpu dashboard")
    host.wait(lambda: len(panel(fake)) > standing, PATIENCE)
    family = host.family()
    took = host.end()
    _, alive = psutil.wait_procs(family, 5)
    assert not alive, f"left behind: {alive}"
    goodbye = fake.edits[-1]["embeds"][0]["description"]
    assert "Offline since" in goodbye, goodbye
    recovered = _next(bench)
    said = f"the live panel: {goodbye.partition('<t:')[0]}..."
    return Seen(said, took, recovered, "nothing; no process is left (time to end under noticed)")


def _killed(bench: Bench) -> Seen:
    """The bot itself is killed: what is left, and how the next one finds it."""
    host, path = bench.host, history(bench)
    family, before = host.family(), samples(path)
    began = time.monotonic()
    host.kill()
    _, alive = psutil.wait_procs(family, PATIENCE)
    assert not alive, f"left behind: {alive}"
    noticed = time.monotonic() - began
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    recovered = _next(bench)
    said, _ = logged(bench, ["was killed; this one takes its place"], 0)
    assert samples(path) >= before, "readings are gone"
    return Seen(
        f"{said} (the worker's end under noticed)",
        noticed,
        recovered,
        "at most the 5 s before it; the file is sound",
    )


def _next(bench: Bench) -> float:
    """Another bot in the ended one's place; how long until all is well."""
    began = time.monotonic()
    bench.host = bench.another(every=0.2)
    bench.host.wait_for(well, PATIENCE)
    return time.monotonic() - began


def _refused(
    fault: str, how: str, login: Literal["ok", "401"], close: int | None, status: Exit
) -> Trial:
    """Discord refuses for good: the program says what to do and ends; it isn't tried again."""

    def run(bench: Bench) -> Seen:
        host, fake = bench.host, bench.discord.fake
        host.end()
        fake.login, fake.refuse_identify = login, close
        known, began = len(fake.heard), time.monotonic()
        host = bench.host = bench.another(every=0.2)
        found = host.wait_ended()
        took = time.monotonic() - began
        assert found == status, f"status {found}"
        assert len(fake.heard) - known <= 1, "it tried more than once"
        return _words(bench, status, took)

    return Trial(fault, how, run)


def _revoked(bench: Bench) -> Seen:
    began = time.monotonic()
    bench.discord.do(bench.discord.fake.drop(4004))
    found = bench.host.wait_ended()
    assert found == Exit.TOKEN, f"status {found}"
    return _words(bench, Exit.TOKEN, time.monotonic() - began)


def _words(bench: Bench, status: Exit, took: float) -> Seen:
    """What a refusal says; and the next start, with the cause mended."""
    fake = bench.discord.fake
    said = bench.host.logged("Discord does not")
    fake.login, fake.refuse_identify = "ok", None
    began = time.monotonic()
    bench.host = bench.another(every=0.2)
    bench.host.wait_for(_connected, PATIENCE)
    recovered = time.monotonic() - began
    return Seen(
        f"{said} (status {int(status)}, with what to do)",
        took,
        recovered,
        "the bot, until a person has mended it and starts it",
    )


def _network_late(bench: Bench) -> Seen:
    fake = bench.discord.fake
    bench.host.end()
    fake.login = "500"
    began = time.monotonic()
    bench.host = bench.another(every=0.2)
    said, _ = logged(bench, ["Discord can't be reached"], 0)
    noticed = time.monotonic() - began
    fake.login = "ok"
    recovered = bench.host.wait_for(_connected, PATIENCE)
    return Seen(said, noticed, recovered, "nothing; vision runs meanwhile")


def _connected(line: Line) -> bool:
    return line["online"]


TRIALS = (
    Trial("a second start while the first runs", "on the same data folder", _second),
    Trial("the bot is killed", "SIGKILL; then a new start", _killed),
    Trial("the bot is told to end", "SIGTERM; then a new start", _terminated),
)
START = Group(
    lambda: a_host(every=0.2, vision={"autostart": False}),
    (
        Trial(
            "Discord can't be reached at the start", "503 to the login, later not", _network_late
        ),
        _refused("a bad token", "401 to the login", "401", None, Exit.TOKEN),
        _refused("refused intents", "close code 4014", "ok", 4014, Exit.INTENTS),
        Trial("the token is revoked while it runs", "close code 4004", _revoked),
    ),
    ready=_connected,
)
