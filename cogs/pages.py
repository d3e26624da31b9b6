"""Long answers as pages, and questions that are asked before something that hurts."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import discord
from discord.ext import commands

from cogs import texts
from cogs.errors import IN_OUR_WORDS, in_our_words, report_defect
from cogs.host import prefix_of

log = logging.getLogger(__name__)

BUTTONS_SECONDS = 300.0

Interaction = discord.Interaction[Any]


async def answer_failure(interaction: Interaction, error: Exception, where: str) -> None:
    """Say what happened to whoever pressed a button; a defect goes to the log in full."""
    if isinstance(error, IN_OUR_WORDS):
        text = in_our_words(error, prefix_of(cast(commands.Bot, interaction.client)))
    else:
        text = report_defect(error, where)
    try:
        if interaction.response.is_done():
            await interaction.followup.send(text, ephemeral=True)
        else:
            await interaction.response.send_message(text, ephemeral=True)
    except discord.HTTPException as refused:
        log.warning("could not answer a failed button: %s", refused)


class OwnView(discord.ui.View):
    """Buttons for whoever asked; disabled when their time is over."""

    def __init__(self, author_id: int, timeout: float = BUTTONS_SECONDS) -> None:
        super().__init__(timeout=timeout)
        self.author_id = author_id
        self.message: discord.Message | discord.InteractionMessage | None = None

    async def interaction_check(self, interaction: Interaction, /) -> bool:
        if interaction.user.id == self.author_id:
            return True
        await interaction.response.send_message(texts.BUTTON_NOT_YOURS, ephemeral=True)
        return False

    async def on_error(
        self, interaction: Interaction, error: Exception, item: discord.ui.Item[Any], /
    ) -> None:
        await answer_failure(interaction, error, f"button {item!r}")

    async def on_timeout(self) -> None:
        for child in self.children:
            if isinstance(child, discord.ui.Button):
                child.disabled = True
        if self.message is not None:
            try:
                await self.message.edit(view=self)
            except discord.HTTPException as error:
                log.debug("a message with buttons is gone or can't be edited: %s", error)


class Pages(OwnView):
    """Embeds, one at a time."""

    def __init__(self, author_id: int, pages: Sequence[discord.Embed]) -> None:
        super().__init__(author_id)
        self.pages = tuple(pages)
        self.page = 0
        for number, embed in enumerate(self.pages, 1):
            if len(self.pages) > 1:
                footer = embed.footer.text
                words = texts.STATUS_PAGE.format(page=number, pages=len(self.pages))
                embed.set_footer(text=f"{footer} · {words}" if footer else words)
        self._arrange()

    def _arrange(self) -> None:
        self.back.disabled = self.page == 0
        self.forward.disabled = self.page >= len(self.pages) - 1

    @property
    def needed(self) -> bool:
        """Whether there is more than one page."""
        return len(self.pages) > 1

    @property
    def embed(self) -> discord.Embed:
        return self.pages[self.page]

    async def _turn(self, interaction: Interaction, by: int) -> None:
        self.page = max(0, min(len(self.pages) - 1, self.page + by))
        self._arrange()
        await interaction.response.edit_message(embed=self.embed, view=self)

    @discord.ui.button(label=texts.BUTTON_BACK, emoji="◀️", style=discord.ButtonStyle.secondary)
    async def back(self, interaction: Interaction, _button: discord.ui.Button[Any]) -> None:
        await self._turn(interaction, -1)

    @discord.ui.button(label=texts.BUTTON_NEXT, emoji="▶️", style=discord.ButtonStyle.secondary)
    async def forward(self, interaction: Interaction, _button: discord.ui.Button[Any]) -> None:
        await self._turn(interaction, 1)


class Confirm(OwnView):
    """Yes or no. ``act`` is called with the interaction, once, after a yes.

    ``refusal`` is asked again at the click: who lost the right meanwhile may not act any more.
    """

    def __init__(
        self,
        author_id: int,
        act: Callable[[Interaction], Awaitable[None]],
        refusal: Callable[[Interaction], Awaitable[str | None]],
        *,
        yes: str,
    ) -> None:
        super().__init__(author_id, timeout=60.0)
        self._act = act
        self._refusal = refusal
        self.go.label = yes

    async def interaction_check(self, interaction: Interaction, /) -> bool:
        if not await super().interaction_check(interaction):
            return False
        if (why := await self._refusal(interaction)) is not None:
            await interaction.response.send_message(texts.LOCKED.format(reason=why), ephemeral=True)
            return False
        return True

    @discord.ui.button(label=texts.BUTTON_YES, style=discord.ButtonStyle.danger)
    async def go(self, interaction: Interaction, _button: discord.ui.Button[Any]) -> None:
        if self.is_finished():
            return
        self.stop()
        await self._act(interaction)

    @discord.ui.button(label=texts.BUTTON_CANCEL, style=discord.ButtonStyle.secondary)
    async def cancel(self, interaction: Interaction, _button: discord.ui.Button[Any]) -> None:
        self.stop()
        await interaction.response.edit_message(content=texts.CANCELLED, view=None)
