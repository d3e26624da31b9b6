"""The secret that ``danzar capture`` and the bot share, from the environment or a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bot.text_file import Unreadable, read_text

VARIABLE = "DANZAR_CAPTURE_SECRET"
LEAST_CHARACTERS = 16
MOST_BYTES = 4096
REMEDY = (
    'put one into a file on both machines (python -c "import secrets; print(secrets.token_hex())" '
    f"makes one) and name it in {VARIABLE}_FILE"
)


class SecretError(Exception):
    """There is no usable secret. The secret itself is never in the message."""


def capture_secret(environment: Mapping[str, str] = os.environ) -> bytes:
    """What ``DANZAR_CAPTURE_SECRET`` says, or the file that ``DANZAR_CAPTURE_SECRET_FILE`` names.

    Raises:
        SecretError: there is none, it can't be read, or it can be guessed.
    """
    text, source = environment.get(VARIABLE, "").strip(), VARIABLE
    if not text:
        name = environment.get(f"{VARIABLE}_FILE", "").strip()
        if not name:
            raise SecretError(f"there is no shared secret; {REMEDY}")
        source = f"{VARIABLE}_FILE={name}"
        try:
            text = read_text(Path(name), MOST_BYTES).strip()
        except Unreadable as error:
            raise SecretError(f"{source} {error}; {REMEDY}") from None
    # Whoever answers a caller can try guesses at leisure: it must be beyond guessing.
    if len(text) < LEAST_CHARACTERS:
        raise SecretError(
            f"{source} holds fewer than {LEAST_CHARACTERS} characters, which can be guessed; "
            f"{REMEDY}"
        )
    return text.encode()
