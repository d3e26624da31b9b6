"""``danzar`` and ``python -m bot``: the command line, ended quietly by Ctrl-C and a closed pipe.

Next to nothing is imported before Ctrl-C is caught: reading all of Danzar takes half a second, in
which people change their minds.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status (``bot.cli.exits.Exit``)."""
    try:
        from bot.cli.command_line import run

        try:
            return run(argv)
        finally:
            if sys.stdout is not None:  # as it is without a console, or with `>&-`
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 130  # Exit.INTERRUPTED, whose import may be what was interrupted
    except BrokenPipeError:
        return _nobody_reads()


def _nobody_reads() -> int:
    """`danzar status | head`: what is left goes nowhere, or Python would complain at its end."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
