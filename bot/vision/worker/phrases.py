"""Embeddings of phrases, each computed once: kept in memory, and on disk by the phrase's hash."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

KEPT = 512
"""People may ask for any phrase; those that were not asked for longest are forgotten."""


class Phrases:
    """What is known for one model. ``file`` holds it from run to run; phrases are not in it."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file.with_suffix(".npz") if file is not None else None
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()
        if self._file is None:
            return
        # A damaged file costs the time to compute it anew.
        with (
            contextlib.suppress(OSError, ValueError, KeyError, EOFError, BadZipFile),
            np.load(self._file, allow_pickle=False) as kept,
        ):
            rows = zip(kept["hashes"].tolist(), kept["embeddings"], strict=True)
            self._known.update((str(key), row.astype(np.float32)) for key, row in rows)

    def embedded(
        self, phrases: Sequence[str], compute: Callable[[Sequence[str]], np.ndarray]
    ) -> np.ndarray:
        """One row a phrase, float32; what is not known is computed and kept."""
        keys = {phrase: _key(phrase) for phrase in phrases}
        missing = [phrase for phrase, key in keys.items() if key not in self._known]
        if missing:
            for phrase, row in zip(missing, compute(missing), strict=True):
                self._known[keys[phrase]] = np.asarray(row, np.float32)
        for key in keys.values():
            self._known.move_to_end(key)
        rows = np.stack([self._known[keys[phrase]] for phrase in phrases])
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        if missing:
            self._save()
        return rows

    def _save(self) -> None:
        if self._file is None:
            return
        # Nothing depends on it: a full or read-only disk costs the time to compute it anew.
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(prefix=".phrases-", dir=self._file.parent)
            try:
                with os.fdopen(number, "wb") as file:
                    np.savez(
                        file, hashes=list(self._known), embeddings=np.stack([*self._known.values()])
                    )
                Path(name).replace(self._file)
            finally:
                Path(name).unlink(missing_ok=True)


def _key(phrase: str) -> str:
    return hashlib.sha256(phrase.encode("utf-8", "surrogatepass")).hexdigest()
