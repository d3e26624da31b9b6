"""Fetching models: nothing is kept that is not complete and checked."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bot.__main__ import main
from bot.cli import hub, pull
from bot.cli.exits import Exit
from bot.cli.pull import PullError
from bot.settings import Settings
from bot.vision.model_files import FileRefused
from tests.bot.running import ROOT

CONFIG = json.dumps({"model_cfg": {"embed_dim": 8}}).encode()
WEIGHTS = b"weights" * 100
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


class Hub:
    """A hub with two files, and a fault if wanted."""

    def __init__(self, config: bytes = CONFIG, fault: str = "") -> None:
        self.files = {"open_clip_config.json": config, "open_clip_model.safetensors": WEIGHTS}
        self.fault = fault
        self.asked: list[tuple[str, str]] = []

    def __call__(self, repository: str, file: str, folder: Path) -> Path:
        self.asked.append((repository, file))
        if file == self.fault:
            (folder / file).write_bytes(WEIGHTS[:10])
            raise PullError("the line broke")
        path = folder / file
        path.write_bytes(self.files[file])
        return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/pulled").mkdir(parents=True)
    return tmp_path / "models/pulled"


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    pull.add_arguments(parser)
    return pull.run(parser.parse_args(words), Settings())


def test_a_model_is_fetched_and_its_hash_recorded(folder: Path) -> None:
    hubs = Hub()
    found = pull.pull("ViT-B/32", DIGEST.upper(), fetch=hubs)
    assert found.resolve() == folder / "ViT-B-32"
    assert {repository for repository, _ in hubs.asked} == {"laion/CLIP-ViT-B-32-laion2B-s34B-b79K"}
    assert sorted(p.name for p in found.iterdir()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["ViT-B-32/open_clip_model.safetensors"]["sha256"] == DIGEST
    pull.pull("someone/another-clip", fetch=hubs)
    assert len(json.loads((folder / "manifest.json").read_text())) == 2


@pytest.mark.parametrize(
    ("hub", "sha256", "words"),
    [
        (Hub(fault="open_clip_config.json"), None, "the line broke"),
        (Hub(fault="open_clip_model.safetensors"), None, "the line broke"),
        (Hub(), "0" * 64, "nothing was kept"),
        (Hub(config=b"[]"), None, "no open_clip model"),
    ],
    ids=["no config", "half the weights", "another hash", "no config"],
)
def test_what_fails_leaves_the_model_that_was_there(
    folder: Path, hub: Hub, sha256: str | None, words: str
) -> None:
    pull.pull("ViT-B/32", fetch=Hub())
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(PullError, match=words):
        pull.pull("ViT-B/32", sha256, fetch=hub)
    after = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert after == before


def test_a_model_that_a_bot_has_open_is_replaced_as_a_whole_or_stays(folder: Path) -> None:
    pull.pull("ViT-B/32", fetch=Hub())
    config = folder / "ViT-B-32" / "open_clip_config.json"
    newer = Hub(json.dumps({"model_cfg": {"embed_dim": 16}}).encode())
    with (folder / "ViT-B-32" / "open_clip_model.safetensors").open("rb"):
        try:
            pull.pull("ViT-B/32", fetch=newer)
        except PermissionError:
            assert sys.platform == "win32"
            assert config.read_bytes() == CONFIG
        assert len(list(config.parent.iterdir())) == 2
    pull.pull("ViT-B/32", fetch=newer)
    assert config.read_bytes() != CONFIG


@pytest.mark.parametrize("name", ["just-a-name", "../../../etc", "a/b/c", "-rf"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises((PullError, FileRefused)):
        pull.pull(name, fetch=Hub())


def test_a_hash_that_is_none_is_refused() -> None:
    with pytest.raises(PullError, match="64 hexadecimal"):
        pull.pull("ViT-B/32", "abc", fetch=Hub())


@pytest.mark.parametrize(
    ("given", "words"),
    [(["nope"], "nope is not known"), (["ViT-B-32", "--sha256", "12"], "64 hexadecimal digits")],
)
def test_what_nobody_can_pull_is_an_error_of_the_command_line(
    given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["models", "pull", *given])
    assert ended.value.code == Exit.CONFIGURATION
    assert words in capsys.readouterr().err


def test_check_finds_a_changed_and_a_missing_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pull.pull("ViT-B/32", fetch=Hub())
    assert run("check") == Exit.OK
    assert capsys.readouterr().out.startswith("ok ")
    weights = folder / "ViT-B-32/open_clip_model.safetensors"
    weights.write_bytes(b"other")
    assert run("check") == Exit.FAILED
    assert "not the file it should be" in capsys.readouterr().out
    weights.unlink()
    assert run("check", "--json") == Exit.FAILED
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["ok"], row["problem"]) == (False, "is missing")
    assert run("list") == Exit.OK


def test_a_hub_that_can_not_be_reached_is_told_in_words_a_line_a_retry(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(hub, "WAITS", (0.0, 0.0))
    assert run("pull", "ViT-B/32") == Exit.FAILED
    fetching, first, second, end, *by_hand = capsys.readouterr().err.splitlines()
    assert fetching.startswith("fetching open_clip_config.json")
    assert first == second
    assert first.startswith("the hub does not answer (ConnectionError: no route to host); asking")
    assert "can't be reached (ConnectionError: no route to host); nothing was kept" in end
    *addresses, last = by_hand
    assert [address.rpartition("/")[2] for address in addresses] == list(Hub().files)
    assert "clip.model_path" in last
    assert list(folder.iterdir()) == []


BREAKS_MIDWAY = """
import logging
from pathlib import Path

import huggingface_hub.file_download
from bot.cli import hub
from bot.observability import logs


def download(*_, **__):
    library = logging.getLogger("huggingface_hub.utils._http")
    library.warning("'cut' thrown while requesting GET https://hub/file")
    library.warning("Retrying in 1s [Retry 1/5].")
    return "file"


huggingface_hub.hf_hub_download = download
logs.configure("INFO")
hub.fetch("someone/clip", "file", Path())
"""


def test_what_the_hubs_library_says_of_a_retry_is_said_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BREAKS_MIDWAY],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        check=True,
    )
    assert done.stderr.splitlines()[1:] == ["Retrying in 1s [Retry 1/5]."]


def test_a_folder_that_can_not_be_written_is_told_in_words(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.rmdir()
    folder.write_text("no folder")
    assert run("pull", "ViT-B/32") == Exit.FAILED
    error = capsys.readouterr().err
    assert error.startswith(f"danzar models: {Path('models/pulled')}")
    assert "the models that are here are as they were. Make room there" in error
