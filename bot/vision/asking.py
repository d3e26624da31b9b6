"""Any phrase against the newest frame: what is asked, and what the number means.

For a phrase p and a frame f, CLIP's logit is l(p) = scale x cos(text(p), picture(f)). The
probability that is shown is that of p in a choice between p and the neutral phrase that fits the
frame best::

    P(p) = 1 / (1 + exp(max over b in BACKGROUND of l(b) - l(p)))

so 50% means "no better than saying something that is always half true", and neither other phrases
nor the number of neutral ones change it. Measured with the shipped model on 150 rendered screens
(seeds from 700000 on), "probably" or better was said of 79% of the boss fights and 12% of the rest,
and of 88% of the screens with low health and 3% of the rest. The mean instead of the maximum says
yes too often (17% and 5% of the rest); the sum hardly ever says it (24% and 25% of those where it
is true), for which it has the lower Brier score. It is still a guess: the shipped model says
"probably" of half the screens without a minimap, and knows nothing of forests; CLIP reads words and
looks at one picture; it doesn't understand "not", counts, or who does what to whom.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bot.vision.reports import FrameReport

BACKGROUND = (
    "a video game",
    "a screenshot of a video game",
    "normal gameplay",
    "a game menu",
    "a screen",
    "a picture",
    "something else",
    "nothing in particular",
)
MAX_CHARACTERS = 200
"""CLIP reads 77 tokens; more than this it would cut anyway."""

Certainty = Literal["yes", "likely", "unclear", "unlikely", "no"]
LIMITS: tuple[tuple[float, Certainty], ...] = (
    (0.85, "yes"),
    (0.65, "likely"),
    (0.35, "unclear"),
    (0.15, "unlikely"),
)


@dataclass(frozen=True, slots=True)
class Scores:
    """Phrases against one frame."""

    probabilities: Mapping[str, float]
    """By phrase, 0 to 1."""
    report: FrameReport
    """What else was said of that frame."""
    device: str
    milliseconds: float


def probability(log_odds: float) -> float:
    """The logistic function, without overflow."""
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    small = math.exp(log_odds)
    return small / (1.0 + small)


def certainty(probability: float) -> Certainty:
    """How sure one may be: from 35% to 65%, as people are shown it, nothing can be said."""
    for least, word in LIMITS:
        if round(probability, 2) >= least:
            return word
    return "no"


_QUOTES = "\"'“”„‚‘’«» "
_PRESENCE = re.compile(r"(is|are|was|were) (there|this|that|it|these)\b\s*", re.I)
_STATE = re.compile(
    r"(?P<verb>is|are|was|were) (?P<subject>(?:the |a |an |my |our )?\S+) (?P<rest>.+)", re.I
)
_DOING = re.compile(r"(do|does|did|can|has|have) ", re.I)


def phrase_of(question: str) -> str:
    """What CLIP is given: ``Is the boss near death?`` becomes ``the boss is near death``.

    CLIP was trained on captions, not on questions. Quotes and line ends go, too; the result may be
    empty.
    """
    text = " ".join(question.split()).strip(_QUOTES)
    text = text.rstrip("?!. ").strip(_QUOTES)
    if found := _PRESENCE.match(text):
        text = text[found.end() :]
    elif found := _STATE.match(text):
        text = " ".join((found["subject"], found["verb"].lower(), found["rest"]))
    elif question.rstrip(_QUOTES).endswith("?") and (found := _DOING.match(text)):
        text = text[found.end() :]
    return text[:MAX_CHARACTERS].strip()
