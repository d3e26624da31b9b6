"""The documents say what the program does: made pages are fresh, links lead somewhere."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import discord
import pytest
import yaml

from bot.cli.command_line import build_parser
from bot.settings import Settings, parse
from bot.settings_docs import page
from tests.standin import GUIDE, StandinNvml

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").glob("*.md")]
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_configurations_page_is_fresh() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == page(), "run `make docs`"


def test_every_key_is_explained() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    keys = [
        key
        for field in Settings.model_fields.values()
        for key in field.annotation.model_fields  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    ]
    assert [row.split("`")[1] for row in rows] == keys
    for row in rows:
        _, _, kind, default, meaning, _ = re.split(r"(?<!\\)\|", row)
        assert kind.strip() and default.strip(), row
        assert len(meaning.split()) >= 3, row


def test_the_pages_defaults_are_the_programs() -> None:
    section = ""
    for line in page().splitlines():
        if line.startswith("## "):
            section = line.split("`")[1]
        if line.startswith("| `"):
            _, key, _, default, *_ = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
            if not default.startswith("`"):
                continue
            value = getattr(getattr(Settings(), section), key.strip("`"))
            stated = yaml.safe_load(default.strip("`"))
            assert (list(value) if isinstance(value, tuple) else value) == stated, line


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_configuration_that_a_page_shows_is_valid(path: Path) -> None:
    for block in YAML_BLOCK.findall(path.read_text(encoding="utf-8")):
        parse(block, path)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://", "#")):
            continue
        assert (path.parent / target.split("#")[0]).exists(), f"{path.name}: {target}"


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_library_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cuda:1: Device 1 (RTX 4070 SUPER) available")


def test_the_readmes_status_is_what_the_program_prints(standin_nvml: StandinNvml) -> None:
    (shown,) = re.findall(r"^```\n(🎯.*?)^```", README, re.MULTILINE | re.DOTALL)
    standin_nvml.write(GUIDE)
    done = subprocess.run(
        [sys.executable, "-m", "bot", "status"],
        cwd=ROOT,
        env=standin_nvml.environment(PYTHONIOENCODING="utf-8"),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(shown)


def test_the_readmes_refusal_is_what_the_program_says() -> None:
    (shown,) = re.findall(r"^config/vision_config\.yaml:.*$", README, re.MULTILINE)
    assert shown in page()


@pytest.mark.parametrize("line", re.findall(r"^\.venv/bin/danzar ([^#\n]+)", README, re.MULTILINE))
def test_the_readmes_command_lines_are_understood(line: str) -> None:
    words = line.split()
    assert build_parser(words).parse_args(words).command == words[0]


def commands_in_the_readme() -> set[str]:
    """Those of its table, `!gpu monitor`, `log` meaning `gpu log`, without their arguments."""
    found: set[str] = set()
    for cell in re.findall(r"^\| (`!.+?) \|", README, re.MULTILINE):
        group = ""
        for code in re.findall(r"`([^`]+)`", cell):
            words = code.lstrip("!").split()
            if code.startswith("!"):
                group = words[0]
                found.add(" ".join(words[:2]))
            else:
                found.add(f"{group} {words[0]}")
    return found


def test_the_readme_names_the_commands_that_there_are() -> None:
    cogs = (ROOT / "cogs").glob("*.py")
    words = {
        word
        for cog in cogs
        for word in re.findall(r'(?:command|group)\(\s*name="(\w+)"', cog.read_text("utf-8"))
    } | {"help"}
    named = commands_in_the_readme()
    assert {word for command in named for word in command.split()} <= words
    assert {"gpu status", "gpu vision", "gpu monitor", "gpu log", "vision look"} <= named


def test_the_invitation_asks_for_what_the_bot_needs_and_no_more() -> None:
    (value,) = re.findall(r"permissions=(\d+)", README)
    needed = discord.Permissions(
        view_channel=True,
        send_messages=True,
        embed_links=True,
        attach_files=True,
        read_message_history=True,
    )
    assert int(value) == needed.value


def test_the_licence_is_the_whole_agpl() -> None:
    # The Free Software Foundation's own text, line ends aside.
    text = (ROOT / "LICENSE").read_bytes().replace(b"\r\n", b"\n")
    known = "0d96a4ff68ad6d4b6f1f30f713b18d5184912ba8dd389f86aa7710db079abcb0"
    assert hashlib.sha256(text).hexdigest() == known
