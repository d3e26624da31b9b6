"""What discord.py logs of a connection, as one line without a traceback."""

from __future__ import annotations

import logging

from bot.vision.refusal import first_line

_SHARD = "Shard ID %s "
_RECONNECT = "Attempting a reconnect in %.2fs"


def plain(record: logging.LogRecord) -> bool:
    """A handler's filter: keeps every record, and changes those that discord.py words badly.

    A connection that ends is no defect: months have hundreds of them, each with a traceback and as
    an error. A bot that is not sharded has no shard to name.
    """
    if not record.name.startswith("discord."):
        return True
    arguments = record.args if isinstance(record.args, tuple) else ()
    error = record.exc_info[1] if record.exc_info else None
    if record.msg == _RECONNECT and error is not None:
        record.msg = "the connection to Discord was lost; the next try is in %.1f s: %s"
        record.args = (*arguments, first_line(error))
        record.exc_info, record.exc_text = None, None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    elif arguments[:1] == (None,) and str(record.msg).startswith(_SHARD):
        record.msg = "gateway: " + str(record.msg).removeprefix(_SHARD)
        record.args = arguments[1:]
    return True
