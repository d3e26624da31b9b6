"""Asking the LLM server itself: what is loaded, and how much of it is on the GPU.

For drivers that name no processes (WSL, containers), and for an LLM in a virtual machine, of which
Windows sees the machine alone: the server's word stands in for the driver's. Ollama tells the bytes
(``GET /api/ps``, ``size_vram``); servers that only speak the OpenAI protocol tell names
(``GET /v1/models``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import aiohttp

from danzar_gpu.config import GPUMemoryConfig
from danzar_gpu.ledger import Ledger
from danzar_gpu.memory import GpuProcess, MemorySnapshot

TIME_LIMIT_SECONDS = 2.0
ASKED_EVERY_SECONDS = 5.0
PATIENCE_SECONDS = 0.25
"""A reading of the cards waits no longer for the server."""
MOST_BYTES = 1 << 20
VIRTUAL_MACHINES = frozenset({"vmmem", "vmmemwsl"})
"""What Windows calls the memory of WSL 2 and Docker Desktop."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that the server has loaded."""

    name: str
    vram_bytes: int | None
    """``None`` where the server does not say."""


@dataclass(frozen=True, slots=True)
class LlmServerState:
    """The server's answer, or why there is none."""

    read_at: float
    models: tuple[LoadedModel, ...] = ()
    error: str | None = None

    @property
    def vram_bytes(self) -> int:
        return sum(model.vram_bytes or 0 for model in self.models)

    @property
    def names(self) -> str:
        return ", ".join(model.name for model in self.models)


def with_servers_word(
    raw: MemorySnapshot, known: LlmServerState | None, config: GPUMemoryConfig, ledger: Ledger
) -> tuple[MemorySnapshot, bool]:
    """A reading with what the server says it holds, where the driver names no processes; and
    whether only the server could say it, and does not."""
    device = raw.device(config.main_llm_index)
    if device is None:
        return raw, False
    rows = device.processes or ()
    if is_told(rows, config, ledger):
        return raw, False
    if known is None or not known.vram_bytes:
        return raw, known is None or known.error is not None
    name = config.main_llm_processes[0] if config.main_llm_processes else "llm"
    inside = sum(p.used_bytes or 0 for p in rows if _is_virtual_machine(p))
    unnamed = max(0, device.reserved_bytes - sum(p.used_bytes or 0 for p in rows))
    held = min(known.vram_bytes, unnamed + inside)
    row = GpuProcess(0, f"{name} (by its server's word)", held)
    told = replace(device, processes=(*_without(rows, held - unnamed), row))
    devices = tuple(told if d is device else d for d in raw.devices)
    return replace(raw, devices=devices), known.error is not None


def is_told(rows: Sequence[GpuProcess], config: GPUMemoryConfig, ledger: Ledger) -> bool:
    """Whether the driver's list says what the LLM holds, be it nothing."""
    if any(row.used_bytes and config.is_llm_process(row.name) for row in rows):
        return True
    # In a container the driver names what runs there, our own worker, and nobody else.
    strangers = any(row.used_bytes is not None and not ledger.holder_of(row.pid) for row in rows)
    hidden = any(row.used_bytes is None or _is_virtual_machine(row) for row in rows)
    return strangers and not hidden


def _is_virtual_machine(row: GpuProcess) -> bool:
    return row.name.lower().removesuffix(".exe") in VIRTUAL_MACHINES


def _without(rows: Iterable[GpuProcess], size: int) -> Iterator[GpuProcess]:
    """The rows, with what the LLM holds within a virtual machine taken off it."""
    for row in rows:
        taken = min(max(0, size), row.used_bytes or 0) if _is_virtual_machine(row) else 0
        size -= taken
        yield replace(row, used_bytes=row.used_bytes - taken) if row.used_bytes else row


class LlmServer:
    """The server's newest word. It is asked now and then, and a slow one keeps nobody waiting."""

    def __init__(self) -> None:
        self.state: LlmServerState | None = None
        self._asking: asyncio.Task[LlmServerState] | None = None

    async def hear(self, endpoint: str, now: float) -> LlmServerState | None:
        """Its newest answer; while it thinks the one before; ``None``: there was none yet."""
        known = self.state
        if self._asking is None and (known is None or now - known.read_at >= ASKED_EVERY_SECONDS):
            self._asking = asyncio.create_task(ask_server(endpoint, now), name="llm-server")
        asking = self._asking
        if asking is not None:
            await asyncio.wait({asking}, timeout=PATIENCE_SECONDS)
            if asking.done() and asking is self._asking:
                self.state, self._asking = asking.result(), None
        return self.state

    def forget(self) -> None:
        """What was said counts no more, nor what is about to be."""
        if self._asking is not None:
            self._asking.cancel()
        self.state = self._asking = None


async def ask_server(endpoint: str, now: float) -> LlmServerState:
    """What runs at ``endpoint`` (``http://127.0.0.1:11434``). Never raises; takes 2 s at most.

    An endpoint may end in ``/v1``, as OpenAI's clients write it.
    """
    base = endpoint.rstrip("/").removesuffix("/v1")
    why = "it speaks neither Ollama's nor OpenAI's protocol"
    limit = aiohttp.ClientTimeout(total=TIME_LIMIT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=limit, trust_env=False) as session:
            for path, read in (("/api/ps", _ollama_models), ("/v1/models", _openai_models)):
                async with session.get(base + path, allow_redirects=False) as response:
                    if response.status == 404:
                        continue
                    if response.status != 200:
                        why = f"it answered {response.status}"
                        if response.status >= 500:
                            break
                        continue
                    try:
                        return LlmServerState(now, read(await _json(response)))
                    except ValueError as error:
                        why = str(error)  # LM Studio answers 200 to what it does not know
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
        why = _in_words(error)
    return LlmServerState(now, error=why)


def _in_words(error: Exception) -> str:
    """Without the address: chat shows this, and an address may hold a password."""
    if isinstance(error, aiohttp.InvalidURL):
        return "its address is none"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host has no address"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "nothing answers at its address"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionError)):
        return "it hung up"
    return str(error) if type(error) is ValueError else "its answer is not HTTP"


async def _json(response: aiohttp.ClientResponse) -> Any:
    """The answer, which says how long it is only if it wants to. Raises ``ValueError``."""
    found = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        found += chunk
        if len(found) > MOST_BYTES:
            raise ValueError("its answer is too long")
    try:
        return json.loads(found)
    except RecursionError:
        raise ValueError("its answer is nested too deeply") from None
    except ValueError:
        raise ValueError("its answer is not JSON") from None


def _ollama_models(answer: Any) -> tuple[LoadedModel, ...]:
    return tuple(
        LoadedModel(str(row.get("name", "?")), _size(row.get("size_vram")))
        for row in _rows(answer, "models")
    )


def _openai_models(answer: Any) -> tuple[LoadedModel, ...]:
    return tuple(LoadedModel(str(row.get("id", "?")), None) for row in _rows(answer, "data"))


def _rows(answer: Any, key: str) -> list[dict[str, Any]]:
    rows = cast("dict[str, Any]", answer).get(key) if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"its answer has no list of {key}")
    return [cast("dict[str, Any]", row) for row in cast("list[Any]", rows) if isinstance(row, dict)]


def _size(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
