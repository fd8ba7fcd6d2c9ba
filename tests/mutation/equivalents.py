"""Mutants that no test can tell from the code, each group with the reason."""

from __future__ import annotations

_BY_REASON: dict[str, list[tuple[str, str, str, str]]] = {}
"""Reason -> (module, function, lines before, lines after), as `Mutant.description`."""

EQUIVALENT = {change: reason for reason, changes in _BY_REASON.items() for change in changes}
"""The reason why each of these mutants is equivalent."""
