"""The phrases that somebody chose in chat: kept over a restart, shown with who and when."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from bot.chat_state import ChatState, Entry

log = logging.getLogger(__name__)

SECTION, KEY = "phrases", "chosen"


@dataclass(frozen=True, slots=True)
class ChosenPhrases:
    """What CLIP chooses from instead of the configuration's phrases."""

    phrases: tuple[str, ...]
    who: str
    at: float
    """Unix time."""

    @property
    def entry(self) -> Entry:
        return {"phrases": list(self.phrases), "who": self.who, "at": self.at}


def recalled(chats: ChatState) -> ChosenPhrases | None:
    """What an earlier run was told; ``None`` if nothing, or if it makes no sense."""
    entry = chats.section(SECTION).get(KEY)
    if entry is None:
        return None
    try:
        phrases = tuple(map(str, entry["phrases"]))
        if len(phrases) < 2 or not all(phrases):
            raise ValueError(f"{phrases!r} are no phrases to choose from")
        return ChosenPhrases(phrases, str(entry["who"]), float(entry["at"]))
    except (KeyError, TypeError, ValueError) as error:
        log.warning("the phrases that were chosen in chat make no sense: %s", error)
        return None
