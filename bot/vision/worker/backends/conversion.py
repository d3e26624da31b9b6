"""A model in OpenVINO's format: from the cache, or made now by a process of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Literal

from bot.vision.worker.backends import cache
from bot.vision.worker.backends.cache import Converted
from bot.vision.worker.backends.openvino import Precision
from bot.vision.worker.models import ModelError

log = logging.getLogger(__name__)

LIMIT_SECONDS = 170.0
"""A little less than a model may take to load."""
REFUSED = ".refused"
_ONE_AT_A_TIME = threading.Lock()


class NoConversion(Exception):
    """OpenVINO can't be used for this model here; says why."""


def converted(
    kind: str,
    path: Path,
    sha256: str,
    folder: Path,
    threads: int,
    say: Callable[[str], None] = lambda _: None,
    *,
    make: bool = True,
    precision: Literal["fastest", "f32"] = "fastest",
) -> Converted:
    """The model at ``path`` in OpenVINO's format, checked against the reference when it was made.

    Raises:
        ModelError: the model can't be opened at all.
        NoConversion: it has to be torch; also if it is not there and ``make`` is false.
    """
    try:
        from bot.vision.worker.backends.openvino import library, precisions

        core = library().Core()
        tried = precisions(core) if precision == "fastest" else (precision,)
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        surroundings = " ".join([*sorted(capabilities), *tried])
        place = cache.folder_for(folder, kind, sha256, surroundings)
    except (ImportError, PackageNotFoundError):
        raise NoConversion("openvino is not installed") from None
    except RuntimeError as error:
        raise NoConversion(f"openvino does not start here: {str(error)[:200]}") from None
    if not make:
        known = cache.opened(place)
        if known is None:
            raise NoConversion("it is not converted yet")
        return known
    with _ONE_AT_A_TIME:
        known = cache.opened(place)
        if known is None:
            refused = place.with_suffix(REFUSED)
            if refused.is_file():
                raise NoConversion(refused.read_text("utf-8"))
            say("converting for OpenVINO, once")
            _convert(kind, path, place, threads, tried)
            known = cache.opened(place)
    if known is None:
        raise NoConversion(f"what was converted can't be kept in {folder}")
    return known


def in_the_background(work: Callable[[], Converted]) -> None:
    """Convert without anybody waiting; a failure is told when the model comes to the CPU."""

    def run() -> None:
        with contextlib.suppress(NoConversion, ModelError):
            work()

    threading.Thread(target=run, name="conversion", daemon=True).start()


def _convert(
    kind: str, path: Path, place: Path, threads: int, precisions: Sequence[Precision]
) -> None:
    order = {
        "kind": kind,
        "path": str(path),
        "folder": str(place.absolute()),
        "threads": threads,
        "precisions": precisions,
        "parent": os.getpid(),
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "bot.vision.worker.backends.convert", json.dumps(order)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoConversion(f"the conversion took more than {LIMIT_SECONDS:g} s") from None
    except OSError as error:
        raise NoConversion(f"the conversion can't be started: {error}") from None
    said = done.stdout.strip().splitlines()
    if done.returncode == 0 and said:
        answer = json.loads(said[-1])
        if "what" in answer:
            raise ModelError(answer["what"], answer["remedy"])
        return
    log.info("the conversion of %s ended with %d: %s", kind, done.returncode, done.stderr[-2000:])
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    why = lines[-1].strip()[:200] if lines else f"status {done.returncode}"
    why = f"its conversion failed ({why})"
    # The same model and versions fail again: that is not tried at each start.
    with contextlib.suppress(OSError):
        place.with_suffix(REFUSED).write_text(why, "utf-8")
    raise NoConversion(why)
