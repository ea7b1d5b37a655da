"""The errors a user can meet, and the exit code each ends the program with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Something went wrong that one clear line explains; never shown as a traceback."""

    exit_code = 1


class UserError(BenchError):
    """Bad input: the message names the file or option, the key, and the remedy."""

    exit_code = 2


class BrokenData(UserError):
    """A data file is there but wrong; the message names the file and the line or row."""


class NothingToRun(BenchError):
    """Every cell asked for was skipped, for reasons already printed."""

    exit_code = 3


class MissingData(BenchError):
    """A data set is absent: the task is skipped with `reason`, and `remedy` says how to get it."""

    exit_code = 3

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """` (did you mean "x"?)`, or the list of valid names where none is near, for the end of an error line."""
    options = sorted(valid)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f' (did you mean "{near[0]}"?)'
    return f" (valid: {', '.join(options)})" if options else ""
