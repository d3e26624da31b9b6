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
            _flush()
    except KeyboardInterrupt:
        return 130  # Exit.INTERRUPTED, whose import may be what was interrupted
    except OSError as error:
        if not _is_closed_pipe(error):
            raise
        _nobody_reads()  # while there was more to print
        return 0


def _flush() -> None:
    """What Python would do at its end, with a complaint where nobody reads."""
    if sys.stdout is not None:  # as it is without a console, or with `>&-`
        try:
            sys.stdout.flush()
        except OSError as error:
            if not _is_closed_pipe(error):
                raise
            _nobody_reads()


def _is_closed_pipe(error: OSError) -> bool:
    """Windows calls a write into a closed pipe an invalid argument, and names no file."""
    import errno

    if sys.platform == "win32" and error.errno == errno.EINVAL:
        return error.filename is None
    return isinstance(error, BrokenPipeError)


def _nobody_reads() -> None:
    """`danzar status | head`: what is left goes nowhere."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
