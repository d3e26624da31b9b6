"""The bot behind dpytest, as in ``tests/bot``."""

from tests.bot.conftest import probe, text_bot, vision

__all__ = ["probe", "text_bot", "vision"]
