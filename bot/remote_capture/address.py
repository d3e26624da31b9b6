"""Where pictures are sent to, or awaited: ``HOST:PORT``, in the configuration and in arguments."""

from __future__ import annotations

DEFAULT_PORT = 7460


def parse_address(text: str) -> tuple[str, int]:
    """``host:port``, ``host`` or ``[::1]:port`` as host and port.

    Raises:
        ValueError: it is none; the message says what is expected.
    """
    host, port = text.strip(), str(DEFAULT_PORT)
    if host.startswith("["):
        host, closed, rest = host[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is no address such as [::1]:{DEFAULT_PORT}")
        port = rest[1:] or port
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, [::1]:{DEFAULT_PORT}")
    if not host or any(c.isspace() or not c.isprintable() for c in host):
        raise ValueError(f"{text!r} is no address such as 127.0.0.1:{DEFAULT_PORT}")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise ValueError(f"{text!r}: a port is a number from 1 to 65535")
    return host, int(port)


def shown(host: str, port: int) -> str:
    """An address for people."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
