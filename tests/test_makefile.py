"""What the two commands do around the program: install once, find the system's programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("make") is None,
    reason="needs Linux and make",
)


def executable(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone's files as far as make is concerned; its Python is one that writes down."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    executable(tmp_path / "tools" / "system_packages.sh", "true")
    # `python -m venv --clear .venv` makes an interpreter that logs, and a danzar that says hello.
    executable(
        tmp_path / "python",
        """
        [ "$1" = -c ] && exec "$REAL" "$@"
        mkdir -p .venv/bin
        printf '#!/bin/sh\\necho "$@" >> pip.log\\n' > .venv/bin/python
        printf '#!/bin/sh\\necho "danzar $@"\\n' > .venv/bin/danzar
        chmod +x .venv/bin/*
        """,
    )
    return tmp_path


def make(folder: Path, *words: str, python: str = "./python") -> subprocess.CompletedProcess[str]:
    # These tests may be run by a make themselves: this one must not know.
    inherited = {k: v for k, v in os.environ.items() if k not in ("MAKELEVEL", "MAKEFLAGS")}
    environment = {**inherited, "REAL": sys.executable}
    return subprocess.run(
        ["make", *words, f"PYTHON={python}"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_run_installs_once_and_again_when_the_project_changes(clone: Path) -> None:
    log = clone / "pip.log"
    first = make(clone, "run", "ARGS=doctor --json")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "danzar doctor --json"
    assert log.read_text() == "-m pip install --quiet --editable .[demo]\n"
    assert make(clone, "run").stdout == "danzar \n"
    assert len(log.read_text().splitlines()) == 1
    stamp = clone / ".venv" / ".installed-demo"
    later = stamp.stat().st_mtime + 10
    os.utime(clone / "pyproject.toml", (later, later))
    assert make(clone, "run").returncode == 0
    assert len(log.read_text().splitlines()) == 2


def test_an_installation_that_failed_is_tried_again(clone: Path) -> None:
    assert make(clone, "run").returncode == 0
    (clone / ".venv" / ".installed-demo").unlink()
    executable(clone / ".venv" / "bin" / "python", "echo no room >&2; exit 1")
    failed = make(clone, "run")
    assert failed.returncode != 0 and "no room" in failed.stderr
    assert "danzar" not in failed.stdout.splitlines()
    assert make(clone, "run").returncode != 0


def test_a_python_that_is_too_old_is_named_before_anything_is_made(clone: Path) -> None:
    executable(clone / "old", "exit 1")
    refused = make(clone, "run", python="./old")
    assert refused.returncode != 0
    assert "Danzar needs Python 3.11, 3.12 or 3.13" in refused.stdout
    assert not (clone / ".venv").exists()


def packages(folder: Path, user: int, *, apt: bool = True) -> subprocess.CompletedProcess[str]:
    """The script where no program of the tests is installed, run as ``user``."""
    stubs = folder / "stubs"
    for program in ("uname", "grep"):
        found = shutil.which(program)
        assert found is not None
        stubs.mkdir(exist_ok=True)
        (stubs / program).symlink_to(found)
    executable(stubs / "id", f"echo {user}")
    executable(stubs / "ldconfig", "exit 1")
    if apt:
        executable(stubs / "apt-get", f'echo "$@" >> {folder}/apt.log; [ "$5" != chromium ]')
    return subprocess.run(
        ["/bin/sh", ROOT / "tools" / "system_packages.sh", "test"],
        env={"PATH": str(stubs)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_as_root_on_debian_what_is_missing_is_installed(tmp_path: Path) -> None:
    done = packages(tmp_path, user=0)
    assert done.returncode == 0
    asked = (tmp_path / "apt.log").read_text().splitlines()
    assert asked[0] == "update -qq"
    installed = [line.split()[-1] for line in asked[1:]]
    assert {"libgl1", "xvfb", "ffmpeg", "chromium", "gcc"} <= set(installed)
    assert "could not install chromium" in done.stdout


def test_elsewhere_what_is_missing_is_named(tmp_path: Path) -> None:
    done = packages(tmp_path, user=1000)
    assert done.returncode == 0
    assert not (tmp_path / "apt.log").exists()
    assert "missing: Xvfb (Debian package xvfb)" in done.stdout
    assert "sudo apt-get install libgl1 " in done.stdout
    (other := tmp_path / "other").mkdir()
    assert "this system's package manager" in packages(other, user=0, apt=False).stdout
