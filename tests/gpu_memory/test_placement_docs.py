"""The worked examples of docs/placement.md say what the code does."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest

from tests import docs_rig

PAGE = Path(__file__).parents[2] / "docs" / "placement.md"


def test_the_worked_examples_are_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docs_rig", docs_rig)
    outcome = doctest.testfile(str(PAGE), module_relative=False)
    assert outcome.attempted >= 6
    assert outcome.failed == 0
