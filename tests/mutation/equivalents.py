"""Mutants that no test can tell from the code, each group with the reason."""

from __future__ import annotations

DECISION = "teacache/engine/decision.py"
INDICATORS = "teacache/engine/indicators.py"
RUN = "teacache/engine/run.py"
PREDICTORS = "teacache/engine/predictors.py"
FORWARD = "teacache/engine/forward.py"
BLOCKS = "teacache/engine/blocks.py"
POLICY = "teacache/engine/policy.py"
SCHEDULE = "teacache/schedule.py"
BRANCHES = "teacache/hosts/diffusers/branches.py"

_BY_REASON: dict[str, list[tuple[str, str, str, str]]] = {
    "A flag that is only asked for its truth.": [
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
        (RUN, "Run.__init__", "self.gave_up = False", "self.gave_up = None"),
    ],
    "Any value that is no `TimestepChanges` lets the model go; nothing reads it afterwards.": [
        (RUN, "Run.finish", "self._timestep_changes = None", 'self._timestep_changes = ""'),
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
    "Two values have one order: what comes first of all but the last is all but the last.": [
        (
            INDICATORS,
            "TimestepChanges.between",
            "(change,) = self._reader.read(relative_change(table[1:], table[:-1]))",
            "(change,) = self._reader.read(relative_change(table[1:], table[:+1]))",
        ),
    ],
    "Both are of one length by construction; `strict` only guards it.": [
        (
            INDICATORS,
            "TimestepChanges.__init__",
            "self._changes = dict(zip(pairwise(levels), changes, strict=True))",
            f"self._changes = dict(zip(pairwise(levels), changes, {strict}))",
        )
        for strict in ("strict=None", "", "strict=False")
    ],
    "`recursive` is asked for its truth.": [
        (
            BLOCKS,
            "outside_compiled_regions",
            "wrapped: _Forward = torch.compiler.disable(forward, recursive=False)"
            "  # type: ignore[no-untyped-call]",
            "wrapped: _Forward = torch.compiler.disable(forward, recursive=None)"
            "  # type: ignore[no-untyped-call]",
        ),
    ],
    "Only compared with a thread's number, which is neither.": [
        (
            BLOCKS,
            "BlockStack.__init__",
            "self._thread: int | None = None",
            'self._thread: int | None = ""',
        ),
    ],
    "The first step is always computed, steps are fewer than all, and no limit is none.": [
        (POLICY, "", "end: float = 1.0", "end: float = 2.0"),
        (POLICY, "", "max_skip: int = 0", "max_skip: int = None"),
        (POLICY, "", "warmup: int = 0", "warmup: int = 1"),
    ],
    "A level that equals the last one was found before.": [
        (
            SCHEDULE,
            "Schedule.step_at",
            "if raised and end < sigma <= MAX_RAISE * end:",
            "if raised and end <= sigma <= MAX_RAISE * end:",
        ),
    ],
    "Each branch has the same whole number of rows, and equal numbers are equal in any type.": [
        (
            FORWARD,
            "StackForward._measure",
            "layout = (self._layout, image.shape[1:], image.shape[0] // len(self._keys), "
            "image.dtype)",
            "layout = (self._layout, image.shape[1:], image.shape[0] / len(self._keys), "
            "image.dtype)",
        ),
    ],
    "`out` has the input's type, and so has what was cached for that layout.": [
        (
            FORWARD,
            "StackForward._predict",
            "torch.add(given, residual.to(given.dtype), out=rows)",
            "torch.add(given, residual.to(None), out=rows)",
        ),
    ],
    "The loop before it, over the same branches, refuses other lengths.": [
        (
            FORWARD,
            "StackForward._decide_by_input",
            "for state, part in zip(states, parts, strict=True):",
            f"for state, part in zip(states, parts, {strict}):",
        )
        for strict in ("strict=None", "", "strict=False")
    ],
    "A layout without a row for each branch is never skipped.": [
        (
            FORWARD,
            "StackForward._predict",
            "for key, given, rows in "
            "zip(self._keys, self._split(image), self._split(out), strict=True):",
            "for key, given, rows in "
            f"zip(self._keys, self._split(image), self._split(out), {strict}):",
        )
        for strict in ("strict=None", "", "strict=False")
    ],
    "Read only after it was set: by `measure`, `begin_evaluation`, or `on_stack_input`.": [
        (
            FORWARD,
            "StackForward.__init__",
            "self._parts: tuple[int, ...] = ()",
            "self._parts: tuple[int, ...] = None",
        ),
        (INDICATORS, "ErrorRate.__init__", "self._grown = 1.0", "self._grown = None"),
        (INDICATORS, "ErrorRate.__init__", "self._grown = 1.0", "self._grown = 2.0"),
        (
            RUN,
            "Run.__init__",
            "self._decisions: list[tuple[Hashable, Hashable | None, Decision]] = []",
            "self._decisions: list[tuple[Hashable, Hashable | None, Decision]] = None",
        ),
        (
            RUN,
            "Run.__init__",
            "self._required: Reason | None = None",
            'self._required: Reason | None = ""',
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
