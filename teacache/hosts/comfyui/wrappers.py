"""The wrappers of one sampling run in ComfyUI, and its block stack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import nn

from ...engine.blocks import BlockStack
from ...engine.decision import Decision, RecomputeEvaluation, RecomputePass
from ...engine.forward import PredictionForward, StackForward
from ...engine.guided import GuidedForward
from ...engine.run import Run
from ...families.spec import unwrap_compiled
from ...families.streams import FamilyMismatch, reading_model
from ...report import Reason
from ..common import embed_timesteps, prepare_stack
from .call_keys import branches_of, control_layout, layout_of, pass_key
from .guidance import has_own_guidance
from .inner_samplers import InnerLevels
from .memory import allocation_context
from .parametrisation import DENOISED, DERIVATIVE, Parametrisation
from .precision import Rounding
from .samplers import conditioning_boundaries, conditioning_phase, control_strengths

KEY = "teacache"
REPEATED = (
    "one branch of the guidance is evaluated more than once in a step (tiles, or conds that share "
    "an identity), so that its cached values cannot be told apart; mode=forecast can be used"
)


class RunWrappers:
    """The wrappers that need the state of one sampling run.

    Args:
        run: the run, made for the noise levels that the guider is given.
        guider: ComfyUI's guider, which holds the conds while it samples.
        restart: (run, noise levels) -> a run for these levels in place of that one.
    """

    def __init__(self, run: Run, guider: Any, restart: Callable[[Run, list[float]], Run]) -> None:
        self._run = run
        self._guider = guider
        self._restart = restart
        self._allocating = allocation_context()
        self._boundaries: list[float] | None = None
        self._stacks: dict[nn.Module, BlockStack | None] = {}
        """By transformer: where branches run on several devices, each has its own copy."""
        self._decision: Decision | None = None
        noisy = run.sampler.adds_noise or run.sampler.foreign
        self._parametrisation: Parametrisation = DENOISED if noisy else DERIVATIVE
        self._guided_forward: GuidedForward | None = None
        self._rounding = Rounding(guider)
        self._inner_levels = InnerLevels()
        self._shown: torch.Tensor | None = None
        """The level that the model is shown, where the sampler may be at another one; [rows]."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The wrappers are in force; afterwards the guider and its options are what they were.

        `predict_noise` is set on the guider itself: some guiders call it directly, past the
        wrappers of `PREDICT_NOISE`.
        """
        wrappers: dict[str, Callable[..., Any]] = {
            WrappersMP.SAMPLER_SAMPLE: self.sampler_sample,
            WrappersMP.CALC_COND_BATCH: self.calc_cond_batch,
            WrappersMP.APPLY_MODEL: self.apply_model,
        }
        with ExitStack() as stack:
            stack.enter_context(replaced(self._guider, "predict_noise", self.predict_noise))
            for kind, wrapper in wrappers.items():
                stack.enter_context(_wrapped(self._guider.model_options, kind, wrapper))
            yield

    @property
    def run(self) -> Run:
        """The run that goes on."""
        return self._run

    def sampler_sample(self, executor: Any, guider: Any, sigmas: Any, *args: Any, **kw: Any) -> Any:
        """`SAMPLER_SAMPLE`: the sampler begins, with the levels that other wrappers leave it."""
        levels = sigmas.tolist() if isinstance(sigmas, torch.Tensor) and sigmas.ndim == 1 else None
        if levels is not None and levels != self._run.position.schedule.sigmas:
            self._run = self._restart(self._run, levels)
            self._boundaries = None
            self._stacks.clear()
        with self._inner_levels.noted(executor.class_obj):
            return executor(guider, sigmas, *args, **kw)

    def predict_noise(
        self,
        predict: Callable[..., Any],
        x: torch.Tensor,
        timestep: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """One evaluation of the denoiser by the sampler.

        Args:
            predict: the guider's own `predict_noise`.
            x: the noisy latent. timestep: its noise level, [rows].
        """
        run, level = self._run, self._inner_levels.take()
        self._shown = None if level is None else timestep
        run.begin_evaluation(timestep if level is None else level, x.device)
        self._rounding.begin_evaluation()

        def evaluate() -> Any:
            return predict(x, timestep, *args, **kwargs)

        step, sigma = run.position.step, run.position.sigma
        follows = run.strategy.follows_prediction and sigma > 0 and not run.gave_up
        options = kwargs.get("model_options", next(iter(args), None))
        try:
            result = self._followed(x, evaluate, options) if follows else evaluate()
        except RecomputeEvaluation as required:
            run.recompute(required.reason)
            follows = follows and not run.gave_up
            result = self._followed(x, evaluate, options) if follows else evaluate()
        parts = _predictions(result, x) if run.observer is not None and sigma > 0 else []
        if run.observer is not None and len(parts) == 1:
            run.observer.on_prediction(step, (x - parts[0]) / sigma)
        run.end_evaluation()
        return result

    def _followed(self, x: torch.Tensor, evaluate: Callable[[], Any], options: Any) -> Any:
        """The denoised latent after guidance: evaluated, predicted, or evaluated with residuals
        in place of the block stack.

        Samplers follow the derivative (x - denoised) / sigma; what is continued is that, or the
        denoised latent (`parametrisation`). A guidance of its own kind is run in skipped steps too,
        on predicted branches.

        Args:
            options: the model options of the evaluation.
        """
        run, sigma = self._run, self._run.position.sigma
        guides = run.strategy.caches_prediction and has_own_guidance(self._guider, options)
        layout = (tuple(x.shape), x.dtype, str(x.device), self._phase(), guides)
        decision = run.decide("prediction")
        forward = PredictionForward(run, decision, "prediction", layout)
        if guides:
            with self._guided(GuidedForward(run, decision, forward)):
                denoised = evaluate()
        elif run.strategy.caches_prediction:
            predicted = forward.predict(x) if forward.skipping else None
            if predicted is not None:
                return self._parametrisation.decode(x, sigma, predicted)
            denoised = evaluate()
        else:
            with run.led_by(decision):
                denoised = evaluate()
        parts = _predictions(denoised, x)
        if not parts or (len(parts) > 1 and not guides):
            run.give_up(f"the guider returns {_form(denoised)}, not one latent")
            return denoised
        value = _joined([self._parametrisation.encode(x, sigma, part) for part in parts])
        if forward.skipping:
            forward.skipped(value)
            return denoised
        origin = self._parametrisation.origin(x)
        whole = None if origin is None else _joined([origin] * len(parts))
        derived = self._parametrisation is DERIVATIVE
        rounding = self._rounding.error(denoised) if derived else None
        corrected = forward.observe(value, whole, rounding)
        if corrected is value:
            return denoised
        latents = [
            self._parametrisation.decode(x, sigma, part) for part in corrected.chunk(len(parts))
        ]
        return latents[0] if isinstance(denoised, torch.Tensor) else type(denoised)(latents)

    @contextmanager
    def _guided(self, forward: GuidedForward) -> Iterator[None]:
        """Passes that are evaluated meanwhile are those of `forward`."""
        self._guided_forward = forward
        try:
            yield
        finally:
            self._guided_forward = None

    def _guided_pass(
        self,
        executor: Any,
        model: Any,
        conds: Any,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any],
    ) -> Any:
        """A pass of one context window, whose outputs are cached or predicted before guidance.

        A cond that is None is not evaluated: its output is 0, and tells nothing of steps where
        there is one (guidance in a part of the run).
        """
        forward, parametrisation = self._guided_forward, self._parametrisation
        assert forward is not None
        sigma = self._run.position.sigma
        given = tuple(cond is not None for cond in conds)
        key = forward.begin_pass((pass_key(model_options.get("transformer_options", {})), given))
        if forward.skipping:
            values = iter(forward.predict(key, sum(given), x))
            return [
                parametrisation.decode(x, sigma, next(values)) if known else torch.zeros_like(x)
                for known in given
            ]
        outputs = self._rounding.noted(executor(model, conds, x, timestep, model_options))
        if _predictions(outputs, x):
            evaluated = [out for out, known in zip(outputs, given, strict=True) if known]
            forward.observe(key, [parametrisation.encode(x, sigma, out) for out in evaluated])
        return outputs

    def _phase(self) -> Hashable:
        """Which conds, ControlNets and scheduled weights are in force, and how strongly."""
        if self._boundaries is None:
            try:
                with reading_model():
                    self._boundaries = self._read_boundaries()
            except FamilyMismatch as mismatch:
                self._run.give_up(f"the conds cannot be read: {mismatch}")
                self._boundaries = []
        strengths = () if self._run.gave_up else control_strengths(self._guider.conds)
        sigma = self._run.position.sigma
        if self._boundaries and self._shown is not None:
            (sigma,) = self._run.reader.read(self._shown.flatten()[:1])
        return conditioning_phase(self._boundaries, sigma), strengths

    def _read_boundaries(self) -> list[float]:
        sampling = self._guider.model_patcher.get_model_object("model_sampling")
        return conditioning_boundaries(self._guider.conds, sampling.percent_to_sigma)

    def calc_cond_batch(
        self,
        executor: Any,
        model: Any,
        conds: Any,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any],
    ) -> Any:
        """`CALC_COND_BATCH`: one pass of one context window, whose branches share a decision."""
        if self._guided_forward is not None:
            return self._guided_pass(executor, model, conds, x, timestep, model_options)
        if self._run.strategy.caches_prediction:
            return self._rounding.noted(executor(model, conds, x, timestep, model_options))
        key = pass_key(model_options.get("transformer_options", {}))
        decision = self._run.decide(key, window=("frames", key[0]))
        outer, self._decision = self._decision, decision
        try:
            try:
                outputs = executor(model, conds, x, timestep, model_options)
            except RecomputePass:
                _wait_for_devices(model_options)
                decision.restart()
                outputs = executor(model, conds, x, timestep, model_options)
            return self._rounding.noted(outputs)
        finally:
            self._decision = outer

    def apply_model(
        self,
        executor: Any,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: dict[str, Any] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """`APPLY_MODEL`: one call of the model with some of the branches in its batch."""
        options = {} if transformer_options is None else transformer_options
        arguments = (x, t, c_concat, c_crossattn, control, options)
        branches = branches_of(options)
        if self._decision is None or not branches or x.shape[0] % len(branches):
            return executor(*arguments, **kwargs)
        base_model = executor.class_obj
        stack = self._prepare(base_model, x.device)
        if stack is None:
            return executor(*arguments, **kwargs)
        if self._decision.repeats(branches):
            self._run.give_up(REPEATED)
            self._decision.require_compute(Reason.UNCACHED)
            return executor(*arguments, **kwargs)
        given = layout_of((x, c_concat, c_crossattn, kwargs))
        layout = (given, str(x.device), control_layout(control), self._phase())
        with stack.installed(StackForward(self._run, self._decision, branches, layout)):
            return executor(*arguments, **kwargs)

    def _prepare(self, model: Any, device: torch.device) -> BlockStack | None:
        """The block stack, ready for a call; None where the model runs without the cache."""
        transformer = unwrap_compiled(model.diffusion_model)

        def embed(sigmas: list[float]) -> torch.Tensor:
            levels = torch.tensor(sigmas, device=device)
            timesteps = model.model_sampling.timestep(levels).float()
            return embed_timesteps(self._run, transformer, timesteps)

        with self._run.lock:
            stack = prepare_stack(
                self._run,
                transformer,
                self._stacks.get(transformer),
                embed,
                ahead=True,
                allocating=self._allocating,
            )
            self._stacks[transformer] = stack
        return stack


@contextmanager
def replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """`owner.name` is `function`, which gets the original as its first argument."""
    original, own = getattr(owner, name), vars(owner).get(name)
    replacement = functools.partial(function, original)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if vars(owner).get(name) is replacement:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


@contextmanager
def _wrapped(
    model_options: dict[str, Any], kind: str, wrapper: Callable[..., Any]
) -> Iterator[None]:
    """`wrapper` is the innermost one of its kind, and the only one under this key."""
    options = model_options.setdefault("transformer_options", {})
    by_key = options.setdefault("wrappers", {}).setdefault(kind, {})
    before = by_key.pop(KEY, None)
    by_key[KEY] = [wrapper]
    try:
        yield
    finally:
        by_key.pop(KEY, None)
        if before is not None:
            by_key[KEY] = before


def _predictions(value: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """The latents in the shape of `x` that `value` is, or is a list or tuple of; else none."""
    parts = list(value) if type(value) in (list, tuple) else [value]
    fit = all(isinstance(part, torch.Tensor) and part.shape == x.shape for part in parts)
    return parts if fit else []


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _form(value: Any) -> str:
    """What `value` is, in words."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _wait_for_devices(model_options: dict[str, Any]) -> None:
    """Wait for what ComfyUI's pool of device threads still runs, and drop its results.

    A pass that is left by an exception leaves results in the queues of the other devices, which
    the next pass would take for its own (`comfy/multigpu.py`, `MultiGPUThreadPool`).
    """
    pool = model_options.get("multigpu_thread_pool")
    if pool is None:
        return
    end = object()
    for device in pool.devices:
        pool.submit(device, lambda: end)
        while pool.get_result(device)[0] is not end:
            pass
