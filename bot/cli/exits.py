"""What the exit status of ``danzar`` means."""

from enum import IntEnum


class Exit(IntEnum):
    """One number for each thing that a person would mend in a different way."""

    OK = 0
    FAILED = 1
    """It ran and something went wrong: see the last lines that were printed."""
    CONFIGURATION = 2
    """The configuration or the command line was refused."""
    TOKEN = 3
    """Discord does not accept the token, or its file can't be read."""
    INTENTS = 4
    """The bot may not read messages: an intent is off in the developer portal."""
    DEMO = 5
    """The demo's chat page is not installed, or its address is taken."""
    PROBE = 6
    """GPU memory can't be read in the way that was asked for."""
    LOCKED = 7
    """Another Danzar uses the same data folder."""
    INTERRUPTED = 130
    """Ctrl-C before the work was done; a second one ends at once, without tidying up."""
