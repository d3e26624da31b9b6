"""What a process is called, for people: its program, or what an interpreter runs."""

from __future__ import annotations

import ntpath
import posixpath
import re

import psutil

_PYTHON = re.compile(r"pythonw?[\d.]*(\.exe)?", re.I)
_NAMELESS = frozenset(
    f"{stem}.py" for stem in ("app", "launch", "main", "run", "server", "start", "webui")
)
"""Scripts that many programs have: the folder says which program it is."""
_INNER = frozenset({"bin", "scripts", "src"})
"""Folders that many programs have."""


def program_name(pid: int, path: str) -> str:
    """The program's name; for an interpreter the module or script that it runs.

    ``path`` is what the driver says, empty where it knows nothing. Empty where nobody may know.
    """
    name = _last(path.split(" ")[0] if path.startswith("/") else path)
    if name and not _PYTHON.fullmatch(name):
        return name
    try:
        process = psutil.Process(pid)
        if name or _PYTHON.fullmatch(process.name()):
            command = process.cmdline()
            return python_program(command, _folder(process)) or name or process.name()
        return process.name()
    except (psutil.Error, OSError):
        return name


def python_program(command: list[str], folder: str = "") -> str:
    """``vllm`` of ``python -m vllm.entrypoints...``; ``train.py`` of ``python train.py``.

    ``folder`` is where it runs: ``ComfyUI (main.py)`` of ``python main.py`` there.
    """
    arguments = iter(command[1:])
    for argument in arguments:
        if argument == "-m":
            return next(arguments, "").split(".")[0]
        if argument in {"-c", "-"}:
            return ""
        if argument in {"-X", "-W"}:
            next(arguments, None)
        elif not argument.startswith("-"):
            script = _last(argument)
            place = _program_folder(argument, folder) if script in _NAMELESS else ""
            return f"{place} ({script})" if place else script
    return ""


def _program_folder(script: str, folder: str) -> str:
    """The name of the folder that a program's files are in; empty where it is not known."""
    path = ntpath if "\\" in script + folder else posixpath
    place = path.dirname(path.normpath(path.join(folder, script)))
    if path.basename(place) in _INNER:
        place = path.dirname(place)
    name = path.basename(place)
    return "" if name == ".." else name


def _folder(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except (psutil.Error, OSError):  # another user's, or it is gone
        return ""


def _last(path: str) -> str:
    return re.split(r"[\\/]", path)[-1]
