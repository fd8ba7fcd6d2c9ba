"""Errors that reach the user of the command as one line, and the exit status of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ConfigError(ValueError):
    """A setting is unusable. The message names it, what is wrong, and what is allowed."""


class UserError(Exception):
    """The input is unusable: exit status 2. The message names it and what is allowed."""


class ExecutionError(Exception):
    """A valid graph failed while it ran: exit status 1. `details` holds the traceback."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def nearest(name: str, known: Iterable[str], limit: int = 1) -> str:
    """`; did you mean 'x'?` for the closest of `known`, or nothing when none is close.

    Args:
        limit: number of names that are suggested at most, the closest first.
    """
    folded = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), folded, n=limit, cutoff=0.5)
    return suggestion([folded[match] for match in close])


def suggestion(names: Sequence[str]) -> str:
    """`; did you mean 'x', 'y' or 'z'?`, or nothing when there are no names."""
    if not names:
        return ""
    *others, last = map(repr, names)
    return f"; did you mean {', '.join(others)} or {last}?" if others else f"; did you mean {last}?"


def listing(names: Iterable[str], limit: int = 8) -> str:
    """At most `limit` names joined by commas, and how many more there are."""
    every = list(names)
    if not every:
        return "none"
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(map(str, every[:limit])) + more
