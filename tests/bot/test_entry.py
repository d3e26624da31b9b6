"""How any command ends when it is interrupted, or when nobody reads what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from bot.cli.exits import Exit
from tests.bot.running import ROOT

INTERRUPTS = """
import signal
import sys
import sysconfig


class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            signal.raise_signal(signal.SIGINT)


sys.meta_path.insert(0, Interrupter())
"""
MODULE = (sys.executable, "-m", "bot")
SCRIPT = (str(Path(sysconfig.get_path("scripts"), "danzar")),)


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["module", "script"])
@pytest.mark.parametrize("imported", ["bot.cli.command_line", "yaml", "bot.cli.status"])
def test_ctrl_c_while_danzar_is_imported_ends_it_without_a_word(
    tmp_path: Path, program: tuple[str, ...], imported: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTS.format(name=imported))
    done = subprocess.run(
        [*program, "status"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (Exit.INTERRUPTED, "", "")


@pytest.mark.parametrize("arguments", [("status", "--probe", "simulated"), ("--help",)])
def test_a_reader_that_is_gone_is_no_error(arguments: tuple[str, ...]) -> None:
    assert read_by_nobody(*MODULE, *arguments) == (Exit.OK, "")


def test_a_reader_that_is_gone_hides_no_failure() -> None:
    code = (
        "import sys; from bot.__main__ import main; from bot.cli import command_line\n"
        "command_line.run = lambda argv: print('it failed') or 1\n"
        "sys.exit(main())"
    )
    assert read_by_nobody(sys.executable, "-c", code) == (Exit.FAILED, "")


def read_by_nobody(*command: str) -> tuple[int, str]:
    """The exit status and the errors of a program whose output goes into a closed pipe."""
    # What Python holds back until its end is lost there, and it would say so.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody_reads:
        done = subprocess.run(
            command,
            stdout=nobody_reads,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
    return done.returncode, done.stderr
