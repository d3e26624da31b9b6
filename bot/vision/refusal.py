"""What can't be done, told so that a person knows what to do."""

from __future__ import annotations


class Refusal(Exception):
    """Says what happened (``what``) and what to do (``remedy``)."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


def first_line(error: BaseException, most: int = 300) -> str:
    """Kind and first line of an error, for people."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:most]}" if lines else type(error).__name__
