"""Which program this is: version, licence and where its source is, as the AGPL asks."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata

LICENCE = "AGPL-3.0-or-later"
_UNPACKED_SOURCE = "https://github.com/danzar-gpu/danzar"


def version() -> str:
    """The installed version; ``0+unknown`` when run from a folder that wasn't installed."""
    try:
        return metadata("danzar")["Version"]
    except PackageNotFoundError:
        return "0+unknown"


def source_url() -> str:
    """Where the source of this program is."""
    try:
        urls = metadata("danzar").get_all("Project-URL") or []
    except PackageNotFoundError:
        urls = []
    for entry in urls:
        label, _, address = entry.partition(",")
        if label.strip().lower() == "source":
            return address.strip()
    return _UNPACKED_SOURCE
