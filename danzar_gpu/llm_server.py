"""Asking the LLM server itself: what is loaded, and how much of it is on the GPU.

For drivers that name no processes (WDDM, WSL, containers): the server's word stands in for the
driver's. Ollama tells the bytes (``GET /api/ps``, ``size_vram``); servers that only speak the
OpenAI protocol tell names (``GET /v1/models``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import aiohttp

TIME_LIMIT_SECONDS = 2.0
MOST_BYTES = 1 << 20


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


async def ask_server(endpoint: str, now: float) -> LlmServerState:
    """What runs at ``endpoint`` (``http://127.0.0.1:11434``). Never raises; takes 2 s at most."""
    base = endpoint.rstrip("/")
    limit = aiohttp.ClientTimeout(total=TIME_LIMIT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=limit, trust_env=False) as session:
            for path, read in (("/api/ps", _ollama_models), ("/v1/models", _openai_models)):
                async with session.get(base + path, allow_redirects=False) as response:
                    if response.status == 404:
                        continue
                    if response.status != 200:
                        return LlmServerState(now, error=f"it answered {response.status}")
                    return LlmServerState(now, read(await _json(response)))
    except RecursionError:
        return LlmServerState(now, error="its answer is nested too deeply")
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
        return LlmServerState(now, error=str(error) or "it did not answer in time")
    return LlmServerState(now, error="it speaks neither Ollama's nor OpenAI's protocol")


async def _json(response: aiohttp.ClientResponse) -> Any:
    """The answer, which says how long it is only if it wants to. Raises ``ValueError``."""
    found = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        found += chunk
        if len(found) > MOST_BYTES:
            raise ValueError("its answer is too long")
    return json.loads(found)


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
    return value if isinstance(value, int) and value >= 0 else None
