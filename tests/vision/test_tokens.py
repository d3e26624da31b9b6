"""Our tokens against open_clip's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.vision.scene import CONCEPTS
from bot.vision.worker.tokens import Tokens

PHRASES = (
    *CONCEPTS,
    "",
    "A photo of a CAT, isn't it?",
    "banana ananas anananas aaaaaaaa",
    "Größe 12345 — naïve café",
    "日本語のゲーム 🎮🎮 ok",
    "&lt;b&gt; tags &amp;amp; such",
    "<start_of_text> hidden <end_of_text>",
    "we'll they're I'd 've  tabs\tand\nlines",
    "word " * 100,
)


@pytest.fixture(scope="module")
def ours() -> Tokens:
    return Tokens(32)


def test_known_phrases_become_the_same_tokens(ours: Tokens) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    theirs = SimpleTokenizer(context_length=32)(list(PHRASES)).numpy()
    assert np.array_equal(ours(PHRASES), theirs)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_text_becomes_the_same_tokens(ours: Tokens, phrases: list[str]) -> None:
    from open_clip.tokenizer import tokenize

    assert np.array_equal(ours(phrases), tokenize(phrases, context_length=32).numpy())
