"""What people read is in ``cogs.texts``, and every template there can be filled."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest

from cogs import texts

COGS = Path(texts.__file__).parent
IN_ONE_PLACE = (
    "about.py",
    "access.py",
    "errors.py",
    "owner.py",
    "vision.py",
    "vision_alerts.py",
    "vision_embeds.py",
)
ELSEWHERE = {"brief", "help", "description", "command_attrs"}
"""Keywords that discord.py shows as a command's help."""
LOGGERS = {"debug", "info", "warning", "error", "exception", "report_defect", "run_in_background"}


def sentences(tree: ast.AST) -> list[str]:
    """String literals with two words or more that a person might be shown."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in LOGGERS or name == "describe" or name.endswith(("Error", "NothingToShow")):
                return
        if isinstance(node, ast.keyword) and node.arg in ELSEWHERE:
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.search(r"[a-z]{2,}[ ,;:]+[a-z]{2,}", node.value, re.I):
                found.append(node.value)
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("name", IN_ONE_PLACE)
def test_no_sentence_is_hidden_in_a_cog(name: str) -> None:
    tree = ast.parse((COGS / name).read_text(encoding="utf-8"))
    assert sentences(tree) == []


def test_the_check_itself_finds_sentences() -> None:
    assert sentences(ast.parse('send("It is off.")')) == ["It is off."]
    assert sentences(ast.parse('send(f"{x} is off now")')) == [" is off now"]
    assert sentences(ast.parse('log.info("It is off.")')) == []


def templates() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in vars(texts).items():
        if name.isupper():
            values = value.values() if isinstance(value, dict) else [value]
            found += [(name, text) for text in values]
    return found


def test_every_text_is_used_and_every_field_has_a_name() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in COGS.rglob("*.py"))
    for name, text in templates():
        assert f"texts.{name}" in sources, f"{name} is used nowhere"
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
        assert all(field.isidentifier() for field in fields), name
