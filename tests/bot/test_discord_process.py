"""The whole program as a process on Discord: what it holds, how it ends, what it leaves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from bot.cli.exits import Exit
from tests.bot.fake_discord import FakeDiscord, until
from tests.bot.running import ROOT, Running, interruptible

TOKEN = "MTAw.planted.in-the-environment"

PROGRAM = """
import sys
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route
url = sys.argv.pop(1)
Route.BASE = url + "/api"
DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(url.replace("http", "ws") + "/gateway")
from bot.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def start(fake: FakeDiscord, folder: Path) -> Running:
    """``danzar run`` on the fake Discord, with vision, which keeps its files in ``folder``."""
    config = folder / "mine.yaml"
    config.write_text(
        f"data: {{folder: {folder / 'data'}}}\ncapture: {{source: scene}}\n"
        "observability: {port: 0}\nlogging: {format: json}\n",
        encoding="utf-8",
    )
    command = ["--probe", "simulated", "run", "--config", str(config)]
    process = subprocess.Popen(
        interruptible(folder / "interrupt", fake.url, *command, program=PROGRAM),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env={**os.environ, "DISCORD_TOKEN": TOKEN},
        cwd=ROOT,
    )
    return Running(process, folder / "interrupt")


def ready(url: str) -> dict[str, bool]:
    try:
        answer = urllib.request.urlopen(f"{url}/readyz")
    except urllib.error.HTTPError as error:  # vision may still be on its way
        answer = error
    with answer:
        return {check["name"]: check["ok"] for check in json.load(answer)["checks"]}


async def test_it_says_goodbye_keeps_the_token_to_itself_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    fake = FakeDiscord()
    async with fake.serving():
        running = await asyncio.to_thread(start, fake, tmp_path)
        family: list[psutil.Process] = []
        try:
            found = await asyncio.to_thread(running.wait_for, r"metrics: (http://[\d.:]+)/readyz")
            await until(lambda: "identify" in fake.heard, "a login", 60)
            await fake.says("!gpu dashboard")
            await until(lambda: len(fake.messages) == 2, "the panel and the answer", 60)
            # discord.py waits two seconds for more servers.
            for _ in range(200):
                checks = await asyncio.to_thread(ready, found[1])
                if checks["gateway"] and checks["heartbeat"]:
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError("it never was ready")
            family = await asyncio.to_thread(running.wait_for_children)
            assert all("DISCORD_TOKEN" not in child.environ() for child in family)
            running.interrupt(signal.SIGTERM)
            assert await asyncio.to_thread(running.process.wait, 5) == Exit.OK
        finally:
            running.process.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, family, 5)
        assert alive == []
        assert "Offline since" in fake.edits[-1]["embeds"][0]["description"]
        assert "planted" not in running.output
        lock = await asyncio.to_thread((tmp_path / "data" / "danzar.lock").read_text)
        assert lock == "", "ended in an orderly way"
