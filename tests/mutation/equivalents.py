"""Mutants that no test can tell from the code, each group with the reason."""

from __future__ import annotations

DECISION = "teacache/engine/decision.py"
PREDICTORS = "teacache/engine/predictors.py"
BRANCHES = "teacache/hosts/diffusers/branches.py"

_BY_REASON: dict[str, list[tuple[str, str, str, str]]] = {
    "A private flag that is only asked for its truth.": [
        (
            DECISION,
            "Decision.__init__",
            "self._skipped_a_call = False",
            "self._skipped_a_call = None",
        ),
        (
            DECISION,
            "Decision.restart",
            "self._skipped_a_call = False",
            "self._skipped_a_call = None",
        ),
    ],
    "`strict` is asked for its truth, and is false by default.": [
        (
            PREDICTORS,
            "combine",
            "for value, weight in zip(values[:-1], weights, strict=False):",
            "for value, weight in zip(values[:-1], weights, strict=None):",
        ),
        (
            PREDICTORS,
            "combine",
            "for value, weight in zip(values[:-1], weights, strict=False):",
            "for value, weight in zip(values[:-1], weights, ):",
        ),
    ],
    "Only the sign counts, and no two cached levels are equal.": [
        (
            PREDICTORS,
            "Predictor.observe",
            "if (sigma - newest) * (newest - before) < 0:",
            "if (sigma - newest) / (newest - before) < 0:",
        ),
        (
            PREDICTORS,
            "Predictor.observe",
            "if (sigma - newest) * (newest - before) < 0:",
            "if (sigma - newest) * (newest - before) <= 0:",
        ),
    ],
    "With a single value its weight is one, whatever the level.": [
        (
            PREDICTORS,
            "Damped.weights",
            "return super().weights(sigma)",
            "return super().weights(None)",
        ),
    ],
    "What is bound to `self` is taken out again.": [
        (
            BRANCHES,
            "arguments_of",
            "bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)",
            "bound = inspect.signature(type(module).forward).bind(None, *args, **kwargs)",
        ),
    ],
}
"""Reason -> (module, function, lines before, lines after), as `Mutant.description`."""

EQUIVALENT = {change: reason for reason, changes in _BY_REASON.items() for change in changes}
"""The reason why each of these mutants is equivalent."""
