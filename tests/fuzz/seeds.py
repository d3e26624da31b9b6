"""Where a fuzzer begins: what each target reads when all is well."""

from __future__ import annotations

import io
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def seeds(target: str) -> list[bytes]:
    """Well-formed inputs of a target, and some that once were none."""
    if target == "configuration":
        return [(ROOT / "config" / "vision_config.yaml").read_bytes(), b"a: &a [*a]", b"- 1\n- {"]
    if target == "trace":
        found = sorted((ROOT / "benchmarks" / "contention").rglob("*.yaml"))
        return [path.read_bytes() for path in found[:4]] or [b"rig: []\n"]
    if target == "frame":
        return _pictures()
    if target == "messages":
        return _messages()
    if target == "chats":
        return [
            b'{"panels": {"1": {"message": 2}}}',
            b"[" * 100_000,
            b'{"a": {"b": []}}',
            b'{"panels": {"\\ud800": {"a": 1}}}',
        ]
    if target == "history":
        return [b"SQLite format 3\x00" + bytes(100), b"", *_databases()]
    return [
        b"1,5 GB",
        b"what does the **boss** do?",
        b"GPU-aaa,0,-1",
        "\ud83d\ude00".encode("utf-8", "surrogatepass"),
    ]


def _pictures() -> list[bytes]:
    from PIL import Image

    found: list[bytes] = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        file = io.BytesIO()
        Image.new("RGB", (8, 6), (200, 30, 60)).save(file, kind)
        found.append(file.getvalue())
    return found


def _databases() -> list[bytes]:
    """SQLite files of other programs, and one of a later Danzar; small, as a fuzzer likes them."""
    import sqlite3
    import tempfile

    found: list[bytes] = []
    for statement in ("PRAGMA user_version = 99", "CREATE TABLE events (x)"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "other.sqlite3"
            database = sqlite3.connect(path)
            database.executescript(f"PRAGMA page_size = 512; {statement}; CREATE TABLE other (y)")
            database.close()
            found.append(path.read_bytes())
    # SQLite's words about it are no UTF-8.
    found.append(found[-1].replace(b"tableotherother", b"tableot\xe8erother"))
    return found


def _messages() -> list[bytes]:
    from bot.vision.reports import PipelineCounts
    from bot.vision.worker.protocol import (
        HEADER,
        Ping,
        Pong,
        ReplyEnvelope,
        RequestEnvelope,
        SetConcepts,
        encode,
    )

    pong = Pong(busy_seconds=0.0, counts=PipelineCounts(), held=(), resident_bytes=1)
    whole = [
        encode(RequestEnvelope(id=1, body=Ping())),
        encode(RequestEnvelope(id=2, body=SetConcepts(concepts=("a", "b")))),
        encode(ReplyEnvelope(id=1, body=pong)),
    ]
    return [*whole, *(message[HEADER.size :] for message in whole), bytes(HEADER.size)]
