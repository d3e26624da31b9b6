"""CLIP's tokens without torch: byte pairs, merged by the table that open_clip ships.

open_clip's own tokenizer gives the same (tests/vision/test_tokens.py compares); importing it
imports torch, which the worker on the CPU does without.
"""

from __future__ import annotations

import functools
import gzip
import html
import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TABLE = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2
"""Tokens of CLIP's vocabulary less the single bytes and the two marks."""
END_OF_WORD = "</w>"
MARKS = ("<start_of_text>", "<end_of_text>")


class Tokens:
    """Phrases to rows of token numbers, ``length`` each."""

    def __init__(self, length: int, table: Path | None = None) -> None:
        """Raises ``OSError`` where open_clip's table is not installed."""
        import regex

        path = table or _table()
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
        merges = [tuple(line.split()) for line in lines[1 : MERGES + 1]]
        self._rank = {pair: i for i, pair in enumerate(merges)}
        self._letters = _letters()
        single = list(self._letters.values())
        words = [*single, *(c + END_OF_WORD for c in single), *map("".join, merges), *MARKS]
        self._number = {word: i for i, word in enumerate(words)}
        self._pieces = regex.compile(
            "|".join(map(regex.escape, MARKS))
            + r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
            regex.IGNORECASE,
        )
        self._length = length
        self._word = functools.lru_cache(4096)(self._merged)

    def __call__(self, phrases: Sequence[str]) -> np.ndarray:
        """N x length, int64; zeros after the end, what is too long is cut before it."""
        first, last = (self._number[mark] for mark in MARKS)
        rows = np.zeros((len(phrases), self._length), np.int64)
        for row, phrase in zip(rows, phrases, strict=True):
            inside = self._encoded(phrase)[: self._length - 2]
            row[: len(inside) + 2] = [first, *inside, last]
        return rows

    def _encoded(self, phrase: str) -> list[int]:
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(phrase)))
        text = " ".join(text.split()).lower()
        return [n for piece in self._pieces.findall(text) for n in self._word(piece)]

    def _merged(self, piece: str) -> tuple[int, ...]:
        if piece in MARKS:
            return (self._number[piece],)
        parts = [self._letters[byte] for byte in piece.encode("utf-8")]
        parts[-1] += END_OF_WORD
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: self._rank.get(pair, MERGES))
            if best not in self._rank:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return tuple(self._number[part] for part in parts)


def _table() -> Path:
    found = importlib.util.find_spec("open_clip")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / TABLE
        if path.is_file():
            return path
    raise FileNotFoundError(f"open_clip's {TABLE} is not installed")


def _letters() -> dict[int, str]:
    """A visible letter for each byte: Latin-1's own where it is one, else one from 256 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in visible}
    hidden = (byte for byte in range(256) if byte not in letters)
    letters.update({byte: chr(256 + i) for i, byte in enumerate(hidden)})
    return letters
