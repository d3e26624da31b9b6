"""Two bots on one data folder: with real processes, ended and killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bot.cli.exits import Exit
from bot.lock import NAME, AlreadyRunning, locked
from tests.bot.running import ROOT, danzar, started
from tests.standin import GUIDE, StandinNvml

OWNER = """
import sys
from pathlib import Path
from bot.lock import locked
with locked(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


@contextmanager
def owner(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_living_owner_is_named_and_a_killed_one_succeeded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with owner(tmp_path) as first:
        with pytest.raises(AlreadyRunning) as refused, locked(tmp_path):
            pass
        assert f"process {first.pid}, since 20" in str(refused.value)
        assert "data.folder of its own" in str(refused.value)
        first.kill()
        first.wait()
        with locked(tmp_path):
            assert f"(process {first.pid}, since" in caplog.text
            assert "was killed; this one takes its place" in caplog.text
            assert str(os.getpid()) in (tmp_path / NAME).read_text()
    caplog.clear()
    with locked(tmp_path):
        pass
    assert caplog.text == "", "the last one ended in an orderly way"


@pytest.mark.parametrize("rest", [b"\xff\xfe nonsense", b"[1]", b'{"pid": "x"}', b"{" * 5000])
def test_whatever_is_in_the_file_locks_nobody_out(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / NAME).write_bytes(rest)
    with locked(tmp_path), pytest.raises(AlreadyRunning), locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_locks_nobody_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with locked(tmp_path / "file" / "data"):
        assert "a second bot on this folder would not be noticed" in caplog.text


def test_a_second_bot_has_words_and_an_exit_status_of_its_own(
    standin_nvml: StandinNvml, tmp_path: Path
) -> None:
    standin_nvml.write(GUIDE)
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"data: {{folder: {tmp_path / 'data'}}}\nvision: {{autostart: false}}\n"
        "observability: {port: 0}\n",
        encoding="utf-8",
    )
    demo = ("demo", "--no-browser", "--config", str(config))
    environment = standin_nvml.environment()
    with started(*demo, env=environment) as first:
        first.wait_for("Type in the page")
        second = danzar(*demo, env=environment)
        assert second.returncode == Exit.LOCKED
        assert f"(process {first.process.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        first.process.kill()
        first.process.wait()
        third = danzar(*demo, "--seconds", "1", env=environment)
        assert third.returncode == Exit.OK, third.stderr
        assert f"(process {first.process.pid}" in third.stderr
        assert "takes its place" in third.stderr


def test_a_folder_that_cannot_be_written_is_told_and_the_bot_goes_on(
    standin_nvml: StandinNvml, tmp_path: Path
) -> None:
    standin_nvml.write(GUIDE)
    (tmp_path / "file").write_text("no folder")
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"data: {{folder: {tmp_path / 'file' / 'data'}}}\nvision: {{autostart: false}}\n"
        "observability: {port: 0}\n",
        encoding="utf-8",
    )
    demo = ("demo", "--no-browser", "--config", str(config))
    with started(*demo, env=standin_nvml.environment()) as running:
        running.wait_for("history and settings are kept in memory only")
        running.wait_for("a second bot on this folder would not be noticed")
        running.wait_for("Type in the page")
        running.type("!gpu status")
        running.wait_for("The data folder can't be written")
        url = running.wait_for(r"health and metrics: (http://[^/]+)")[1]
        with urllib.request.urlopen(f"{url}/readyz") as answer:
            checks = {check["name"]: check for check in json.load(answer)["checks"]}
        assert "can't be written" in checks["storage"]["words"]
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            assert b"\ndanzar_storage_ok 0.0\n" in answer.read()
