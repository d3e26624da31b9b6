"""The command line. Light: each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

# First: it makes what follows quicker.
from bot import quick_start  # isort: split

from bot import settings as configuration
from bot.cli.arguments import named_path
from bot.cli.exits import Exit
from bot.identity import version

if TYPE_CHECKING:
    from bot.context import AppContext
    from danzar_gpu.probes import MemoryProbe, ProbeName

log = logging.getLogger("bot")

OBSERVED_AFTER_SECONDS = 0.5
PROBES = ("auto", "nvml", "torch", "simulated")

EPILOG = """\
examples:
  danzar                          with DISCORD_TOKEN set: on Discord; without: the demo
  danzar demo                     the bot in a local chat page, no token needed
  danzar status                   the GPU memory, once
  danzar doctor                   what would stop the bot, and how to mend it
  danzar watch --source screen    what vision sees, without Discord

exit status:
  0 all well   1 it ran and failed   2 configuration or command line   3 token
  4 Discord intents   5 the demo's page   6 GPU memory can't be read as asked
  7 another Danzar uses the same data folder   130 Ctrl-C
"""


def build_parser(asked: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The whole command line. ``asked`` are the words given: commands with options of their own
    modules are imported only when they are named."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--config",
        metavar="PATH",
        type=named_path,
        default=argparse.SUPPRESS,
        help=f"the configuration (default: {configuration.DEFAULT_PATH})",
    )
    shared.add_argument(
        "--probe",
        choices=PROBES,
        default=argparse.SUPPRESS,
        help="how GPU memory is read (default: auto; simulated is a scripted rig)",
    )
    parser = argparse.ArgumentParser(
        prog="danzar",
        parents=[shared],
        description="A Discord bot that watches a game with local vision models and never takes "
        "the GPU memory that the local LLM needs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"danzar {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def add(name: str, words: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=words, description=words, parents=[shared])

    run = add("run", "the bot on Discord with a token, else the demo (the default)")
    demo = add("demo", "the bot in a local chat page: no token, no GPU needed")
    for command in (run, demo):
        _add_demo_options(command)
    status = add("status", "the GPU memory of all devices, once")
    status.add_argument("--json", action="store_true", help="for programs")
    doctor = add("doctor", "what would stop the bot from working, and how to mend it")
    doctor.add_argument("--json", action="store_true", help="for programs")
    watch = add("watch", "what vision sees, without Discord")
    if "watch" in asked:
        from bot.cli import watch as watching

        watching.add_arguments(watch)
    models = add("models", "pull, list and check models")
    if "models" in asked:
        from bot.cli import pull

        pull.add_arguments(models)
    capture = add("capture", "send this machine's screen to a bot in a container or elsewhere")
    if "capture" in asked:
        from bot.remote_capture import sender as capture_sender

        capture_sender.add_arguments(capture)
    simulate = add("simulate", "play a trace of programs and models through placement policies")
    if "simulate" in asked:
        from bot.cli import simulate as simulating

        simulating.add_arguments(simulate)
    health = add("health", "ask the running bot whether it is well; for a container's health check")
    if "health" in asked:
        from bot.cli import health_check

        health_check.add_arguments(health)
    bench = add("bench", "what vision takes on this machine, and what to change (a minute)")
    if "bench" in asked:
        from bot.cli import bench as benching

        benching.add_arguments(bench)
    profile = add("profile", "what each model takes and how fast it is, as measured here")
    if "profile" in asked:
        from bot import profile as profiling

        profiling.add_arguments(profile)
    config = add("config", "check the configuration, or show it with all defaults")
    config.add_argument(
        "action", metavar="check|show", choices=("check", "show"), help="what to do"
    )
    config.add_argument(
        "file", nargs="?", type=named_path, help="the configuration, in place of that of --config"
    )
    return parser


def _add_demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port", type=_port, default=0, help="of the chat page (default: any that is free)"
    )
    parser.add_argument("--no-browser", action="store_true", help="don't open a browser")
    parser.add_argument(
        "--seconds", type=_seconds, metavar="N", help="end by itself after N seconds"
    )


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port between 0 and 65535")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if 0 < seconds < 1e9:
        return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status (``bot.cli.exits.Exit``)."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(words)
    args = parser.parse_args(words)
    if args.command is None:
        args = parser.parse_args([*words, "run"])
    path = getattr(args, "file", None) or getattr(args, "config", configuration.DEFAULT_PATH)
    probe: ProbeName = getattr(args, "probe", "auto")
    args.probe = probe
    _unicode_output()
    if args.command == "doctor":
        # A broken configuration is one of the things that it reports.
        from bot.cli import doctor

        return doctor.run(path, probe, as_json=args.json)
    if args.command == "health":
        from bot.cli import health_check

        return health_check.run(args, path)
    try:
        settings = configuration.load(path)
    except configuration.SettingsError as error:
        print(error, file=sys.stderr)
        print(
            "\nNothing was started. Mend what is named above; docs/configuration.md has every key.",
            file=sys.stderr,
        )
        return Exit.CONFIGURATION
    return _dispatch(args, settings, path)


def _dispatch(args: argparse.Namespace, settings: configuration.Settings, path: Path) -> int:
    if args.command == "config":
        return _config(args.action, settings, path, args.probe)
    if args.command == "status":
        from bot.cli import status

        return status.run(settings, args.probe, as_json=args.json)
    if args.command == "watch":
        from bot.cli import watch

        _configure_logging(settings)
        return watch.run(args, settings)
    if args.command == "models":
        from bot.cli import pull

        _configure_logging(settings)
        return pull.run(args, settings)
    if args.command == "capture":
        from bot.remote_capture import sender as capture_sender

        return capture_sender.run(args, settings)
    if args.command == "simulate":
        from bot.cli import simulate

        return simulate.run(args, settings)
    if args.command == "bench":
        from bot.cli import bench

        _configure_logging(settings)
        return bench.run(args, settings)
    if args.command == "profile":
        from bot import profile

        return profile.run(args, settings)
    return _run_bot(args, settings, path)


def _config(action: str, settings: configuration.Settings, path: Path, probe: ProbeName) -> int:
    if action == "show":
        import yaml

        print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), end="")
        return Exit.OK
    from bot.cli import config_check

    return config_check.run(settings, path, probe)


def _run_bot(args: argparse.Namespace, settings: configuration.Settings, path: Path) -> int:
    token = None
    if args.command == "run":
        try:
            token = configuration.discord_token()
        except configuration.TokenError as error:
            print(f"{error}\nNothing was started.", file=sys.stderr)
            return Exit.TOKEN
        # No child process has any use for it.
        os.environ.pop("DISCORD_TOKEN", None)
    _configure_logging(settings, token)
    from bot.lock import AlreadyRunning

    try:
        return asyncio.run(_serve(args, settings, token, path))
    except AlreadyRunning as error:
        log.error("%s", error)
        return Exit.LOCKED
    except Exception:
        # Here and not by Python itself: the log takes secrets out of the traceback.
        log.exception("Danzar failed")
        return Exit.FAILED


async def _serve(
    args: argparse.Namespace, settings: configuration.Settings, token: str | None, path: Path
) -> Exit:
    from bot.context import open_context
    from bot.reload import reload_or_say_why
    from bot.stopping import reload_on_hangup, stop_on_signals
    from danzar_gpu.probes import ProbeError

    stop = asyncio.Event()
    with stop_on_signals(stop):
        try:
            probe = await _open_probe(args.probe, demo=token is None)
        except ProbeError as error:
            log.error("%s", error)
            return Exit.PROBE
        demo = token is None
        async with open_context(settings, probe, demo=demo, config_path=path) as context:

            def reload() -> None:
                work = reload_or_say_why(context, "SIGHUP")
                context.run_in_background(work, "reading the configuration again")

            context.run_in_background(_observe(context), "health and metrics")
            quick_start.over()
            with reload_on_hangup(stop, reload):
                return await _talk(args, context, token, stop)


async def _observe(context: AppContext) -> None:
    """Serve health and metrics, a moment after the start: what they import is not the bot's."""
    if not context.settings.observability.enabled:
        return
    await asyncio.sleep(OBSERVED_AFTER_SECONDS)
    health = await asyncio.to_thread(import_module, "bot.observability.health")
    async with health.observed(context):
        await asyncio.Event().wait()


async def _talk(
    args: argparse.Namespace, context: AppContext, token: str | None, stop: asyncio.Event
) -> Exit:
    """On Discord with a token, else in the chat page, until it ends."""
    if token is not None:
        from bot.client import run_on_discord

        return await run_on_discord(context, token, stop)
    from bot.demo import run_demo

    return await run_demo(
        context, stop, port=args.port, browser=not args.no_browser, seconds=args.seconds
    )


async def _open_probe(name: ProbeName, *, demo: bool) -> MemoryProbe:
    """The probe asked for. Only the demo falls back to the simulated rig, and it says so."""
    from bot.context import open_probe_off_loop

    if demo and name == "auto":
        from bot.context import first_reading

        probe = await open_probe_off_loop("auto")
        why = await first_reading(probe)
        if not why:
            return probe
        log.warning("GPU memory can't be read here, so a simulated rig is shown (%s)", why)
        name = "simulated"
    return await open_probe_off_loop(name)


def _configure_logging(settings: configuration.Settings, token: str | None = None) -> None:
    from bot.observability import logs

    logs.configure(settings.logging.level, form=settings.logging.format, token=token)
    logs.catch_what_nobody_caught()


def _unicode_output() -> None:
    """Emojis on a console that can't show them become question marks, not a crash.

    Files and pipes get UTF-8 also on Windows, whose own encodings have none of them.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        keep = os.name != "nt" or "PYTHONIOENCODING" in os.environ or stream.isatty()
        stream.reconfigure(encoding=None if keep else "utf-8", errors="replace")
