"""The vision worker dies, hangs, grows, or what it computes with breaks."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from benchmarks.faults import PATIENCE, Seen, Trial, asked, logged, words_of
from benchmarks.host import Bench, Line, well

LIMIT_GB = 2.0
"""``vision.worker_memory_limit_gb`` of the bot under test."""


def _signalled(fault: str, how: str, number: int) -> Trial:
    def run(bench: Bench) -> Seen:
        first = bench.host.latest["worker"]
        os.kill(first, number)
        return _replaced(bench, first)

    return Trial(fault, how, run)


def _broken_inside(fault: str, how: str, kind: str) -> Trial:
    def run(bench: Bench) -> Seen:
        first = bench.host.latest["worker"]
        bench.host.worker_fault.write_text(kind, encoding="utf-8")
        return _replaced(bench, first)

    return Trial(fault, how, run)


def _replaced(bench: Bench, first: int) -> Seen:
    """From the fault on: it is told, `!gpu` answers, another worker sees frames."""
    host = bench.host
    began = time.monotonic()
    host.wait_for(lambda line: line["state"] == "starting", PATIENCE)
    noticed = time.monotonic() - began
    said, seen = words_of(host.latest), host.latest["analysed"]
    bench.discord.says("!gpu vision")

    def back(line: Line) -> bool:
        return well(line) and line["worker"] not in (None, first) and line["analysed"] > seen

    host.wait_for(back, PATIENCE)
    recovered = time.monotonic() - began
    return Seen(said, noticed, recovered, "the frames meanwhile; `!gpu` answers all the while")


def _again_and_again(bench: Bench) -> Seen:
    host = bench.host
    began = time.monotonic()
    while host.latest["state"] != "failed":
        worker = host.latest["worker"]
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError(f"it never gave up: {host.latest}")
        if worker:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        time.sleep(0.3)
    noticed = time.monotonic() - began
    said = words_of(host.latest)
    asked(bench)
    bench.discord.says("!vision start")
    recovered = host.wait_for(well, PATIENCE)
    return Seen(said, noticed, recovered, "vision until somebody writes `!vision start`")


def _one_frame(fault: str, how: str, kind: str) -> Trial:
    """Something that costs a frame, and nothing else."""

    def run(bench: Bench) -> Seen:
        host = bench.host
        worker, since = host.latest["worker"], len(host.log)
        host.worker_fault.write_text(kind, encoding="utf-8")
        said, noticed = logged(bench, ["failed on a frame", "could not be dealt with"], since)
        seen = host.latest["analysed"]
        recovered = host.wait_for(lambda line: line["analysed"] > seen + 1 and well(line), PATIENCE)
        assert host.latest["worker"] == worker, "the worker was replaced"
        return Seen(said, noticed, recovered, "that frame's boxes")

    return Trial(fault, how, run)


def _model_for_ever(bench: Bench) -> Seen:
    host = bench.host
    host.worker_fault.write_text("model for ever", encoding="utf-8")
    began = time.monotonic()
    host.wait_for(lambda line: line["models"]["yolo"] == "waiting", PATIENCE)
    noticed = time.monotonic() - began
    host.wait_for(lambda line: line["models"]["yolo"] == "failed", PATIENCE)
    said = f"{host.latest['reason']} (after {time.monotonic() - began:.0f} s)"
    asked(bench)
    bench.discord.says("!vision stop")
    host.wait_for(lambda line: line["state"] == "off", PATIENCE)
    bench.discord.says("!vision start")
    recovered = host.wait_for(well, PATIENCE)
    return Seen(
        said,
        noticed,
        recovered,
        "that model, until somebody writes both; the other one goes on",
    )


TRIALS = (
    _one_frame("a corrupt frame", "a frame of 0 x 0 pixels reaches the models", "frame"),
    _one_frame("an exception in a model", "YOLO raises RuntimeError once", "model"),
    _signalled("the worker is killed", "SIGKILL", signal.SIGKILL),
    _signalled("the worker hangs", "SIGSTOP (limit 5 s)", signal.SIGSTOP),
    Trial("the worker dies again and again", "SIGKILL as soon as it is up", _again_and_again),
    _signalled("the worker crashes in a library", "SIGSEGV", signal.SIGSEGV),
    _broken_inside(
        "the CUDA context is poisoned",
        "YOLO raises what torch raises after an illegal memory access",
        "context",
    ),
    _broken_inside(
        "the worker grows",
        f"it takes 64 MiB every 50 ms (limit {LIMIT_GB:g} GB)",
        "memory",
    ),
    Trial(
        "an exception in a model at every frame",
        "YOLO raises RuntimeError for ever",
        _model_for_ever,
    ),
)
