"""A really started demo: at the terminal, under signals, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
import pytest

from bot.cli.exits import Exit
from tests.bot.running import ADDRESS, ROOT, started, started_demo

HEAVY = ("torch", "torchvision", "ultralytics", "open_clip", "cv2", "matplotlib", "rich")


@pytest.fixture
def scene_config(tmp_path: Path) -> Path:
    """The rendered scene, whatever screen this machine has."""
    config = tmp_path / "demo.yaml"
    config.write_text("capture:\n  source: scene\n", encoding="utf-8")
    return config


@pytest.fixture
def blind_config(tmp_path: Path) -> Path:
    """Without vision: quick, and nothing but the page."""
    config = tmp_path / "blind.yaml"
    config.write_text("vision:\n  autostart: false\n", encoding="utf-8")
    return config


def test_a_typed_line_is_answered_at_the_terminal(blind_config: Path) -> None:
    with started_demo(blind_config) as demo:
        demo.wait_for(ADDRESS)
        demo.wait_for("simulated")
        demo.type("!gpu status")
        demo.wait_for(
            r"🎯 GPU Memory Status \(simulated\):\n(?:.*\n){4}Device 0 \(RTX 4070\):\n  📊"
        )
        demo.type("!gpu vision")
        demo.wait_for(r"Device: cuda:\d\nReason: Device \d")
        demo.type("!gpu monitor")
        demo.wait_for("monitoring is off")
        demo.type("!gpu monitor")
        demo.wait_for("monitoring is on: a reading every")
        demo.type("!gpu nonsense")
        demo.wait_for("There are: !gpu alerts, !gpu dashboard, .*!gpu status")
        demo.interrupt()
        assert demo.process.wait(timeout=30) == Exit.OK
        assert "Traceback" not in demo.output


def test_it_ends_by_itself_when_told_to(blind_config: Path) -> None:
    with started_demo(blind_config, "--seconds", "1") as demo:
        assert demo.process.wait(timeout=60) == Exit.OK
        demo.wait_for("Danzar has ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_its_worker(scene_config: Path, number: signal.Signals) -> None:
    with started_demo(scene_config) as demo:
        demo.wait_for(ADDRESS)
        family = demo.wait_for_children()
        demo.interrupt(number)
        assert demo.process.wait(timeout=60) == Exit.OK
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
        assert "Traceback" not in demo.output


def test_a_killed_demo_leaves_no_worker_behind(scene_config: Path) -> None:
    with started_demo(scene_config) as demo:
        demo.wait_for(ADDRESS)
        family = demo.wait_for_children()
        demo.process.kill()
        demo.process.wait()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []


def test_the_bot_process_never_imports_torch(scene_config: Path) -> None:
    script = (
        "import sys\n"
        "from bot.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
        "sys.exit(status)\n"
    )
    typed = "!gpu status\n!vision status\n!vision look\n"
    done = subprocess.run(
        [
            *(sys.executable, "-c", script, "demo", "--no-browser", "--probe", "simulated"),
            *("--seconds", "12", "--config", str(scene_config)),
        ],
        input=typed,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == Exit.OK, done.stderr
    assert "Vision (simulated GPUs)" in done.stdout, "the cogs were used"
    assert "HEAVY []" in done.stdout


def test_a_taken_port_is_explained(blind_config: Path) -> None:
    with started_demo(blind_config) as first:
        port = first.wait_for(r"http://127\.0\.0\.1:(\d+)/").group(1)
        with started_demo(blind_config, "--port", port) as second:
            assert second.process.wait(timeout=60) == Exit.DEMO
            second.wait_for(f"could not be served on port {port}")


def test_without_the_page_the_bot_says_how_to_get_it(blind_config: Path, tmp_path: Path) -> None:
    # A simcord that can't be imported stands for one that isn't installed.
    (tmp_path / "simcord.py").write_text("raise ModuleNotFoundError(name='simcord')\n")
    with started(
        *("demo", "--no-browser", "--probe", "simulated", "--config", str(blind_config)),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as demo:
        assert demo.process.wait(timeout=60) == Exit.DEMO
        demo.wait_for(r'pip install -e "\.\[demo\]"')


def test_the_seams_of_the_pinned_simcord_are_there() -> None:
    from bot.chat_page import SEAMS

    assert version("simcord") == "3.2.1"
    for owner, name in SEAMS:
        assert callable(getattr(owner, name, None)), f"{owner.__name__}.{name} is gone"


@pytest.mark.parametrize(
    ("seconds", "name"),
    [(7200, "Etc/GMT-2"), (-5 * 3600, "Etc/GMT+5"), (0, "UTC"), (19800, "UTC")],
)
def test_a_zone_without_a_name_is_told_by_its_distance(seconds: int, name: str) -> None:
    from bot.chat_page import zone_of

    assert zone_of(seconds) == name
    assert ZoneInfo(name).utcoffset(datetime(2026, 1, 1)) == timedelta(
        seconds=0 if name == "UTC" else seconds
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_hangup_reads_the_configuration_again(blind_config: Path) -> None:
    with started_demo(blind_config) as demo:
        demo.wait_for(ADDRESS)
        blind_config.write_text(
            "vision:\n  autostart: false\ngpu_memory:\n  headroom_gb: 1.5\n", encoding="utf-8"
        )
        demo.process.send_signal(signal.SIGHUP)
        demo.wait_for(r"read again \(SIGHUP\): gpu_memory.headroom_gb: 0.5 → 1.5")
        blind_config.write_text("gpu_memory:\n  hedroom_gb: 2\n", encoding="utf-8")
        demo.process.send_signal(signal.SIGHUP)
        demo.wait_for("blind.yaml:2: gpu_memory.hedroom_gb: is not a key")
        demo.type("!gpu status")
        demo.wait_for("GPU Memory Status")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_closed_terminal_ends_it(blind_config: Path) -> None:
    """SIGHUP means that, too: the program must not live on where nobody sees it."""
    import pty

    command = ["-m", "bot", "demo", "--no-browser", "--probe", "simulated"]
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup make test` would be handed on
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, *command, "--config", str(blind_config)])
    seen = b""
    while b"Type in the page" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    assert psutil.Process(child).wait(timeout=30) == Exit.OK
