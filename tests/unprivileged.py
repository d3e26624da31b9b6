"""Runs code as a user without privileges, also where the tests run as root: root may write
anywhere, so that a folder's mode says nothing to it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DROP = """
import os
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


@contextlib.contextmanager
def folder_for_anybody() -> Iterator[Path]:
    """A folder that another user can reach: those of pytest are for their owner alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


def run_unprivileged(imports: str, code: str, *arguments: object) -> str:
    """What Python code prints; it must end well.

    ``imports`` come before the privileges go: the interpreter may be in root's own folder.
    """
    ended = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{DROP}\n{code}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
