"""The worker as a process: ``python -m bot.vision.worker``, started by the bot, never by hand.

Standard input and output carry the protocol; whatever libraries print goes to standard error.
The process ends when its parent does, however that died.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import threading
from typing import BinaryIO, NoReturn

from bot.vision.worker import environment, priority
from bot.vision.worker.protocol import (
    HEADER,
    ProtocolError,
    ReplyEnvelope,
    RequestEnvelope,
    encode,
    read_request,
)

EXIT_POISONED = 70
EXIT_PROTOCOL = 76


class PipeChannel:
    """The protocol over two pipes."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader = reader
        self._writer = writer
        self._lock = threading.Lock()

    def receive(self) -> RequestEnvelope | None:
        try:
            request = read_request(self._reader)
        except ProtocolError as error:
            print(f"the bot process sent no message of ours: {error}", file=sys.stderr)
            os._exit(EXIT_PROTOCOL)
        if request is None:
            # The parent is gone: there is nothing to save and nobody to tell.
            os._exit(0)
        return request

    def send(self, envelope: ReplyEnvelope, blob: bytes = b"") -> None:
        data = encode(envelope, blob)
        with self._lock:
            self._writer.write(data)
            self._writer.flush()


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="danzar vision worker")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    # A library that crashes leaves the stacks of all threads, which the bot writes to its log.
    faulthandler.enable()
    # Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    environment.die_with(arguments.parent)
    channel = _take_over_pipes()
    environment.prepare(os.environ, arguments.threads)
    priority.lower_priority()
    environment.keep_freed_memory()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)

    from bot.vision.worker.vision_worker import VisionWorker

    worker = VisionWorker(channel, arguments.threads, die=lambda: os._exit(EXIT_POISONED))
    worker.run()
    sys.stderr.flush()
    # Threads of libraries must not delay the end.
    os._exit(0)


def _take_over_pipes() -> PipeChannel:
    """Keep both pipes for the protocol; nobody else shall read or print into them."""
    reader = os.fdopen(os.dup(0), "rb", buffering=HEADER.size * 8192)
    writer = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return PipeChannel(reader, writer)


if __name__ == "__main__":
    main()
