"""The same bot without Discord: in a local chat page, and in this terminal."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import discord

from bot.cli.exits import Exit
from bot.client import DanzarBot
from bot.context import AppContext
from cogs.embeds import NEUTRAL

if TYPE_CHECKING:
    from bot.chat_page import ChatPage

log = logging.getLogger(__name__)

MISSING_PAGE = """\
The demo's chat page is not installed ({missing} is missing).
In Danzar's folder:
  pip install -e ".[demo]"
Or run the bot on Discord: set DISCORD_TOKEN and start Danzar again."""

HINTS = (
    ("gpu status", "what holds the GPU memory"),
    ("gpu vision", "where vision would run, and why"),
    ("vision look", "what the models see now"),
    ("vision status", "the models and their pace"),
    ("help", "everything else"),
)


async def run_demo(
    context: AppContext, stop: asyncio.Event, *, port: int, browser: bool, seconds: float | None
) -> Exit:
    """Serve the page until ``stop`` is set, the page is ended, or ``seconds`` have passed."""
    try:
        with _quiet("discord.state"):  # simcord's self-check makes a client without intents
            from bot.chat_page import PageUnavailable, open_chat_page
    except ImportError as error:
        log.error(MISSING_PAGE.format(missing=error.name or "simcord"))
        return Exit.DEMO
    bot = DanzarBot(context)
    terminal = Terminal()
    try:
        async with open_chat_page(bot, port=port, on_message=terminal.show) as page:
            terminal.print(banner(context, page.url))
            await welcome(bot, page.channel_id)
            terminal.mirror = True
            if browser and browser_available():
                threading.Thread(target=webbrowser.open, args=(page.url,), daemon=True).start()
            await _serve(page, terminal, stop, seconds)
    except PageUnavailable as error:
        where = f"port {port}" if port else "any port"
        log.error(
            "The page could not be served on %s: %s. Choose another with --port.", where, error
        )
        return Exit.DEMO
    terminal.print("Danzar has ended.")
    return Exit.OK


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    chatty = logging.getLogger(logger)
    chatty.disabled = True
    try:
        yield
    finally:
        chatty.disabled = False


async def _serve(
    page: ChatPage, terminal: Terminal, stop: asyncio.Event, seconds: float | None
) -> None:
    live = asyncio.create_task(page.keep_live())
    typed = asyncio.create_task(_answer_typed(page, terminal))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({live, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (live, typed, stopping):
            task.cancel()
        results = await asyncio.gather(live, typed, stopping, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _answer_typed(page: ChatPage, terminal: Terminal) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    read_lines_in_thread(lambda line: loop.call_soon_threadsafe(lines.put_nowait, line))
    while True:
        if line := (await lines.get()).strip():
            terminal.typed_here(line)
            await page.send(line)


def banner(context: AppContext, url: str) -> str:
    """What the terminal shows first."""
    prefix = context.settings.discord.prefix
    lines = [
        "",
        f"Danzar's chat page: {url}",
        "(It works on this machine only, and whoever has this address can use it.)",
        "",
        "Type in the page or here, for example:",
        *(f"  {prefix + command:<16} {what}" for command, what in HINTS),
        "",
        cards_sentence(context),
        "To run on Discord instead, set DISCORD_TOKEN. Ctrl-C ends the demo.",
        "",
    ]
    return "\n".join(lines)


def cards_sentence(context: AppContext) -> str:
    """Whose memory is shown."""
    manager = context.gpu_memory_manager
    if manager.source == "simulated":
        return (
            "The GPU readings are simulated: a rig with an LLM, a game and an idle card. "
            "The vision models really run, on the CPU."
        )
    names = ", ".join(d.label for d in manager.get_all_devices_memory_info().values())
    return f"The GPU readings are live: {names}." if names else "No GPU was found."


async def welcome(bot: DanzarBot, channel_id: int) -> None:
    """The bot's first message in the page."""
    channel = bot.get_channel(channel_id)
    if not isinstance(channel, discord.TextChannel):
        raise RuntimeError("the chat page has no text channel")
    prefix = bot.app_context.settings.discord.prefix
    commands = "\n".join(f"`{prefix}{command}` {what}" for command, what in HINTS)
    embed = discord.Embed(
        title="👋 Danzar is here",
        description=(
            f"Type a command below and press Enter:\n{commands}\n\n"
            "`/` lists the slash commands. “Viewing as” at the top switches to a guest, who may "
            "look but not control.\n\n"
            f"{cards_sentence(bot.app_context)}"
        ),
        colour=NEUTRAL,
    )
    await channel.send(embed=embed)


class Terminal:
    """Shows the conversation as plain text; never raises when the terminal is gone."""

    def __init__(self) -> None:
        self._expected: str | None = None
        self.mirror = False
        """Whether messages are shown: from the welcome on."""

    def print(self, text: str) -> None:
        """A line or more, whatever the terminal's encoding can't show replaced."""
        # What sys.stdout is now: while models load, a progress bar puts itself there.
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        try:
            print(text.encode(encoding, "replace").decode(encoding), flush=True)
        except (OSError, ValueError):
            log.debug("nobody reads the terminal any more")

    def typed_here(self, line: str) -> None:
        """The next message with this text needs no echo."""
        self._expected = line

    def show(self, payload: Mapping[str, Any]) -> None:
        """One message of the channel."""
        if not self.mirror:
            return
        author = payload.get("author") or {}
        text = message_text(payload)
        if not author.get("bot"):
            if text == self._expected:
                self._expected = None
                return
            self.print(f"{author.get('global_name') or author.get('username')}: {text}")
            return
        self.print(f"\n{text}\n")


def message_text(payload: Mapping[str, Any]) -> str:
    """A message's content, embeds and attachments as plain text."""
    blocks = [str(payload.get("content") or "")]
    for embed in payload.get("embeds") or ():
        blocks.append(str(embed.get("title") or ""))
        blocks.append(str(embed.get("description") or ""))
        for field in embed.get("fields") or ():
            value = "\n".join(f"  {line}" for line in str(field["value"]).splitlines())
            blocks.append(f"{field['name']}\n{value}")
        blocks.append(str((embed.get("footer") or {}).get("text") or ""))
    blocks += [f"[picture: {a['filename']}]" for a in payload.get("attachments") or ()]
    return without_markup("\n".join(block for block in blocks if block))


def without_markup(text: str) -> str:
    """Discord's markup taken out: bold, code marks, escapes."""
    return re.sub(r"\\([*_~|>`\\])", r"\1", re.sub(r"(?<!\\)(\*\*|`)", "", text))


def browser_available() -> bool:
    """Whether this looks like a desk with a screen: never start a text browser in a shell."""
    if os.environ.get("SSH_CONNECTION") or os.environ.get("CI") or not sys.stdout.isatty():
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def read_lines_in_thread(deliver: Callable[[str], object]) -> None:
    """Hand each line that is typed to ``deliver``, from a daemon thread, until the input ends.

    Reads the descriptor itself: a daemon thread inside ``sys.stdin`` would hold a lock that the
    interpreter needs at its end. As a file without a buffer, and not with ``os.read``, which
    loses what is not in the code page of a Windows console.
    """
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return  # no input at all: pythonw, or a test that captures it
    if _in_background(descriptor):
        return
    encoding = getattr(sys.stdin, "encoding", None) or "utf-8"

    def pump() -> None:
        rest = b""
        with suppress(OSError), open(descriptor, "rb", buffering=0, closefd=False) as typed:
            while block := typed.read(4096):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    try:
                        deliver(line.decode(encoding, "replace"))
                    except RuntimeError:
                        return  # the loop is closed: the demo has ended
                rest = rest[-65536:]

    threading.Thread(target=pump, name="terminal", daemon=True).start()


def _in_background(descriptor: int) -> bool:
    """A shell's background job that reads its terminal is stopped by the system: don't."""
    if not os.isatty(descriptor) or not hasattr(os, "tcgetpgrp"):
        return False
    try:
        return os.tcgetpgrp(descriptor) != os.getpgrp()
    except OSError:
        return False
