"""``danzar models``: fetch open_clip models, list what is there, check the hashes.

Fetching is this step and no other: the program itself never loads anything from the network.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.cli import hub
from bot.cli.exits import Exit
from bot.cli.hub import PullError
from bot.settings import Settings
from bot.vision.model_files import (
    CLIP_CONFIG,
    CLIP_WEIGHTS,
    MANIFEST,
    PULLED,
    FileRefused,
    check_hash,
    folder_name,
    locate,
    read_manifest,
    sha256_of,
)

CONFIG_BYTES = 1 << 20
KNOWN = {
    # open_clip's names and the hub's repositories with safetensors in open_clip's own layout.
    "ViT-B-32": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "ViT-B-16": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "ViT-L-14": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One model file, for ``list`` and ``check``."""

    path: Path
    size_bytes: int | None
    sha256: str
    problem: str


Fetch = Callable[[str, str, Path], Path]
"""(repository, file, folder) -> the file there. Raises ``PullError``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``danzar models``."""
    actions = parser.add_subparsers(dest="models_action", required=True, metavar="ACTION")
    pull = actions.add_parser("pull", help="fetch an open_clip model from the Hugging Face hub")
    pull.add_argument(
        "name",
        metavar="NAME",
        type=lambda text: _argument(repository_of, text),
        help=f"open_clip's name ({', '.join(KNOWN)}) or a repository such as "
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    )
    pull.add_argument(
        "--sha256",
        metavar="HASH",
        type=lambda text: _argument(digest_of, text),
        help="refuse the weights if they hash to something else",
    )
    for action, words in (
        ("list", "which models are there"),
        ("check", "compare every model file with its recorded SHA-256"),
    ):
        command = actions.add_parser(action, help=words)
        command.add_argument("--json", action="store_true", help="for programs")


def _argument(check: Callable[[str], str], text: str) -> str:
    """The text as it was typed, or an error of the command line."""
    try:
        check(text)
    except PullError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run one action; the exit status."""
    try:
        if args.models_action == "pull":
            folder = pull(args.name, args.sha256)
            print(f"{args.name} is in {folder}")
            if folder_name(args.name) != folder_name(settings.clip.model_name):
                print(f"set clip.model_name to {args.name} to use it")
            return Exit.OK
        rows = survey()
    except (PullError, FileRefused) as error:
        print(f"danzar models: {error}", file=sys.stderr)
        return Exit.FAILED
    except OSError as error:
        where = error.filename or locate(PULLED)
        print(
            f"danzar models: {where} can't be used ({error.strerror}); the models that are here "
            "are as they were. Make room there, or give this user the right to read and write it.",
            file=sys.stderr,
        )
        return Exit.FAILED
    _show(rows, as_json=args.json)
    bad = any(row.problem for row in rows)
    return Exit.FAILED if args.models_action == "check" and bad else Exit.OK


def pull(name: str, sha256: str | None = None, *, fetch: Fetch | None = None) -> Path:
    """Fetch a model into ``models/pulled``, record its hash, return its folder.

    What was there before stays until the new files are complete and checked.

    Raises:
        PullError: the hub can't be reached, has no such model, or the hash differs.
        FileRefused: the name is none.
        OSError: it can't be written.
    """
    wanted = digest_of(sha256) if sha256 is not None else None
    repository = repository_of(name)
    target = locate(PULLED) / folder_name(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=".pull-", ignore_cleanup_errors=True
    ) as scratch:
        folder = Path(scratch)
        get = fetch or hub.fetch
        config = get(repository, CLIP_CONFIG, folder)
        _check_config(config, name)
        weights = get(repository, CLIP_WEIGHTS, folder)
        found = sha256_of(weights)
        if wanted is not None and found != wanted:
            raise PullError(f"the weights hash to {found}, not to {wanted}; nothing was kept")
        complete = folder / "complete"
        complete.mkdir()
        shutil.move(config, complete / CLIP_CONFIG)
        shutil.move(weights, complete / CLIP_WEIGHTS)
        if target.exists():
            # As a whole: Windows refuses while a bot has a file in it open, and all stays.
            target.rename(folder / "before")
        complete.rename(target)
    _record(target, found, repository)
    return target


def digest_of(text: str) -> str:
    """A SHA-256 as hexadecimal digits. Raises ``PullError``."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise PullError("a SHA-256 has 64 hexadecimal digits")
    return text.lower()


def repository_of(name: str) -> str:
    """The hub's repository for a name. Raises ``PullError``."""
    known = KNOWN.get(name.replace("/", "-"))
    if known is not None:
        return known
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return name
    raise PullError(
        f"{name} is not known; take one of {', '.join(KNOWN)} or a repository OWNER/NAME with "
        f"{CLIP_CONFIG} and {CLIP_WEIGHTS}"
    )


def survey() -> list[Row]:
    """Every file that a manifest names, and whether it is as it should be."""
    rows: list[Row] = []
    for folder in (locate("models"), locate(PULLED)):
        manifest = folder / MANIFEST
        if not manifest.is_file():
            continue
        for name, entry in sorted(read_manifest(manifest).items()):
            path = folder / name
            problem = ""
            try:
                if path.is_file():
                    check_hash(path, entry["sha256"])
                else:
                    problem = "is missing"
            except FileRefused as error:
                problem = str(error)
            size = path.stat().st_size if path.is_file() else None
            rows.append(Row(path, size, entry["sha256"], problem))
    return rows


def _show(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        found = [
            {
                "path": str(row.path),
                "size_bytes": row.size_bytes,
                "sha256": row.sha256,
                "ok": not row.problem,
                "problem": row.problem or None,
            }
            for row in rows
        ]
        print(json.dumps(found, indent=2))
        return
    if not rows:
        print("no model is there; `danzar models pull ViT-B/32` fetches one")
    for row in rows:
        size = f"{row.size_bytes / 2**20:7.1f} MiB" if row.size_bytes is not None else "      - MiB"
        print(f"{'ok ' if not row.problem else 'BAD'} {size}  {row.path}")
        if row.problem:
            print(f"    {row.problem}")


def _record(target: Path, sha256: str, repository: str) -> None:
    manifest = target.parent / MANIFEST
    entries: dict[str, dict[str, Any]] = {}
    if manifest.is_file():
        entries = read_manifest(manifest)
    entries[f"{target.name}/{CLIP_WEIGHTS}"] = {"sha256": sha256, "repository": repository}
    fresh = manifest.with_suffix(".new")
    fresh.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    fresh.replace(manifest)


def _check_config(config: Path, name: str) -> None:
    try:
        if config.stat().st_size > CONFIG_BYTES:
            raise ValueError("too large")
        content = json.loads(config.read_text(encoding="utf-8"))
        ok = isinstance(content, dict) and isinstance(content.get("model_cfg"), dict)
    except (OSError, ValueError):
        ok = False
    if not ok:
        raise PullError(f"{name} has no usable {CLIP_CONFIG}: it is no open_clip model")
