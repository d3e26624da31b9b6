"""Health and metrics over HTTP: ``/healthz``, ``/readyz``, ``/metrics``.

``/healthz`` says whether the process is worth keeping, ``/readyz`` whether it does its work now.
Both answer with every check in words: 200 if all hold, else 503.
"""

from __future__ import annotations

import asyncio
import contextvars
import ipaddress
import logging
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict

from aiohttp import web
from aiohttp.typedefs import Handler

from bot.context import AppContext
from bot.identity import version
from bot.observability.loop_delay import LoopDelay
from bot.observability.metrics import CONTENT_TYPE, Metrics
from bot.observability.readiness import Check, readiness

log = logging.getLogger(__name__)

LATE_SECONDS = 5.0
"""An event loop that was so late is not alive in any useful sense: heartbeats wait, too."""
CLOSE_SECONDS = 0.5
INDEX = "Danzar: /healthz, /readyz, /metrics\n"


def liveness(delay: LoopDelay) -> list[Check]:
    """Does the process turn over? That this answers says most of it."""
    worst = delay.worst
    words = f"at most {worst * 1000:.0f} ms late in the last minute"
    return [Check("event loop", worst < LATE_SECONDS, words)]


class Observability:
    """The server and what it answers from. Made by ``observed``."""

    def __init__(self, context: AppContext) -> None:
        self.metrics = Metrics(context)
        self.delay = LoopDelay(self.metrics.late)
        self.url: str | None = None
        """Where it is served; ``None`` if it is not."""
        self._context = context
        self._runner: web.AppRunner | None = None

    def application(self, *, local: bool) -> web.Application:
        """The routes. ``local``: asked by names of this machine alone."""
        app = web.Application(middlewares=[_only_by_local_names] if local else [])
        app.router.add_get("/", self._index)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def serve(self) -> None:
        """Listen; a port that is taken is told, and the bot goes on without."""
        settings = self._context.settings.observability
        if not settings.enabled:
            return
        app = self.application(local=is_loopback(settings.host))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        await runner.setup()
        self._runner = runner
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as error:
            log.warning(
                "health and metrics can't be served on %s, port %d: %s. The bot goes on without; "
                "another observability.port, or enabled: false there, ends this warning",
                settings.host,
                settings.port,
                error.strerror or error,
            )
            return
        host, port = runner.addresses[0][:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("health and metrics: %s/readyz and /metrics", self.url)

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self.metrics.close()

    async def _index(self, _request: web.Request) -> web.Response:
        return web.Response(text=INDEX)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return answer(liveness(self.delay))

    async def _readyz(self, _request: web.Request) -> web.Response:
        return answer([*liveness(self.delay), *readiness(self._context)])

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def answer(checks: Iterable[Check]) -> web.Response:
    """Every check, and a status for machines."""
    found = list(checks)
    well = all(check.ok for check in found)
    body = {
        "ok": well,
        "version": version(),
        "pid": os.getpid(),
        "checks": [asdict(check) for check in found],
    }
    return web.json_response(body, status=200 if well else 503)


@web.middleware
async def _only_by_local_names(request: web.Request, handler: Handler) -> web.StreamResponse:
    # A page in a browser can give its own name the address of this machine, and then read.
    if not is_loopback(request.url.host or ""):
        raise web.HTTPForbidden(text="Ask for it as localhost or 127.0.0.1.\n")
    return await handler(request)


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@asynccontextmanager
async def observed(context: AppContext) -> AsyncIterator[Observability]:
    """Serve health and metrics for the length of the block."""
    found = Observability(context)
    # In a context of its own: the chat page's bot keeps its clock in its context.
    measuring = contextvars.Context().run(asyncio.create_task, found.delay.run(), name="loop-delay")
    try:
        await found.serve()
        yield found
    finally:
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)
        await found.close()
