"""What drivers and cards do; the bot answers all the while."""

from __future__ import annotations

import time
from dataclasses import replace

from benchmarks.faults import PATIENCE, Group, Seen, Trial, asked, words_of
from benchmarks.host import Bench, a_host, well
from tests.standin import GUIDE, RTX_4070, Fault, Scenario

NEW_CARD = replace(
    RTX_4070, uuid="GPU-33333333-4070-4070-4070-000000000002", bus="00000000:03:00.0"
)


def _trial(fault: str, how: str, scenario: Scenario | None) -> Trial:
    def run(bench: Bench) -> Seen:
        host, driver = bench.host, bench.driver
        workers = host.latest["workers"]
        if scenario is None:
            driver.remove()
        else:
            driver.write(scenario)
        noticed = host.wait_for(lambda line: line["error"] or line["faults"], PATIENCE)
        said = words_of(host.latest)
        answer = asked(bench, "!gpu status")
        driver.write(GUIDE)
        recovered = host.wait_for(well, PATIENCE)
        lost = "readings of that card meanwhile" if "Device" in said else "readings meanwhile"
        lost += f"; `!gpu status` took {answer:.1f} s"
        if host.latest["workers"] != workers:
            lost += "; the worker was started again"
        return Seen(said, noticed, recovered, lost)

    return Trial(fault, how, run)


def _late(bench: Bench) -> Seen:
    host = bench.host
    host.wait_for(lambda line: line["faults"], PATIENCE)
    noticed = time.monotonic() - host.began
    said = words_of(host.latest)
    host.wait_for(lambda line: line["models"]["yolo"] == "running", PATIENCE)
    bench.driver.write(GUIDE)
    recovered = host.wait_for(lambda line: line["workers"] == 2 and well(line), PATIENCE)
    return Seen(
        said, noticed, recovered, "nothing; the worker is started again once to see the cards"
    )


def _added(bench: Bench) -> Seen:
    host = bench.host
    workers = host.latest["workers"]
    since = len(host.log)
    bench.driver.write(Scenario((*GUIDE.cards, NEW_CARD)))
    noticed = host.wait_for(lambda line: 2 in line["cards"], PATIENCE)
    said = host.logged("is new here", since) or host.logged("a card came", since)
    recovered = noticed + host.wait_for(
        lambda line: line["workers"] > workers and line["models"]["yolo"] == "running", PATIENCE
    )
    return Seen(said, noticed, recovered, "the frames while the worker starts again to see it")


LATE = Group(
    lambda: a_host(driver_is=None, every=0.2),
    (Trial("no driver when the bot starts", "every call answers 9, later not", _late),),
    ready=lambda line: bool(line),
)

TRIALS = (
    _trial("driver unloaded", "every NVML call answers 9", None),
    _trial(
        "driver and library of different versions",
        "answers 18",
        GUIDE.with_faults(Fault("*", 18)),
    ),
    _trial("no permission", "answers 4", GUIDE.with_faults(Fault("*", 4))),
    _trial("device withdrawn from a container", "answers 999", GUIDE.with_faults(Fault("*", 999))),
    _trial("one GPU lost", "calls for it answer 15", GUIDE.with_faults(Fault("*", 15, device=1))),
    _trial("a card taken out", "it is not listed any more", Scenario(GUIDE.cards[1:])),
    _trial(
        "a reading hangs",
        "the memory call sleeps 8 s (limit 2 s)",
        GUIDE.with_faults(Fault("nvmlDeviceGetMemoryInfo_v2", seconds=8)),
    ),
)
ADDED = Trial("a card is added", "one more is listed", _added)
