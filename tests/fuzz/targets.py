"""What is fuzzed, by name: each takes bytes, and whatever it raises is a defect.

Only the errors that people are shown are caught, and looked at: they are words, no traceback.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Target = Callable[[bytes], None]
LONGEST_WORDS = 20_000
"""Characters: a message of a person's, however much is wrong with the file."""


def _readable(error: Exception) -> None:
    words = str(error)
    assert words.strip(), "an error without words"
    assert "Traceback" not in words
    assert len(words) <= LONGEST_WORDS, f"{len(words)} characters of words"


def configuration(data: bytes) -> None:
    """``config/vision_config.yaml``, whatever is in it."""
    from bot.settings import SettingsError, parse

    try:
        settings = parse(data)
    except SettingsError as error:
        _readable(error)
    else:
        # What was accepted can be written and read again.
        assert type(settings).model_validate(settings.model_dump(mode="json"))


def trace(data: bytes) -> None:
    """A trace for ``danzar simulate``."""
    from danzar_gpu.simulate import TraceError, parse

    try:
        parse(data)
    except TraceError as error:
        _readable(error)


def frame(data: bytes) -> None:
    """A picture, as a file or as a sender puts it on the wire."""
    from bot.vision.frames import SourceError, decode_image

    try:
        image = decode_image(io.BytesIO(data), "a picture", ("PNG", "JPEG", "WEBP", "BMP"))
    except SourceError as error:
        _readable(error)
    else:
        assert image.ndim == 3
        assert image.shape[2] == 3


def messages(data: bytes) -> None:
    """What bot and worker send each other."""
    from bot.vision.worker.protocol import (
        HEADER,
        ProtocolError,
        decode_reply,
        decode_request,
        encode,
        lengths,
        read_request,
    )

    for decode in (decode_request, decode_reply):
        try:
            envelope = decode(data)
        except ProtocolError as error:
            assert str(error).strip()
        else:
            sent = encode(envelope)
            body, _ = lengths(sent[: HEADER.size])
            assert len(sent) == HEADER.size + body
    try:
        read_request(io.BytesIO(data))
    except ProtocolError as error:
        assert str(error).strip()


def chats(data: bytes) -> None:
    """The file in which earlier releases kept what chats were told: damaged, it is set aside."""
    from bot.chat_state import ChatState
    from danzar_gpu.history import HistoryStore

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chats.json"
        path.write_bytes(data)
        store = HistoryStore(Path(folder) / "history.sqlite3")
        state = ChatState(store)
        state.load(path)
        asyncio.run(state.put("panels", "1", {"a": 1}))
        store.close()
        assert not path.exists()
        again = ChatState(store)
        again.load()
        store.close()
        assert again.section("panels")["1"] == {"a": 1}


def history(data: bytes) -> None:
    """The history's file: damaged, it is set aside, and a new one is written."""
    from danzar_gpu.history import Event, HistoryStore

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.sqlite3"
        path.write_bytes(data)
        store = HistoryStore(path)
        store.open()
        store.event(Event(2e9, "kind", "text"))
        store.close()
        kept = store.trouble is None and [e.text for e in store.events(2e9)] == ["text"]
        assert kept or store.trouble


def question(data: bytes) -> None:
    """What people ask of a frame, and how large they say that something is."""
    from bot.vision.asking import phrase_of
    from cogs.embeds import plain, shortened
    from cogs.gpu_parts import control

    text = data.decode("utf-8", "replace")
    phrase_of(text)
    assert len(shortened(text, 100)) <= 100
    plain(text)
    gigabytes: Any = control._gigabytes  # pyright: ignore[reportPrivateUsage]
    size = gigabytes(text)
    assert size is None or 0 <= size < 1e6


def process_name(data: bytes) -> None:
    """What a driver says that a program is called, and a command line."""
    from danzar_gpu.config import GPUMemoryConfig
    from danzar_gpu.probes.cards import short_name, text
    from danzar_gpu.probes.process_names import program_name, python_program
    from danzar_gpu.probes.visibility import visible_order

    name = text(data)
    GPUMemoryConfig().is_llm_process(program_name(2**22 + 7, name))
    python_program(name.split("\n"))
    short_name(name)
    order = visible_order(["GPU-aaa", "GPU-bbb", "MIG-ccc"], name)
    assert len(set(order)) == len(order)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        configuration,
        trace,
        frame,
        messages,
        chats,
        history,
        question,
        process_name,
    )
}
