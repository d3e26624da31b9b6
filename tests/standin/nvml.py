"""Scenarios for the stand-in ``libnvidia-ml.so.1`` (``nvml.c``): what the driver shall answer.

On Windows the same library is ``nvml.dll``.

The library reads the scenario afresh at every call, so a test may write another one while the
program under test runs::

    standin_nvml.write(GUIDE)
    subprocess.run([..., "status", "--json"], env=standin_nvml.environment())

The file has one line per device, process and fault: a kind, then ``key=value`` fields, separated
by tabs. Devices are numbered in the order of their lines, which is the PCI order; the parts of a
partitioned card (MIG) follow all cards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

GIB = 1024**3
SOURCE = Path(__file__).with_name("nvml.c")
ON_WINDOWS = sys.platform == "win32"
LIBRARY = Path("System32/nvml.dll" if ON_WINDOWS else "libnvidia-ml.so.1")
"""Where the driver's library lies in a folder that a program searches."""
SCENARIO_VARIABLE = "DANZAR_STANDIN_NVML"
STILL_VARIABLE = "DANZAR_STANDIN_STILL"
"""Set, the library keeps what it read first: its own cost is then next to nothing."""


def gib(size: float) -> int:
    """GiB as bytes."""
    return round(size * GIB)


@dataclass(frozen=True)
class Process:
    """A process that holds memory on a card. The default process ids exist on no Linux."""

    pid: int
    used_bytes: int | None
    """``None``: the driver keeps no account per process, as under WDDM and WSL."""
    name: str | bytes | None = None
    """What the driver says: a path. ``None``: it knows no such process. Bytes need not be UTF-8."""
    kind: Literal["compute", "graphics"] = "compute"
    resident_bytes: int | None = None
    """What Windows' own accounts say that it holds there. ``None``: they don't know it."""

    def as_line(self, device: int) -> bytes:
        return _line(
            "process",
            device=device,
            pid=self.pid,
            graphics=int(self.kind == "graphics"),
            used=self.used_bytes,
            resident=self.resident_bytes,
            name=self.name,
        )


@dataclass(frozen=True)
class Card:
    """One device. Sizes in bytes."""

    name: str | bytes
    uuid: str
    total_bytes: int
    free_bytes: int
    processes: tuple[Process, ...] = ()
    bus: str = "00000000:01:00.0"
    driver_bytes: int = 0
    """The driver's own share, which memory v2 leaves out of ``used``."""
    gpu_percent: int = 0
    memory_percent: int = 0
    temperature_c: int = 40
    power_w: float = 30.0
    capability: tuple[int, int] = (8, 9)
    cores: int | None = None
    """CUDA cores; ``None``: an old driver that can't tell."""
    parts: tuple[Card, ...] = ()
    """MIG instances: the card is partitioned if there are any."""

    def using(self, *processes: Process, other_bytes: int = 0) -> Card:
        """The same card with these processes alone, and as much free as they leave."""
        held = sum(process.used_bytes or 0 for process in processes) + other_bytes
        return replace(self, processes=processes, free_bytes=self.total_bytes - held)

    def as_line(self, parent: int | None = None) -> bytes:
        return _line(
            "device",
            parent=parent,
            mig=1 if self.parts else None,
            name=self.name,
            uuid=self.uuid,
            bus=self.bus,
            total=self.total_bytes,
            free=self.free_bytes,
            reserved=self.driver_bytes,
            gpu=self.gpu_percent,
            memory=self.memory_percent,
            temperature=self.temperature_c,
            power=round(self.power_w * 1000),
            major=self.capability[0],
            minor=self.capability[1],
            cores=self.cores,
        )


@dataclass(frozen=True)
class Fault:
    """What goes wrong: ``call`` (``*`` for every call) fails with ``code`` on ``device``."""

    call: str = "*"
    code: int = 0
    """NVML's: 3 not supported, 4 no permission, 9 driver not loaded, 15 lost, 18 mismatch, 999."""
    device: int | None = None
    """Index of the card; ``None`` for all and for calls that concern no card."""
    seconds: float = 0.0
    """How long the call hangs before it answers."""

    def as_line(self) -> bytes:
        return _line(
            "fault", call=self.call, code=self.code, device=self.device, seconds=self.seconds
        )


@dataclass(frozen=True)
class Scenario:
    """All that the driver knows."""

    cards: tuple[Card, ...]
    faults: tuple[Fault, ...] = ()
    driver_version: str = "580.95.05"
    accounts: Literal["known", "other pids", "no sizes"] = "known"
    """How processes on the stand-in for CUDA are listed: in a container the driver numbers them
    otherwise, under WDDM and WSL it has no sizes of them."""

    def with_faults(self, *faults: Fault) -> Scenario:
        return replace(self, faults=faults)

    def with_card(self, index: int, card: Card) -> Scenario:
        cards = list(self.cards)
        cards[index] = card
        return replace(self, cards=tuple(cards))

    def as_text(self) -> bytes:
        """The file's content."""
        library = _line(
            "library",
            driver=self.driver_version,
            pids=5_000_000 if self.accounts == "other pids" else None,
            sizeless=1 if self.accounts == "no sizes" else None,
        )
        devices = [card.as_line() for card in self.cards]
        parts = [(n, part) for n, card in enumerate(self.cards) for part in card.parts]
        devices += [part.as_line(parent) for parent, part in parts]
        everything = (*self.cards, *(part for _, part in parts))
        processes = (
            process.as_line(index)
            for index, card in enumerate(everything)
            for process in card.processes
        )
        faults = (fault.as_line() for fault in self.faults)
        return b"".join([library, *devices, *processes, *faults])


def _line(kind: str, **fields: str | bytes | float | None) -> bytes:
    parts = [kind.encode()]
    for key, value in fields.items():
        if value is None:
            continue
        raw = value if isinstance(value, bytes) else str(value).encode()
        if b"\t" in raw or b"\n" in raw or b"\0" in raw:
            raise ValueError(f"{key} of a {kind} must fit into one field: {value!r}")
        parts.append(key.encode() + b"=" + raw)
    return b"\t".join(parts) + b"\n"


RTX_4070 = Card(
    name="NVIDIA GeForce RTX 4070",
    uuid="GPU-11111111-4070-4070-4070-000000000000",
    bus="00000000:01:00.0",
    total_bytes=gib(12),
    free_bytes=gib(12),
    temperature_c=61,
    power_w=118.5,
    gpu_percent=37,
    memory_percent=21,
)
RTX_4070_SUPER = Card(
    name="NVIDIA GeForce RTX 4070 SUPER",
    uuid="GPU-22222222-4070-5000-4070-000000000001",
    bus="00000000:02:00.0",
    total_bytes=gib(12),
    free_bytes=gib(12),
    temperature_c=48,
    power_w=61.0,
    gpu_percent=12,
    memory_percent=5,
)

GUIDE = Scenario(
    cards=(
        replace(
            RTX_4070,
            free_bytes=RTX_4070.total_bytes - gib(7.1),
            processes=(
                Process(4_200_011, gib(5.6), "/usr/local/bin/ollama"),
                Process(4_200_012, gib(0.6), "/usr/lib/xorg/Xorg", "graphics"),
            ),
        ),
        replace(
            RTX_4070_SUPER,
            free_bytes=RTX_4070_SUPER.total_bytes - gib(2.1),
            processes=(Process(4_200_021, gib(1.8), "/opt/games/tower/tower.x86_64", "graphics"),),
        ),
    )
)
"""The guide's example. 0: 6.2 / 7.1 / 4.9 / 12.0 GB, 59.2 %; 1: 1.8 / 2.1 / 9.9 / 12.0, 17.5 %."""


def compiled(library: Path, *given: str | Path) -> Path:
    """A library of these sources and options.

    Raises:
        subprocess.CalledProcessError: the compiler's words are in ``stderr``.
        FileNotFoundError: there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("a stand-in needs a C compiler (cc)")
    options = ["-shared", "-fPIC", "-O1", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        [compiler, *options, "-o", library, *given], check=True, capture_output=True, text=True
    )
    return library


def build(folder: Path) -> Path:
    """Compile the library into ``folder`` and return its path. Raises as ``compiled``."""
    library = folder / LIBRARY
    library.parent.mkdir(exist_ok=True)
    return compiled(library, SOURCE)


@dataclass(frozen=True)
class StandinNvml:
    """A built library and the scenario file that it reads."""

    library: Path
    scenario_path: Path
    inherited: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def write(self, scenario: Scenario) -> None:
        """From the next call on the driver answers so; a reader never sees half a file."""
        fresh = self.scenario_path.with_suffix(".new")
        fresh.write_bytes(scenario.as_text())
        fresh.replace(self.scenario_path)

    def remove(self) -> None:
        """No driver from now on: every call answers 9, driver not loaded."""
        self.scenario_path.unlink(missing_ok=True)

    def environment(self, **more: str) -> dict[str, str]:
        """Of a subprocess for which this is the NVIDIA driver."""
        if ON_WINDOWS:  # where pynvml looks first
            found = {"WINDIR": str(self.library.parent.parent)}
        else:
            search = [str(self.library.parent), self.inherited.get("LD_LIBRARY_PATH", "")]
            found = {"LD_LIBRARY_PATH": os.pathsep.join(part for part in search if part)}
        return {**self.inherited, **found, SCENARIO_VARIABLE: str(self.scenario_path), **more}
