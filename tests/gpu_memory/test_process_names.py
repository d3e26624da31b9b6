"""What people read as a process's name, and whether it is the LLM's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from danzar_gpu import GPUMemoryConfig
from danzar_gpu.probes.process_names import program_name, python_program

NOBODY = 2**22 + 7


@pytest.mark.parametrize(
    ("command", "folder", "name"),
    [
        ("python -m vllm.entrypoints.openai.api_server --port 1", "/srv", "vllm"),
        ("python -u -X dev train.py", "/home/ada", "train.py"),
        ("python main.py", "/home/ada/ComfyUI", "ComfyUI (main.py)"),
        ("python ./main.py", "/home/ada/ComfyUI/", "ComfyUI (main.py)"),
        ("python /opt/tabbyAPI/main.py", "/", "tabbyAPI (main.py)"),
        (
            r"python.exe C:\text-generation-webui\server.py",
            "C:\\",
            "text-generation-webui (server.py)",
        ),
        ("python ../main.py", "/home/ada/tabbyAPI/tools", "tabbyAPI (main.py)"),
        ("python src/main.py", "/home/ada/tabbyAPI", "tabbyAPI (main.py)"),
        ("python src/../main.py", "/home/ada/tabbyAPI", "tabbyAPI (main.py)"),
        ("python ../main.py", "", "main.py"),
        ("python server.py", "", "server.py"),
        ("python server.py", "/", "server.py"),
        ("python -c import\x00torch", "/home/ada", ""),
        ("python", "/home/ada", ""),
    ],
)
def test_what_an_interpreter_runs(command: str, folder: str, name: str) -> None:
    assert python_program(command.split(" "), folder) == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/local/bin/ollama runner --model x", "ollama"),
        (r"C:\Users\Ada L\AppData\Local\Programs\Ollama\ollama.exe", "ollama.exe"),
        (r"D:\Games\Pythonia\pythonia.exe", "pythonia.exe"),
        ("/usr/bin/python3.12", "python3.12"),
        (r"C:\Python313\python.exe", "python.exe"),
        ("", ""),
    ],
)
def test_the_drivers_word_where_the_process_is_not_to_be_seen(path: str, name: str) -> None:
    assert program_name(NOBODY, path) == name


@pytest.mark.parametrize(
    ("name", "is_llm"),
    [
        ("tabbyAPI (main.py)", True),
        ("text-generation-webui-main (server.py)", True),
        ("text-generation-webui-3.9 (server.py)", True),
        ("jan-v0 (main.py)", True),
        ("jan-2026 (main.py)", False),
        ("vllm", True),
        ("ComfyUI (main.py)", False),
        ("vllm-bench (main.py)", False),
        ("ollama-discord-bot (app.py)", False),
        ("jan-2026-report (main.py)", False),
    ],
)
def test_a_folder_is_the_llms_by_its_whole_name(name: str, is_llm: bool) -> None:
    assert GPUMemoryConfig().is_llm_process(name) == is_llm


def test_a_script_that_a_person_named_is_the_llm_wherever_it_lies() -> None:
    config = GPUMemoryConfig(main_llm_processes=("server.py",))
    assert config.is_llm_process("text-generation-webui (server.py)")
    assert config.is_llm_process("server.py")
    assert not config.is_llm_process("web (app.py)")


def test_a_script_of_a_frequent_name_is_called_by_its_folder_and_known_as_the_llm(
    tmp_path: Path,
) -> None:
    script = tmp_path / "text-generation-webui" / "server.py"
    script.parent.mkdir()
    script.write_text("print(flush=True)\ninput()\n", encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, script.name],
        cwd=script.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        for path in ("", sys.executable):
            name = program_name(program.pid, path)
            assert name == "text-generation-webui (server.py)"
            assert GPUMemoryConfig().is_llm_process(name)
        program.kill()
