"""``danzar doctor``: what would stop the bot from working, and how to mend each.

Exit status 0 only when nothing would. What only makes it less (no card, no token) is a warning.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bot import settings as configuration
from bot.cli.exits import Exit
from bot.identity import version
from bot.misfits import misfits
from bot.missing_files import NO_MODEL
from bot.settings import Settings
from bot.vision.chosen_files import ModelFile, clip_file, yolo_file
from bot.vision.model_files import PULLED, FileRefused, check_hash, locate
from bot.vision.packages import missing_packages, why_no_vision
from danzar_gpu import GPUMemoryManager, MemorySnapshot, ProbeError, open_probe
from danzar_gpu.ledger import Ledger
from danzar_gpu.llm_server import ask_server, is_told
from danzar_gpu.memory import GIB, gib

if TYPE_CHECKING:
    from danzar_gpu.probes import ProbeName

State = Literal["ok", "warning", "failure"]
SIGNS: dict[State, str] = {"ok": "✅", "warning": "⚠️ ", "failure": "❌"}
TORCH_SECONDS = 120.0
CAPTURE_SECONDS = 60.0
LEAST_DISK_BYTES = 200 * 1024**2
DATA_LOST = (
    "the bot runs, but forgets at its end the history, what it learned of models and the LLM, and "
    "what chats chose; it can't keep models converted for OpenVINO, so torch computes on the CPU, "
    "slower and with more memory, and each phrase's embedding is made anew; a second bot on the "
    "folder would not be noticed"
)
"""Without a data folder that can be written."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: State
    what: str
    remedy: str = ""


def run(path: Path, probe_name: ProbeName, *, as_json: bool) -> int:
    """Examine everything and print it; the exit status."""
    findings = examine(path, probe_name)
    healthy = all(f.state != "failure" for f in findings)
    if as_json:
        body = {"ok": healthy, "version": version(), "checks": [asdict(f) for f in findings]}
        print(json.dumps(body, ensure_ascii=False, indent=2))
    else:
        _print(findings, healthy)
    return Exit.OK if healthy else Exit.FAILED


def examine(path: Path, probe_name: ProbeName) -> list[Finding]:
    """Every check, in the order in which a person would mend them."""
    try:
        settings = configuration.load(path)
        configured = [Finding("configuration", "ok", _where(path))]
    except configuration.SettingsError as error:
        settings = Settings()
        remedy = "mend these lines; docs/configuration.md has every key"
        configured = [Finding("configuration", "failure", str(error), remedy)]
    # The slow questions run beside everything else.
    with ThreadPoolExecutor(2) as pool:
        torch = pool.submit(ask, "torch", {}, TORCH_SECONDS)
        section = settings.capture.model_dump(mode="json")
        capture = pool.submit(ask, "capture", section, CAPTURE_SECONDS)
        findings = [*configured, *check_python(), *check_token()]
        snapshot, driver = read_memory(settings, probe_name)
        findings += driver
        findings += check_llm_server(settings)
        findings += check_models(settings)
        findings += check_disk(settings)
        findings += check_demo()
        if missing := missing_packages():
            findings.append(check_vision(missing))
        else:
            findings += check_torch(torch.result(), snapshot)
            findings += check_capture(capture.result(), settings)
    return findings


def _where(path: Path) -> str:
    return str(path) if path.exists() else f"{path} does not exist; the defaults apply"


def check_python() -> Iterator[Finding]:
    """The interpreter and what is installed in it."""
    found = f"Python {sys.version.split()[0]}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", "failure", found, "use Python 3.11, 3.12 or 3.13")
        return
    missing = [
        name for name in ("discord", "aiohttp", "psutil", "matplotlib") if find_spec(name) is None
    ]
    if missing:
        what = f"{found}, but {', '.join(missing)} can't be imported"
        yield Finding("python", "failure", what, "install again: pip install -e .")
    else:
        yield Finding("python", "ok", found)


def check_token() -> Iterator[Finding]:
    """Is there a token? Never what it is, and Discord is not asked."""
    try:
        token = configuration.discord_token()
    except configuration.TokenError as error:
        yield Finding("token", "failure", str(error), "mend the file, or unset the variable")
        return
    if token is None:
        remedy = "set DISCORD_TOKEN or DISCORD_TOKEN_FILE to run the bot on Discord"
        yield Finding("token", "warning", "there is no Discord token: the demo runs", remedy)
    elif token.count(".") != 2 or any(c.isspace() for c in token):
        what = "the Discord token does not look like one (three parts with dots between)"
        yield Finding("token", "failure", what, "copy it again: developer portal, Bot, Reset Token")
    else:
        yield Finding("token", "ok", "there is a Discord token (Discord was not asked about it)")


def read_memory(
    settings: Settings, probe_name: ProbeName
) -> tuple[MemorySnapshot | None, list[Finding]]:
    """The driver, the cards, and whether the configuration fits them."""
    try:
        probe = open_probe(probe_name)
    except ProbeError as error:
        return None, [Finding("driver", "failure", error.cause, error.remedy)]
    config = settings.gpu_memory.model_copy(update={"enable_memory_monitoring": False})
    manager = GPUMemoryManager(config, probe)

    async def read() -> MemorySnapshot:
        try:
            return await manager.refresh(max_age=0)
        finally:
            await manager.close()

    try:
        snapshot = asyncio.run(read())
    except ProbeError as error:
        return None, [Finding("driver", "failure", error.cause, error.remedy)]
    if snapshot.source == "none":
        why = "; ".join(snapshot.faults) or "no NVIDIA driver was found"
        remedy = "nothing, if this machine has no NVIDIA card; else install its driver"
        what = f"no GPU: vision runs on the CPU ({why})"
        findings = [Finding("driver", "warning", what, remedy)]
        if not config.fallback_to_cpu:
            what = "vision would be refused: there is no card, and the CPU is ruled out"
            findings.append(
                Finding("placement", "failure", what, "set gpu_memory.fallback_to_cpu: true")
            )
        return snapshot, findings
    words = {"simulated": "a simulated rig, as asked for", "torch": "CUDA through torch (no NVML)"}
    findings = [Finding("driver", "ok", words.get(snapshot.source, "NVML answers"))]
    findings += [Finding("driver", "warning", fault, "see the log") for fault in snapshot.faults]
    findings += check_cards(settings, snapshot)
    findings += check_accounts(settings, snapshot)
    findings += check_placement(manager)
    return snapshot, findings


def check_cards(settings: Settings, snapshot: MemorySnapshot) -> Iterator[Finding]:
    """Do the configured devices exist, and do the promises fit on them?"""
    config = settings.gpu_memory
    for device in snapshot.devices:
        what = f"{device.device}: {device.name}, {device.total_gb:.1f}GB, {device.uuid}"
        yield Finding("device", "ok", what)
    for misfit in misfits(config, snapshot):
        check = "device" if misfit.key.endswith("_device") else "reservation"
        state: State = "failure" if misfit.fatal else "warning"
        yield Finding(check, state, f"{misfit.key}: {misfit.what}", misfit.remedy)


def check_accounts(settings: Settings, snapshot: MemorySnapshot) -> Iterator[Finding]:
    """Can it be known how much of its card the LLM holds?"""
    config = settings.gpu_memory
    device = snapshot.device(config.main_llm_index)
    if device is None or config.main_llm_endpoint:
        return
    nobody_there = device.processes == () and device.reserved_bytes < GIB
    if nobody_there or is_told(device.processes or (), config, Ledger()):
        return
    what = f"nobody tells what the LLM holds on {device.label}: it counts as somebody else's memory"
    remedy = (
        "name the LLM's server, which is asked instead: "
        "gpu_memory.main_llm_endpoint: http://127.0.0.1:11434 (Ollama's)"
    )
    yield Finding("accounts", "warning", what, remedy)


def check_placement(manager: GPUMemoryManager) -> Iterator[Finding]:
    """Where would vision run now?"""
    device, reason = manager.get_best_vision_device()
    if device is None:
        remedy = "free memory on a card, or set gpu_memory.fallback_to_cpu: true"
        yield Finding("placement", "failure", f"vision would be refused: {reason}", remedy)
    elif device == "cpu":
        remedy = "close what holds the memory, if vision should run on a card"
        yield Finding("placement", "warning", f"vision would run on the CPU: {reason}", remedy)
    else:
        yield Finding("placement", "ok", f"vision would run on {device}: {reason}")


def check_llm_server(settings: Settings) -> Iterator[Finding]:
    """Whether the LLM's server answers, where one is configured; never its address."""
    endpoint = settings.gpu_memory.main_llm_endpoint
    if endpoint is None:
        return
    state = asyncio.run(ask_server(endpoint, 0.0))
    if state.error is not None:
        remedy = "start it, or mend gpu_memory.main_llm_endpoint"
        yield Finding("llm", "warning", f"the LLM's server can't be asked: {state.error}", remedy)
    elif not state.models:
        yield Finding("llm", "ok", "the LLM's server answers; no model is loaded")
    else:
        size = f" ({gib(state.vram_bytes):.1f}GB on cards)" if state.vram_bytes else ""
        yield Finding("llm", "ok", f"the LLM's server answers: {state.names}{size}")


def check_models(settings: Settings) -> Iterator[Finding]:
    """Are the models there, and are they the files that they should be?"""
    if settings.yolo.enabled:
        yield _model("YOLO", lambda: yolo_file(settings.yolo))
    if settings.clip.enabled:
        yield _model("CLIP", lambda: clip_file(settings.clip), settings.clip.model_name)
    if not settings.yolo.enabled and not settings.clip.enabled:
        yield Finding("model", "warning", NO_MODEL.what, NO_MODEL.remedy)


def _model(role: str, find: Callable[[], ModelFile], to_pull: str | None = None) -> Finding:
    """``to_pull``: the model that takes this one's place once it was pulled."""
    try:
        found = find()
        check_hash(found.path, found.pin.sha256 if found.pin else None)
    except FileRefused as error:
        return Finding("model", "failure", f"{role}: {error.what}", error.remedy)
    if found.pin is None:
        what = f"{role}: {found.path} is in no manifest, so nobody knows whether it is unchanged"
        return Finding("model", "warning", what, "nothing, if you put it there yourself")
    what = f"{role}: {found.path}, SHA-256 as in the manifest"
    serving = found.path.parent.name
    if to_pull is not None and not found.pulled and serving != to_pull:
        what += f" ({serving} serves until {to_pull} is pulled: danzar models pull {to_pull})"
    return Finding("model", "ok", what)


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Can pulled models, what Danzar keeps and temporary files be written?"""
    yield _writable(
        locate(PULLED).absolute(),
        "pulled models",
        lost="no model can be pulled; those that are here serve",
        remedy="give this user the right to write there",
    )
    yield _writable(
        Path(settings.data.folder).absolute(),
        "what Danzar keeps (data.folder)",
        lost=DATA_LOST,
        remedy="give this user the right to write there, or name another folder in data.folder",
    )
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:
        what = f"temporary files can't be written: {error.strerror}"
        yield Finding("disk", "failure", what, "make room, or name a folder in TMPDIR")
    else:
        yield _writable(
            temporary,
            "temporary files",
            lost="vision's process and `danzar bench` don't start without them",
            remedy="give this user the right to write there, or name another folder in TMPDIR",
            state="failure",
        )


def _writable(
    folder: Path, use: str, *, lost: str, remedy: str, state: State = "warning"
) -> Finding:
    """Whether a folder, which may not be there yet, can be written; ``lost``: what if not."""
    try:
        place = _existing(folder)
        with tempfile.TemporaryFile(dir=place):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        what = f"{folder}, for {use}, can't be written ({error.strerror})"
        return Finding("disk", state, f"{what}: {lost}", remedy)
    if free < LEAST_DISK_BYTES:
        what = f"only {free / 1024**2:.0f} MiB are left in {folder} for {use}"
        return Finding("disk", "warning", what, "make room there")
    return Finding("disk", "ok", f"{folder}: {free / GIB:.1f}GB left for {use}")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there. Raises ``OSError``."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def check_demo() -> Iterator[Finding]:
    """Is the local chat page there?"""
    try:
        yield Finding(
            "demo", "ok", f"the chat page can be served (simcord {version_of('simcord')})"
        )
    except PackageNotFoundError:
        what = "the demo's chat page is not installed"
        yield Finding("demo", "warning", what, 'pip install -e ".[demo]", if you want the demo')


def check_vision(missing: tuple[str, ...]) -> Finding:
    """The bot alone is a way to install Danzar, not a fault."""
    what, _, remedy = why_no_vision(missing).partition("; the rest works. ")
    return Finding("vision", "warning", what, remedy)


def check_torch(answer: dict[str, Any], snapshot: MemorySnapshot | None) -> Iterator[Finding]:
    """Does torch work, and does it number the cards as the driver does?"""
    if "failed" in answer:
        what = f"torch could not be asked: {answer['failed']}"
        yield Finding("torch", "failure", what, 'install again: pip install -e ".[vision]"')
        return
    build = f"CUDA {answer['cuda']}" if answer["cuda"] else "CPU only"
    yield Finding("torch", "ok", f"torch {answer['version']} ({build})")
    if snapshot is None or snapshot.source != "nvml" or not snapshot.devices:
        return
    seen = {card["index"]: card for card in answer["cards"]}
    if not seen:
        what = f"the driver has cards, but torch can use none ({answer['why']})"
        yield Finding("mapping", "warning", f"{what}: vision uses the CPU", answer["remedy"])
        return
    wrong = False
    for device in snapshot.devices:
        card = seen.pop(device.index, None)
        if card is None:
            wrong = True
            what = f"{device.device} ({device.name}, {device.uuid}) is unknown to torch"
        elif bare(card["uuid"]) != bare(device.uuid):
            wrong = True
            what = (
                f"{device.device} is {device.name} ({device.uuid}) for the driver, but "
                f"{card['name']} (GPU-{bare(card['uuid'])}) for torch"
            )
        else:
            continue
        remedy = "look at CUDA_VISIBLE_DEVICES: both must see the same cards in the same order"
        yield Finding("mapping", "failure", what, remedy)
    if not wrong:
        yield Finding("mapping", "ok", "the driver and torch number the cards alike")


def bare(uuid: str) -> str:
    """A card's identity without the ``GPU-`` that torch leaves out."""
    return uuid.strip().lower().removeprefix("gpu-")


def check_capture(answer: dict[str, Any], settings: Settings) -> Iterator[Finding]:
    """Can a frame be taken from the configured source?"""
    if "failed" in answer:
        remedy = answer.get("remedy") or "see docs/configuration.md, section capture"
        yield Finding("capture", "failure", answer["failed"], remedy)
        return
    if "waiting" in answer:
        yield Finding("capture", "warning", answer["waiting"], answer["remedy"])
        return
    width, height = answer["size"]
    what = f"{answer['description']}, {width} × {height} pixels"
    if settings.capture.source == "auto" and answer["source"] == "scene":
        remedy = "nothing for the demo; to watch a game, start where a desktop session runs"
        yield Finding("capture", "warning", answer["description"], remedy)
    else:
        yield Finding("capture", "ok", what)


def ask(question: str, given: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Put a question to a child process with a time limit; ``{"failed": why}`` if it can't tell."""
    environment = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    command = [sys.executable, "-m", "bot.cli.doctor_questions", question]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(given),
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer within {seconds:.0f} s", "remedy": "try again; see the log"}
    except OSError as error:
        return {"failed": f"no process could be started: {error.strerror}"}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"failed": last[:300]}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"failed": "it answered something that is no JSON"}


def _print(findings: list[Finding], healthy: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    colours = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    for finding in findings:
        head = Text(f"{SIGNS[finding.state]} ")
        head.append(f"{finding.check}: ", style=colours[finding.state])
        console.print(head.append(finding.what))
        if finding.remedy and finding.state != "ok":
            console.print(Text(f"   → {finding.remedy}", style="dim"))
    console.print()
    count = sum(f.state == "failure" for f in findings)
    if healthy:
        console.print("Nothing stops the bot.")
    else:
        console.print(f"{count} thing{'s' if count > 1 else ''} (❌) would stop the bot.")
