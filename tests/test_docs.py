"""The documents say what the program does: made pages are fresh, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bot.settings import Settings, parse
from bot.settings_docs import page

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").glob("*.md")]
)
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
