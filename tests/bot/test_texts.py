"""What people read is in ``cogs.texts``, and every template there can be filled."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest

from cogs import texts

COGS = Path(texts.__file__).parent
MODULES = sorted(
    path.relative_to(COGS).as_posix() for path in COGS.rglob("*.py") if path.name != "texts.py"
)
ELSEWHERE = {"brief", "help", "description", "command_attrs", "custom_id"}
"""Keywords that discord.py shows as a command's help, or nobody sees."""
NOT_SHOWN = {
    "answer_failure",
    "cast",
    "compile",
    "debug",
    "decided",
    "describe",
    "error",
    "exception",
    "info",
    "report_defect",
    "run_in_background",
    "warning",
}
"""Calls whose strings go to the log or the history, are a command's help, or no words at all."""
WORDS = re.compile(r"[a-z]{2,}[ ,;:]+[a-z]{2,}", re.I)


SHOWN = {"title", "label", "content", "text", "value"}
"""Keywords whose value is shown as it stands."""
SENDERS = {"send", "send_message", "Misuse", "PictureFailed"}


def literally(node: ast.AST) -> str:
    """A string that is written out and has letters in it, else nothing."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value if re.search(r"[a-z]{2,}", node.value, re.I) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(literally(part) for part in node.values)
    return ""


def sentences(tree: ast.AST) -> list[str]:
    """String literals with two words or more that a person might be shown."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node, ast.ClassDef):
            for part in node.body:  # its keywords are a heading of the help
                visit(part)
            return
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in NOT_SHOWN or name.endswith(("Error", "NothingToShow")):
                return
            # What a person is sent, or presses, is a text even if it is a single word.
            shown = [keyword.value for keyword in node.keywords if keyword.arg in SHOWN]
            shown += node.args if name in SENDERS else []
            found.extend(filter(None, map(literally, shown)))
        if isinstance(node, ast.keyword) and node.arg in ELSEWHERE:
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if WORDS.search(node.value):
                found.append(node.value)
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("name", MODULES)
def test_no_sentence_is_hidden_in_a_cog(name: str) -> None:
    tree = ast.parse((COGS / name).read_text(encoding="utf-8"))
    assert sentences(tree) == []


def test_the_check_itself_finds_sentences() -> None:
    assert sentences(ast.parse('send("It is off.")')) == ["It is off."]
    assert sentences(ast.parse('send(f"{x} is off now")')) == [" is off now"]
    assert sentences(ast.parse('log.info("It is off.")')) == []
    assert sentences(ast.parse('send("Off")')) == ["Off"]
    assert sentences(ast.parse('button(label="Refresh", emoji="🔄", key="refresh")')) == ["Refresh"]
    assert sentences(ast.parse('Embed(title=f"🔔 {name} off")')) == [" off"]
    assert sentences(ast.parse('f(url="attachment://frame.jpg", name="history.png")')) == []


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


def test_commands_are_named_with_the_prefix_in_use() -> None:
    bare = re.compile(
        r"(?<!\{prefix\})\b(gpu|vision) (status|look|start|stop|watch|ask|reset|alerts)\b"
    )
    for name, text in templates():
        assert not bare.search(text), (name, text)
        assert not re.search(r"`[!/]", text), (name, text)
