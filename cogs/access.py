"""Who may control: one run-time check for text and slash commands alike.

``default_permissions`` would hide slash commands only, and not their subcommands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import discord
from discord.ext import commands

from cogs import texts
from cogs.host import host_of

if TYPE_CHECKING:
    from bot.settings import DiscordSettings

T = TypeVar("T")


class MayNotControl(commands.CheckFailure):
    """The message says which permission or role is missing."""


def may_control(
    settings: DiscordSettings, permissions: discord.Permissions, roles: list[discord.Role]
) -> bool:
    """Whether someone with these permissions and roles may control Danzar."""
    wanted = settings.control_permission
    if wanted == "everyone" or permissions.administrator or getattr(permissions, wanted):
        return True
    role = settings.control_role
    return role is not None and any(role in (r.name, str(r.id)) for r in roles)


def requirement(settings: DiscordSettings) -> str:
    """What ``may_control`` asks for, in words."""
    name = texts.PERMISSION_NAMES.get(settings.control_permission, settings.control_permission)
    words = texts.PERMISSION.format(name=name)
    if settings.control_role:
        role = discord.utils.escape_markdown(settings.control_role)
        words += texts.OR_ROLE.format(role=role)
    return words


def controls() -> Callable[[T], T]:
    """Decorate a command that changes what Danzar does.

    Outside of a server nobody has permissions: only the bot's owner may control there.
    The command raises ``MayNotControl`` for everybody else.
    """

    async def predicate(ctx: commands.Context[Any]) -> bool:
        why = await refusal(ctx.bot, ctx.author, ctx.permissions)
        if why is not None:
            raise MayNotControl(why)
        return True

    return commands.check(predicate)


async def refusal(
    bot: commands.Bot, person: discord.User | discord.Member, permissions: discord.Permissions
) -> str | None:
    """Why a person may not control, in words; ``None`` if they may."""
    settings = host_of(bot).settings.discord
    if not isinstance(person, discord.Member):
        if await bot.is_owner(person):
            return None
        return texts.OWNER_IN_DM
    if may_control(settings, permissions, person.roles):
        return None
    return texts.NEED.format(requirement=requirement(settings))


async def button_refusal(interaction: discord.Interaction[Any]) -> str | None:
    """``refusal`` for whoever pressed a button."""
    return await refusal(interaction.client, interaction.user, interaction.permissions)
