"""One denoising loop of diffusers: hooks on its transformers for as long as it lasts.

Pipelines call the transformer once for each branch of guidance, one call after the other, and
cannot be asked to repeat a step. An evaluation lasts until the scheduler makes its step; where
the loop uses another scheduler, until a branch is called again at another timestep or with
another latent. Calls of one evaluation that equal each other in all that names a branch are told
apart by their order. The joint decision is therefore taken at the first call of an
evaluation. Where the indicator depends on the text, the first call also measures the other
branches of the evaluation before: it runs what lies before the blocks on their inputs and the
present latent, and reads their indicator. A branch that must be computed nevertheless (it is new,
or its input changed by itself) is computed alone, and the next evaluation computes every branch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ...engine.blocks import BlockStack
from ...engine.decision import Decision
from ...engine.device import Mark
from ...engine.forward import PredictionForward, StackForward
from ...engine.run import Run
from ...families.spec import TIMESTEP_INDICATORS
from ...families.streams import FamilyMismatch, reading_model
from ...report import Reason, RunReport
from ..common import embed_timesteps, prepare_stack
from .branches import (
    Branches,
    all_equal,
    arguments_of,
    latent_name,
    layout_of,
    tensors_in,
    timestep_name,
    timestep_of,
)
from .hooks import CallHandler, Forward, hooked
from .outputs import OutputStructure
from .schedulers import LoopSigmas

GRADIENTS = "Gradients were on: those calls ran without the cache (wrap them in torch.no_grad())."
EXCESS = "the model was evaluated more often than the schedule has steps"

RunFactory = Callable[[nn.Module, tuple[int, ...]], Run]
"""(transformer, shape of its latent, empty where it was never called) -> the run of this loop."""


class DenoisingLoop:
    """One loop: its run, made at the first call, and what each evaluation's calls were given.

    Args:
        transformers: by component name. Those of one loop share a run, with a pass each.
        sigmas: the loop's noise levels.
        make_run: makes the run.
        text_arguments: as in `Family`.
    """

    def __init__(
        self,
        transformers: Mapping[str, nn.Module],
        sigmas: LoopSigmas,
        make_run: RunFactory,
        text_arguments: tuple[str, ...] = (),
    ) -> None:
        self.sigmas = sigmas
        self._transformers = transformers
        self._make_run = make_run
        self._run: Run | None = None
        self._saw_gradients = False
        self._mismatch: FamilyMismatch | None = None
        self._stacks: dict[str, BlockStack | None] = {}
        self._branches = Branches(text_arguments)
        self._output_structures: dict[Hashable, OutputStructure] = {}
        self._prediction: PredictionForward | None = None
        """The evaluation whose prediction the scheduler is about to receive."""
        self._timesteps: dict[float, torch.Tensor] = {}
        self._transformer: nn.Module = next(iter(transformers.values()))
        self._component = ""
        self._evaluations = 0
        self._stepped: bool | None = None
        """Whether the scheduler has made a step since the last call; None before its first one."""
        self._timestep: torch.Tensor | None = None
        self._decision: Decision | None = None
        self._calls: dict[tuple[Hashable, int], dict[str, Any]] = {}
        """Arguments of this evaluation's calls, by branch and its occurrence."""
        self._previous_calls: dict[tuple[Hashable, int], dict[str, Any]] = {}
        self._answered: Mark | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Calls of the transformers in this thread go to this loop."""
        thread = threading.get_ident()
        with ExitStack() as stack:
            for component, transformer in self._transformers.items():
                handler = self._handler_for(component)
                stack.enter_context(hooked(transformer, handler, self, thread))
            yield

    @contextmanager
    def replacing_step(self, scheduler: Any) -> Iterator[None]:
        """`scheduler.step` gets its predictions from this loop; afterwards it is what it was."""
        original, replaced = scheduler.step, "step" in vars(scheduler)

        def step(model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return original(self.step(model_output), *args, **kwargs)

        scheduler.step = step
        try:
            yield
        finally:
            if replaced:
                scheduler.step = original
            else:
                del scheduler.step

    def _handler_for(self, component: str) -> CallHandler:
        def handle(
            module: nn.Module,
            forward: Forward,
            name: str | None,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
        ) -> Any:
            return self.call(component, module, forward, name, arguments_of(module, args, kwargs))

        return handle

    def begins_evaluation(self, name: str | None, given: Mapping[str, Any]) -> bool:
        """Whether such a call would be the first one of another evaluation."""
        return self._begins(self._branches.key(name, given), given)

    def _begins(self, branch: Hashable, given: Mapping[str, Any]) -> bool:
        known = self._calls.get((branch, 0))
        if self._decision is None or self._stepped:
            return True
        if known is None:
            return False
        assert self._timestep is not None
        if not torch.equal(timestep_of(given), self._timestep):
            return True
        if self._stepped is not None:
            return False
        latents = [list(tensors_in(call[latent_name(call)])) for call in (given, known)]
        return not all_equal(*latents)

    def call(
        self,
        component: str,
        module: nn.Module,
        forward: Forward,
        name: str | None,
        given: dict[str, Any],
    ) -> Any:
        """One call of a transformer, computed or skipped.

        Args:
            component: name of the transformer in the pipeline.
            module: the transformer.
            forward: its own forward.
            name: of the branch, as the pipeline calls it.
            given: the call's arguments by name.
        """
        if torch.is_grad_enabled() or self._mismatch is not None:
            self._saw_gradients = self._saw_gradients or self._mismatch is None
            return forward(**given)
        try:
            with reading_model():
                alike = self._branches.key(name, given)
                timestep_name(given)
        except FamilyMismatch as mismatch:
            self._mismatch = mismatch
            return forward(**given)
        if component != self._component or self._begins(alike, given):
            self._begin(component, module, given)
        first = not self._calls
        branch = (alike, sum(other == alike for other, _ in self._calls))
        self._calls[branch] = given
        self._answered = None
        run, decision = self._run, self._decision
        assert run is not None and decision is not None
        latent = given[latent_name(given)]
        if first and not run.gave_up and isinstance(latent, torch.Tensor):
            run.decide_by_latent(decision, latent)
        if run.strategy.caches_prediction and not run.gave_up:
            if first:
                layout = (component, layout_of(latent))
                self._prediction = PredictionForward(run, decision, "prediction", layout)
            out = self._computed_or_zeros(run, decision, branch, given, forward)
        else:
            out = self._through_stack(run, decision, branch, given, forward, first)
        self._answered = run.mark()
        return out

    def _through_stack(
        self,
        run: Run,
        decision: Decision,
        branch: tuple[Hashable, int],
        given: dict[str, Any],
        forward: Forward,
        first: bool,
    ) -> Any:
        """The transformer's output, with its block stack computed or skipped."""
        stack = prepare_stack(
            run, self._transformer, self._stacks.get(self._component), self._embed, ahead=False
        )
        self._stacks[self._component] = stack
        if stack is not None and first and self._other_branches_count(run, decision):
            self._measure_other_branches(run, decision, stack, branch, given, forward)
        if stack is None or run.gave_up:
            return forward(**given)
        with stack.installed(StackForward(run, decision, [branch], layout_of(given))):
            return forward(**given)

    def _computed_or_zeros(
        self,
        run: Run,
        decision: Decision,
        branch: Hashable,
        given: dict[str, Any],
        forward: Forward,
    ) -> Any:
        """The transformer's output; on a skip zeros in its structure, which `step` replaces."""
        structure = self._output_structures.get(branch)
        if decision.skipping and structure is not None:
            return structure.zeros()
        out = forward(**given)
        try:
            with reading_model():
                self._output_structures[branch] = OutputStructure(out)
        except FamilyMismatch as mismatch:
            run.give_up(mismatch)
            decision.require_compute(Reason.UNCACHED)
        return out

    def step(self, prediction: torch.Tensor) -> torch.Tensor:
        """What the scheduler follows, given the `prediction` after guidance."""
        self._stepped = True
        forward, self._prediction = self._prediction, None
        run = self._run
        if run is not None and run.observer is not None:
            run.observer.on_prediction(run.position.step, prediction)
        if forward is None or run is None or run.gave_up:
            return prediction
        if forward.skipping:
            predicted = forward.predict(prediction)
            if predicted is None:  # the transformer was not run: its output is not to be had
                raise MemoryError("TeaCache: no memory left to predict a skipped step")
            return predicted.clone()
        value = prediction.clone()  # pipelines and schedulers may change theirs in place
        corrected = forward.observe(value)
        return prediction if corrected is value else corrected

    def _begin(self, component: str, module: nn.Module, given: dict[str, Any]) -> None:
        self.end_evaluation()
        latent = next(tensors_in(given[latent_name(given)]))
        if self._run is None:
            self._run = self._make_run(module, tuple(latent.shape))
        timestep = timestep_of(given)
        sigma, step = self.sigmas.at(self._evaluations, timestep)
        self._timesteps[sigma] = timestep
        self._run.begin_evaluation(sigma, latent.device, step)
        if self._evaluations >= self.sigmas.evaluations:
            self._run.give_up(EXCESS)
        self._decision = self._run.decide(component, can_repeat=False)
        self._previous_calls = self._calls if component == self._component else {}
        self._calls = {}
        self._component, self._transformer = component, module
        self._timestep = timestep
        self._stepped = None if self._stepped is None else False
        self._evaluations += 1

    def end_evaluation(self) -> None:
        """The evaluation is over, if one has been answered."""
        if self._answered is not None and self._run is not None:
            self._run.end_evaluation(self._answered)
        self._answered = None
        self._decision = None

    def _embed(self, sigmas: list[float]) -> torch.Tensor:
        assert self._run is not None
        with reading_model():
            timesteps = torch.stack([self._timesteps[sigma] for sigma in sigmas]).float()
        return embed_timesteps(self._run, self._transformer, timesteps)

    # --- the other branches of the evaluation ----------------------------------------------------

    @staticmethod
    def _other_branches_count(run: Run, decision: Decision) -> bool:
        """Whether the other branches may measure another distance than the first one."""
        if run.strategy.indicator not in ("profile", "first_block") or not decision.needs_distance:
            return False
        if run.profile_indicator in TIMESTEP_INDICATORS:
            return False
        reads_modulated_input = run.profile_indicator == "modulated_input"
        return run.family.indicator_depends_on_text or not reads_modulated_input

    def _measure_other_branches(
        self,
        run: Run,
        decision: Decision,
        stack: BlockStack,
        branch: tuple[Hashable, int],
        given: dict[str, Any],
        forward: Forward,
    ) -> None:
        """Take the other branches of the evaluation before into `decision`, at this latent."""
        own = self._previous_calls.get(branch)
        if own is None:
            return
        latent, timestep = latent_name(given), timestep_name(given)
        for other, theirs in self._previous_calls.items():
            if other == branch or not decision.needs_distance or run.gave_up:
                continue
            if theirs[latent] is not own[latent]:
                continue
            merged = {**theirs, latent: given[latent], timestep: given[timestep]}
            measuring = StackForward(run, decision, [other], layout_of(merged), measure_only=True)
            with stack.installed(measuring):
                forward(**merged)

    # --- the end ---------------------------------------------------------------------------------

    def finish(self, outcome: str) -> RunReport:
        """Free everything.

        Args:
            outcome: as in `Run.finish`.

        Returns:
            The report, without records where the model was never called.
        """
        self.end_evaluation()
        run = self._run or self._make_run(self._transformer, ())
        if self._mismatch is not None:
            run.give_up(self._mismatch)
        if self._saw_gradients:
            run.report.warn(GRADIENTS)
        run.report.sigmas = list(self.sigmas.sigmas)  # a loop of the user's own tells them late
        self._run = None
        self._calls, self._previous_calls, self._prediction = {}, {}, None
        self._stacks, self._timesteps, self._output_structures = {}, {}, {}
        self._branches = Branches()
        return run.finish(outcome)
