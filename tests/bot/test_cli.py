"""``python -m bot ...`` as a person or a program runs it."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bot.cli.doctor import check_accounts, check_llm_server, check_models, check_torch
from bot.cli.exits import Exit
from bot.settings import Settings, load
from danzar_gpu import GPUMemoryConfig, MemorySnapshot
from danzar_gpu.history import HistoryStore, Sample
from danzar_gpu.memory import DeviceMemory, GpuProcess
from tests.bot.running import danzar
from tests.standin import GUIDE, Fault, Process, StandinNvml, gib
from tests.unprivileged import folder_for_anybody, run_unprivileged


def device_figures(device: dict[str, Any]) -> tuple[float, float, float, float, float]:
    sizes = (device[f"{key}_bytes"] for key in ("allocated", "reserved", "free", "total"))
    a, r, f, t = (round(size / gib(1), 1) for size in sizes)
    return a, r, f, t, device["utilization_percent"]


def test_status_json_gives_the_guides_figures(standin_nvml: StandinNvml) -> None:
    standin_nvml.write(GUIDE)
    done = danzar("status", "--json", env=standin_nvml.environment())
    assert done.returncode == Exit.OK, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer) == {
        "source",
        "devices",
        "best_vision_device",
        "recommendations",
        "main_llm_reservation",
    }
    assert answer["main_llm_reservation"] == {"size_bytes": gib(8), "learned": None}
    assert answer["source"] == "nvml"
    assert [device_figures(d) for d in answer["devices"]] == [
        (6.2, 7.1, 4.9, 12.0, 59.2),
        (1.8, 2.1, 9.9, 12.0, 17.5),
    ]
    first = answer["devices"][0]
    assert set(first) == {
        "index",
        "uuid",
        "name",
        "total_bytes",
        "free_bytes",
        "reserved_bytes",
        "allocated_bytes",
        "utilization_percent",
        "processes",
    }
    assert first["name"] == "RTX 4070"
    assert {"pid": 4_200_011, "name": "ollama", "used_bytes": gib(5.6)} in first["processes"]
    assert answer["best_vision_device"]["device"] == "cuda:1"
    assert answer["recommendations"] == ["All GPU devices have adequate memory"]


@pytest.mark.parametrize("bot_runs", [True, False], ids=["beside a bot", "alone"])
def test_status_shows_what_the_bot_learned_of_the_llm_and_leaves_no_trace(
    standin_nvml: StandinNvml, tmp_path: Path, bot_runs: bool
) -> None:
    standin_nvml.write(GUIDE)
    config, data = tmp_path / "auto.yaml", tmp_path / "data"
    config.write_text(
        f"gpu_memory: {{main_llm_memory_reservation_gb: auto}}\ndata: {{folder: '{data}'}}\n"
    )

    def status() -> tuple[int, str]:
        """The bytes that are kept, and why."""
        options = ("--config", str(config), "status")
        done = danzar(*options, "--json", env=standin_nvml.environment())
        assert done.returncode == Exit.OK, done.stderr
        kept = json.loads(done.stdout)["main_llm_reservation"]
        assert f"Kept free for the main LLM: {kept['learned']}" in (
            danzar(*options, env=standin_nvml.environment()).stdout
        )
        return kept["size_bytes"], kept["learned"]

    size, why = status()
    assert (size, "until the LLM was seen" in why) == (gib(8), True)
    assert not data.exists()

    store = HistoryStore(data / "history.sqlite3")
    store.open()
    for hour in range(5):
        at = time.time() - 3600 * hour
        store.sample(Sample(at, "GPU-0", gib(12), 0, gib(10), gib(9.0), 0))
    assert store.flush()
    if not bot_runs:
        store.close()
    before = {path.name for path in data.iterdir()}
    size, why = status()
    assert size == pytest.approx(gib(9.9), abs=2)
    assert "the LLM's peak of 9.0GB" in why
    assert {path.name for path in data.iterdir()} == before
    store.close()

    (data / "history.sqlite3").write_bytes(b"no database" * 100)
    done = danzar("--config", str(config), "status", env=standin_nvml.environment())
    assert done.returncode == Exit.OK
    assert "history.sqlite3 can't be read" in done.stderr
    assert "until the LLM was seen" in done.stdout


def test_status_for_people_is_the_guides_text(standin_nvml: StandinNvml) -> None:
    standin_nvml.write(GUIDE)
    done = danzar("status", env=standin_nvml.environment())
    assert done.stdout.startswith(
        "🎯 GPU Memory Status:\n"
        "\n"
        "Device 0 (RTX 4070):\n"
        "  📊 Allocated: 6.2GB\n"
        "  📊 Reserved: 7.1GB\n"
        "  📊 Free: 4.9GB\n"
        "  📊 Total: 12.0GB\n"
        "  📊 Utilization: 59.2%\n"
        "\n"
        "Device 1 (RTX 4070 SUPER):\n"
        "  📊 Allocated: 1.8GB\n"
    )
    assert "💡 Recommendations:\n  • All GPU devices have adequate memory\n" in done.stdout
    assert "Device: cuda:1\nReason: Device 1 (RTX 4070 SUPER) available with 9.9GB free" in (
        done.stdout
    )
    assert "simulated" not in done.stdout


def second_card_full(first_processes: tuple[Process, ...]) -> Any:
    """Card 1 with half a gigabyte free; card 0 with these programs and nothing else."""
    super_card = GUIDE.cards[1].using(Process(4_200_031, gib(11.5), "/games/big"))
    return GUIDE.with_card(0, GUIDE.cards[0].using(*first_processes)).with_card(1, super_card)


def test_a_loaded_llm_leaves_room_beside_its_promise(standin_nvml: StandinNvml) -> None:
    # 7.5 of the promised 8 GB are there already: 4.5 free, less 0.5 of promise.
    standin_nvml.write(second_card_full((Process(4_200_011, gib(7.5), "/usr/bin/ollama"),)))
    done = danzar("status", "--json", env=standin_nvml.environment())
    assert json.loads(done.stdout)["best_vision_device"]["device"] == "cuda:0"


def test_an_unknown_program_leaves_the_whole_promise(standin_nvml: StandinNvml) -> None:
    standin_nvml.write(second_card_full((Process(4_200_011, gib(7.5), "/usr/bin/renderer"),)))
    done = danzar("status", "--json", env=standin_nvml.environment())
    best = json.loads(done.stdout)["best_vision_device"]
    assert best["device"] == "cpu"
    assert "No GPU devices available with sufficient memory" in best["reason"]


def test_no_driver_is_told_and_never_simulated(standin_nvml: StandinNvml) -> None:
    standin_nvml.remove()
    done = danzar("status", "--json", env=standin_nvml.environment())
    answer = json.loads(done.stdout)
    assert done.returncode == Exit.OK
    assert (answer["source"], answer["devices"]) == ("none", [])
    assert answer["best_vision_device"]["device"] == "cpu"
    words = danzar("status", env=standin_nvml.environment()).stdout
    assert "No NVIDIA driver answers here" in words
    assert "simulated" not in words


def test_a_driver_that_fails_is_an_error_of_its_own(standin_nvml: StandinNvml) -> None:
    standin_nvml.write(GUIDE.with_faults(Fault(code=15)))
    done = danzar("status", "--probe", "nvml", "--json", env=standin_nvml.environment())
    assert done.returncode == Exit.PROBE
    assert "GPU is lost" in done.stderr
    assert done.stdout == ""


def test_the_simulated_rig_is_shown_when_asked_for_and_says_so() -> None:
    done = danzar("--probe", "simulated", "status")
    assert done.returncode == Exit.OK
    assert done.stdout.startswith("🎯 GPU Memory Status (simulated):")
    assert json.loads(danzar("status", "--json", "--probe", "simulated").stdout)["source"] == (
        "simulated"
    )


@pytest.mark.parametrize("command", [["status"], ["demo"], ["run"], ["config", "check"], []])
def test_an_unknown_key_is_refused_by_file_and_line(command: list[str], tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("gpu_memory:\n  vision_devise: cuda:1\n", encoding="utf-8")
    done = danzar(*command, "--config", str(config))
    assert done.returncode == Exit.CONFIGURATION
    assert f"{config}:2: gpu_memory.vision_devise" in done.stderr
    assert "Nothing was started" in done.stderr
    assert "Traceback" not in done.stderr


def test_config_check_and_show(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("yolo:\n  confidence_threshold: 0.75\n", encoding="utf-8")
    checked = danzar("config", "check", "--config", str(config))
    assert (checked.returncode, checked.stdout) == (Exit.OK, f"{config}: all is well.\n")
    shown = danzar("config", "show", "--config", str(config))
    assert "confidence_threshold: 0.75" in shown.stdout
    config.write_text(shown.stdout, encoding="utf-8")
    assert danzar("config", "check", str(config)).returncode == Exit.OK
    config.write_text("yolo:\n  clases: [boss]\n", encoding="utf-8")
    refused = danzar("config", "check", str(config))
    assert refused.returncode == Exit.CONFIGURATION
    assert refused.stderr.startswith(f"{config}:2: yolo.clases: is not a key that Danzar knows")


def test_config_check_knows_the_cards_where_there_is_a_driver(
    standin_nvml: StandinNvml, tmp_path: Path
) -> None:
    standin_nvml.write(GUIDE)
    config = tmp_path / "mine.yaml"
    config.write_text("gpu_memory:\n  main_llm_memory_reservation_gb: 24\n", encoding="utf-8")
    command = ("config", "check", "--config", str(config))
    done = danzar(*command, env=standin_nvml.environment())
    assert done.returncode == Exit.CONFIGURATION
    assert done.stderr.startswith(
        f"{config}:2: gpu_memory.main_llm_memory_reservation_gb: 24GB are reserved on Device 0"
    )
    config.write_text("gpu_memory:\n  vision_device: cuda:5\n", encoding="utf-8")
    done = danzar(*command, env=standin_nvml.environment())
    assert done.returncode == Exit.OK, "other cards are used"
    assert "there are: cuda:0, cuda:1" in done.stderr
    assert "all is well" not in done.stdout
    standin_nvml.remove()
    assert danzar(*command, env=standin_nvml.environment()).stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_doctor_names_the_data_folder_and_what_is_lost_without_it() -> None:
    with folder_for_anybody() as place:
        (place / "closed").mkdir(mode=0)
        (place / "file").touch()
        said = run_unprivileged(
            "import sys; from bot.cli.doctor import check_disk; from bot.settings import Settings",
            "for folder in sys.argv[1:]:\n"
            "    _, found, _ = check_disk(Settings(data={'folder': folder}))\n"
            "    print(found.state, found.what, found.remedy)",
            *(place / "closed" / "deep" / "data", place / "file" / "data"),
        )
        (place / "closed").chmod(0o700)  # so that it can be taken away
        closed, file = said.splitlines()
        for line, folder, why in (
            (closed, place / "closed" / "deep" / "data", "Permission denied"),
            (file, place / "file" / "data", "Not a directory"),
        ):
            assert line.startswith(
                f"warning {folder}, for what Danzar keeps (data.folder), can't be written ({why}): "
            )
            for lost in ("history", "learned", "chats chose", "OpenVINO", "embedding"):
                assert lost in line
            assert line.endswith("or name another folder in data.folder")


def test_config_check_looks_for_the_files_that_are_named(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "clip:\n  model_path: no-such-clip\n"
        "yolo:\n  enabled: true\n  model_path: no-such-model.pt\n"
        "capture:\n  source: video\n  path: no-such-film.mp4\n",
        encoding="utf-8",
    )
    done = danzar("config", "check", str(config))
    assert (done.returncode, done.stdout) == (Exit.CONFIGURATION, "")
    yolo, clip, film = done.stderr.splitlines()[:3]
    assert yolo.startswith(f"{config}:5: yolo.model_path: no-such-model.pt is missing; ")
    assert clip.startswith(f"{config}:1: clip: no-such-clip/open_clip_model.safetensors is missing")
    assert film.startswith(f"{config}:8: capture.path: there is no video file no-such-film.mp4; ")


def test_config_check_and_the_doctor_say_that_no_model_is_on(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("yolo: {enabled: false, model_path: nowhere}\nclip: {enabled: false}\n")
    done = danzar("config", "check", str(config))
    words = "YOLO and CLIP are both switched off, so vision sees nothing"
    assert done.returncode == Exit.OK, "for the cards alone that is a way to run it"
    assert done.stderr.startswith(f"{config}:1: yolo.enabled: {words}; ")
    assert "all is well" not in done.stdout
    [found] = check_models(load(config))
    assert (found.state, found.what) == ("warning", words)


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing.yaml", "there is no such file"), (".", "can't be read: it is a folder, not a file")],
)
def test_what_is_no_configuration_has_no_lines(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / name
    done = danzar("config", "check", str(path))
    assert done.returncode == Exit.CONFIGURATION
    assert done.stderr.startswith(f"{path}: {words}\n")


@pytest.mark.parametrize(
    "wrong",
    [
        ["nonsense"],
        ["demo", "--port", "70000"],
        ["demo", "--seconds", "-1"],
        ["status", "--config", ""],
        ["config", "check", ""],
        ["capture", "--to", "here:7460", "--frames", "-1"],
    ],
)
def test_a_wrong_command_line_is_explained(wrong: list[str]) -> None:
    done = danzar(*wrong)
    assert done.returncode == Exit.CONFIGURATION
    assert "usage: danzar" in done.stderr


def test_help_and_version() -> None:
    helped = danzar("--help")
    assert helped.returncode == Exit.OK
    for command in ("run", "demo", "status", "doctor", "watch", "models", "config"):
        assert f"\n    {command} " in helped.stdout
    assert danzar("--version").stdout.startswith("danzar ")


def test_an_empty_token_file_is_a_matter_of_its_own(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("\n", encoding="utf-8")
    done = danzar("run", env={**os.environ, "DISCORD_TOKEN_FILE": str(secret)})
    assert done.returncode == Exit.TOKEN
    assert "is empty" in done.stderr


def doctor(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    done = danzar("doctor", "--json", *arguments, env=env)
    return done.returncode, json.loads(done.stdout)


def findings(report: dict[str, Any], check: str) -> list[dict[str, str]]:
    return [c for c in report["checks"] if c["check"] == check]


def test_doctor_reports_a_broken_configuration_and_goes_on(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("yolo:\n  speed: 3\n", encoding="utf-8")
    status, report = doctor("--config", str(config))
    assert status == Exit.FAILED
    assert report["ok"] is False
    [found] = findings(report, "configuration")
    assert found["state"] == "failure"
    assert f"{config}:2: yolo.speed" in found["what"]
    assert findings(report, "capture")


def test_doctor_finds_what_does_not_fit(standin_nvml: StandinNvml, tmp_path: Path) -> None:
    standin_nvml.write(GUIDE)
    config = tmp_path / "mine.yaml"
    config.write_text(
        "gpu_memory:\n"
        "  vision_device: cuda:5\n"
        "  main_llm_memory_reservation_gb: 24\n"
        "capture:\n"
        "  source: video\n"
        "  path: no-such-file.mp4\n"
        "yolo:\n"
        "  model_path: no-such-model.pt\n",
        encoding="utf-8",
    )
    token = "no-token-at-all"
    status, report = doctor(
        "--config", str(config), env=standin_nvml.environment(DISCORD_TOKEN=token)
    )
    assert status == Exit.FAILED
    by_check = {c["check"]: c for c in report["checks"] if c["state"] == "failure"}
    assert "24GB are reserved on Device 0" in by_check["reservation"]["what"]
    assert "no-such-file.mp4" in by_check["capture"]["what"]
    models = " ".join(c["what"] for c in findings(report, "model") if c["state"] == "failure")
    assert "no-such-model.pt is missing" in models
    assert "does not look like one" in by_check["token"]["what"]
    assert all(c["remedy"] for c in by_check.values())
    assert token not in json.dumps(report)
    [vision_device] = [c for c in findings(report, "device") if c["state"] == "warning"]
    assert "vision_device: is cuda:5" in vision_device["what"]
    # The stand-in's cards exist for the driver alone.
    assert findings(report, "mapping")[0]["state"] == "warning"


def test_doctor_names_the_llms_server_where_nobody_tells_what_processes_hold(
    standin_nvml: StandinNvml, tmp_path: Path
) -> None:
    cards = (
        replace(card, processes=tuple(replace(row, used_bytes=None) for row in card.processes))
        for card in GUIDE.cards
    )
    standin_nvml.write(replace(GUIDE, cards=tuple(cards)))
    _, report = doctor("--config", str(tmp_path / "none.yaml"), env=standin_nvml.environment())
    [accounts] = findings(report, "accounts")
    assert accounts["state"] == "warning"
    assert "gpu_memory.main_llm_endpoint: http://127.0.0.1:11434" in accounts["remedy"]


OLLAMA, GAME = GpuProcess(1, "ollama.exe", gib(6)), GpuProcess(2, "tower.exe", gib(1))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ((OLLAMA, GAME), False),
        ((OLLAMA, replace(GAME, used_bytes=None)), False),
        ((replace(OLLAMA, used_bytes=None), GAME), True),
        ((replace(GAME, used_bytes=None),), True),
        ((GAME,), False),
        ((), True),
        (None, True),
    ],
)
def test_doctor_asks_for_the_llms_server_only_where_the_llm_may_hide(
    rows: tuple[GpuProcess, ...] | None, told: bool
) -> None:
    card = DeviceMemory(0, "GPU-0", "RTX 4070", gib(12), gib(5), gib(7), rows)
    shot = MemorySnapshot(0.0, "nvml", (card,), 0.0, ())
    assert bool([*check_accounts(Settings(), shot)]) == told


def test_a_torch_that_can_use_no_card_is_told_with_its_own_word_and_the_way_out() -> None:
    cards = (DeviceMemory(0, "GPU-0", "RTX 4070", gib(12), gib(12), 0),)
    shot = MemorySnapshot(0.0, "nvml", cards, 0.0, ())
    answer = {"version": "2.9.0", "cuda": None, "cards": [], "why": "no CUDA", "remedy": "buy"}
    build, mapping = check_torch(answer, shot)
    assert build.what == "torch 2.9.0 (CPU only)"
    assert "torch can use none (no CUDA): vision uses the CPU" in mapping.what
    assert mapping.remedy == "buy"


class LlmServer(BaseHTTPRequestHandler):
    """Ollama with one model loaded."""

    def do_GET(self) -> None:
        body = json.dumps({"models": [{"name": "qwen2.5:7b", "size_vram": gib(6)}]}).encode()
        self.send_response(200 if self.path == "/api/ps" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_doctor_asks_the_llms_server_and_never_tells_its_address(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), LlmServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        memory = GPUMemoryConfig(main_llm_endpoint=f"http://me:secret@{address}")
        [answers] = check_llm_server(Settings(gpu_memory=memory))
        server.shutdown()
    [silent] = check_llm_server(Settings(gpu_memory=memory))
    assert (answers.state, answers.what) == (
        "ok",
        "the LLM's server answers: qwen2.5:7b (6.0GB on cards)",
    )
    assert (silent.state, "main_llm_endpoint" in silent.remedy) == ("warning", True)
    assert silent.what == "the LLM's server can't be asked: nothing answers at its address"
    assert list(check_llm_server(Settings())) == []


def test_doctor_calls_a_machine_without_a_card_fit(
    standin_nvml: StandinNvml, tmp_path: Path
) -> None:
    standin_nvml.remove()
    config = tmp_path / "mine.yaml"
    config.write_text(
        "capture:\n  source: scene\nyolo:\n  enabled: false\nclip:\n  enabled: false\n",
        encoding="utf-8",
    )
    status, report = doctor("--config", str(config), env=standin_nvml.environment())
    assert [c for c in report["checks"] if c["state"] == "failure"] == []
    assert (status, report["ok"]) == (Exit.OK, True)
    [driver] = findings(report, "driver")
    assert driver["state"] == "warning"
    assert "vision runs on the CPU" in driver["what"]
    assert findings(report, "token")[0]["state"] == "warning"


def test_doctor_fails_where_vision_would_be_refused(
    standin_nvml: StandinNvml, tmp_path: Path
) -> None:
    crowded = replace(GUIDE.cards[0], free_bytes=gib(0.5), processes=())
    standin_nvml.write(GUIDE.with_card(0, crowded).with_card(1, replace(crowded, uuid="GPU-2")))
    config = tmp_path / "mine.yaml"
    config.write_text("gpu_memory:\n  fallback_to_cpu: false\n", encoding="utf-8")
    status, report = doctor("--config", str(config), env=standin_nvml.environment())
    assert status == Exit.FAILED
    [placement] = findings(report, "placement")
    assert placement["state"] == "failure"
    assert "vision would be refused" in placement["what"]
