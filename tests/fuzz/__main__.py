"""Coverage-guided fuzzing with atheris: ``python -m tests.fuzz TARGET --seconds 300``.

A finding is printed with its traceback and written to ``crash-...`` in the working folder; put it
into ``tests/fuzz/seeds.py`` when it is mended. Needs the extra ``fuzz`` (Linux).
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.seeds import seeds
from tests.fuzz.structure import mutated

NAMES = (
    "chats",
    "configuration",
    "frame",
    "history",
    "messages",
    "process_name",
    "question",
    "trace",
)
DOCUMENTS = frozenset({"chats", "configuration", "messages", "trace"})


def main() -> None:
    atheris: Any = importlib.import_module("atheris")
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=300)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    # What a target needs is imported when it runs: let it run once while imports are instrumented.
    with atheris.instrument_imports(include=["bot", "danzar_gpu", "cogs"]):
        from tests.fuzz.targets import TARGETS

        for seed in seeds(arguments.target):
            TARGETS[arguments.target](seed)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds(arguments.target)):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        documents = seeds(arguments.target)
        options = [
            f"-max_total_time={arguments.seconds}",
            "-timeout=20",
            "-max_len=8192",
            "-rss_limit_mb=2048",
        ]

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            random = Random(seed)
            # Pydantic's core gives no coverage: without the seeds nothing but a few bytes is kept.
            document = data if random.random() < 0.5 else random.choice(documents)
            changed = mutated(document, random) if random.random() < 0.7 else None
            if changed is None or len(changed) > most:
                return atheris.Mutate(data, most)
            return changed

        atheris.Setup(
            [sys.argv[0], *options, corpus],
            TARGETS[arguments.target],
            custom_mutator=mutate if arguments.target in DOCUMENTS else None,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
