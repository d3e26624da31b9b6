"""Small text files as people's editors and shells write them, those of Windows, too."""

from __future__ import annotations

from pathlib import Path

from danzar_gpu.file_errors import why


class Unreadable(Exception):
    """A file that can't be read as text; says why, without a word of what it holds."""


def read_text(path: Path, most_bytes: int) -> str:
    """The file's text, at most ``most_bytes`` of it. Raises ``Unreadable``."""
    try:
        with path.open("rb") as file:
            return decode(file.read(most_bytes))
    except OSError as error:
        raise Unreadable(f"can't be read: {why(error, path)}") from None
    except UnicodeDecodeError:
        # Python's own words would quote what it read.
        raise Unreadable("is not a text file") from None


def decode(raw: bytes) -> str:
    """Text in UTF-8 or UTF-16. Raises ``UnicodeDecodeError``."""
    # PowerShell's `>` and an editor that says Unicode write UTF-16; others a mark before UTF-8.
    return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
