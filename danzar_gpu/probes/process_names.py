"""What a process is called, for people: its program, or what an interpreter runs."""

from __future__ import annotations

import re

import psutil

_PYTHON = re.compile(r"^python[\d.]*$")


def program_name(pid: int, path: str) -> str:
    """The program's name; for an interpreter the module or script that it runs.

    ``path`` is what the driver says, empty where it knows nothing. Empty where nobody may know.
    """
    name = re.split(r"[\\/]", path.split(" ")[0] if path.startswith("/") else path)[-1]
    if name and not _PYTHON.match(name):
        return name
    try:
        process = psutil.Process(pid)
        if name or _PYTHON.match(process.name()):
            return python_program(process.cmdline()) or name or process.name()
        return process.name()
    except (psutil.Error, OSError):
        return name


def python_program(command: list[str]) -> str:
    """``vllm`` of ``python -m vllm.entrypoints...``; ``server.py`` of ``python server.py``."""
    arguments = iter(command[1:])
    for argument in arguments:
        if argument == "-m":
            return next(arguments, "").split(".")[0]
        if argument in {"-c", "-"}:
            return ""
        if not argument.startswith("-"):
            return re.split(r"[\\/]", argument)[-1]
    return ""
