"""The examples of docs/extending.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_examples_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    program = tmp_path / "examples.py"
    program.write_text("\n\n".join(blocks) + "\nprint('done')\n", encoding="utf-8")
    shown = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=300
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.endswith("done\n")


def test_what_the_page_names_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, path in (
        ("FrameSource", "bot/vision/frames.py"),
        ("_make", "bot/vision/sources/__init__.py"),
        ("MAX_PIXELS", "bot/vision/frames.py"),
        ("VisionModel", "bot/vision/worker/models.py"),
        ("load_model", "bot/vision/worker/vision_worker.py"),
        ("ModelName", "bot/vision/worker/protocol.py"),
        ("ModelService", "bot/vision/service.py"),
        ("_deal_with", "bot/vision/worker/analysis.py"),
        ("_services", "bot/vision/pipeline.py"),
        ("check_hash", "bot/vision/model_files.py"),
    ):
        assert name in text
        assert name in (PAGE.parents[1] / path).read_text(encoding="utf-8"), path
