"""The other branches of guidance, measured at the first call of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from ...engine.blocks import BlockStack
from ...engine.decision import Decision
from ...engine.forward import StackForward
from ...engine.run import Run
from ...families.spec import TIMESTEP_INDICATORS
from .branches import latent_name, layout_of, timestep_name
from .calls import BranchKey, Call


def other_branches_count(run: Run, decision: Decision) -> bool:
    """Whether the other branches may measure another distance than the first one."""
    if not run.profile_indicator or not decision.needs_distance:
        return False
    if run.profile_indicator in TIMESTEP_INDICATORS:
        return False
    reads_modulated_input = run.profile_indicator == "modulated_input"
    return run.family.indicator_depends_on_text or not reads_modulated_input


def measure_other_branches(
    run: Run,
    decision: Decision,
    before: Mapping[BranchKey, Call],
    stacks: Mapping[str, BlockStack | None],
    branch: BranchKey,
    call: Call,
) -> None:
    """Take the branches of the evaluation before into `decision`, at this latent.

    Args:
        before: the calls of that evaluation.
        stacks: the block stacks, by transformer.
        branch, call: the first one of this evaluation.
    """
    own = before.get(branch)
    if own is None:
        return
    latent, timestep = latent_name(call.given), timestep_name(call.given)
    moved = {latent: call.given[latent], timestep: call.given[timestep]}
    for other, theirs in before.items():
        stack = stacks.get(theirs.component)
        if other == branch or not decision.needs_distance or run.gave_up or stack is None:
            continue
        if theirs.given.get(latent) is not own.given[latent]:
            continue
        merged = {**theirs.given, **moved}
        measuring = StackForward(run, decision, [other], layout_of(merged), measure_only=True)
        with stack.installed(measuring):
            theirs.forward(**merged)
        decision.called.discard(other)
