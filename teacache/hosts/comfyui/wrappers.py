"""One sampling run of ComfyUI: the wrappers that need its state, and its block stack."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP

from ...engine.blocks import BlockStack
from ...engine.decision import Decision, ReconsiderEvaluation, ReconsiderStep
from ...engine.forward import ModelCall, WholeCall
from ...engine.run import Run
from ...families.registry import unwrap_compiled
from ...families.streams import AdapterFailed, reading
from .samplers import boundaries, phase

KEY = "teacache"


class SamplingRun:
    """The inner wrappers of one sampling run, and its block stack."""

    def __init__(self, run: Run, guider: Any) -> None:
        self._run = run
        self._guider = guider
        self._boundaries: list[float] | None = None
        self._stack: BlockStack | None = None
        self._decision: Decision | None = None

    def attach(self, model_options: dict[str, Any]) -> None:
        wrappers: list[tuple[str, Callable[..., Any]]] = [
            (WrappersMP.PREDICT_NOISE, self.predict_noise)
        ]
        if not self._run.method.whole:
            wrappers += [
                (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
                (WrappersMP.APPLY_MODEL, self.apply_model),
            ]
        for kind, wrapper in wrappers:
            comfy.patcher_extension.add_wrapper_with_key(
                kind, KEY, wrapper, model_options, is_model_options=True
            )

    def predict_noise(
        self,
        executor: Any,
        x: torch.Tensor,
        timestep: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        self._run.begin_evaluation(timestep, x.device)

        def evaluate() -> torch.Tensor:
            try:
                predicted: torch.Tensor = executor(x, timestep, *args, **kwargs)
            except ReconsiderEvaluation as demanded:
                self._run.reconsider(demanded.reason)
                predicted = executor(x, timestep, *args, **kwargs)
            return predicted

        whole = self._run.method.whole and self._run.sigma > 0
        result = self._whole(x, evaluate) if whole else evaluate()
        if self._run.observer is not None and self._run.sigma > 0:
            self._run.observer.prediction(self._run.step, (x - result) / self._run.sigma)
        self._run.end_evaluation()
        return result

    def _whole(self, x: torch.Tensor, evaluate: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The denoised latent after guidance, evaluated or continued.

        What is continued is the derivative (x - denoised) / sigma, along which samplers step.
        """
        run = self._run
        layout = (tuple(x.shape), x.dtype, str(x.device), self._phase())
        decision = run.decide("prediction")
        run.consider_latent(decision, x)
        call = WholeCall(run, decision, "prediction", layout)
        if call.skipping:
            return x - run.sigma * call.predict(x)
        denoised = evaluate()
        derivative = (x - denoised) / run.sigma
        corrected = call.observe(derivative)
        return denoised if corrected is derivative else x - run.sigma * corrected

    def _phase(self) -> Hashable:
        """Which conds, ControlNets and scheduled weights are in force."""
        if self._boundaries is None:
            self._boundaries = boundaries(self._guider.conds)
        return phase(self._boundaries, self._run.sigma)

    def calc_cond_batch(
        self,
        executor: Any,
        model: Any,
        conds: Any,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any],
    ) -> Any:
        track = _track_key(model_options.get("transformer_options", {}))
        decision = self._run.decide(track, window=("frames", track[0]))
        self._run.consider_latent(decision, x)
        outer, self._decision = self._decision, decision
        try:
            try:
                return executor(model, conds, x, timestep, model_options)
            except ReconsiderStep:
                decision.restart()
                return executor(model, conds, x, timestep, model_options)
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
        options = {} if transformer_options is None else transformer_options
        arguments = (x, t, c_concat, c_crossattn, control, options)
        branches = _branches(options)
        if self._decision is None or not branches or x.shape[0] % len(branches):
            return executor(*arguments, **kwargs)
        base_model = executor.class_obj
        stack = self._prepare(base_model, x.device)
        if stack is None:
            return executor(*arguments, **kwargs)
        given = _layout((x, c_concat, c_crossattn, kwargs))
        layout = (given, str(x.device), _control(control), self._phase())
        with stack.installed(ModelCall(self._run, self._decision, branches, layout)):
            return executor(*arguments, **kwargs)

    def _prepare(self, model: Any, device: torch.device) -> BlockStack | None:
        """The block stack, ready to decide; None where the model runs without the cache."""
        run = self._run
        if run.gave_up:
            return None
        try:
            if self._stack is None:
                transformer = unwrap_compiled(model.diffusion_model)
                with reading():
                    leading = run.method.indicator == "first_block"
                    self._stack = BlockStack(
                        transformer, run.family.lists, run.family.sides, leading
                    )
            run.plan(lambda levels: self._embed(model, levels, device))
        except AdapterFailed as failure:
            run.give_up(failure)
            return None
        return self._stack

    def _embed(self, model: Any, levels: list[float], device: torch.device) -> torch.Tensor:
        family = self._run.family
        embed = (
            family.project_timesteps
            if self._run.reading == "timestep_projection"
            else family.embed_timesteps
        )
        assert embed is not None
        timesteps = model.model_sampling.timestep(torch.tensor(levels, device=device)).float()
        return embed(unwrap_compiled(model.diffusion_model), timesteps)


def _branches(options: dict[str, Any]) -> list[Hashable]:
    """The branches in a batch, in order; empty where they are not told.

    A cond's own identity is not enough: ComfyUI gives the negative that stands opposite a positive
    with an area the identity of that positive.
    """
    if not options.get("uuids"):
        return []
    return list(zip(options["uuids"], options["cond_or_uncond"], strict=True))


def _track_key(options: dict[str, Any]) -> tuple[Hashable, Hashable, Hashable]:
    """Which context window, and which pass: the other nodes' patches that are in force."""
    window = options.get("context_window")
    frames = tuple(window.index_list) if window is not None else None
    return (
        frames,
        _patches(options.get("patches_replace", {})),
        _patches(options.get("patches", {})),
    )


def _patches(tree: dict[str, Any]) -> Hashable:
    """Names and places of patches, without their identity, which may change from call to call."""
    return tuple(
        (str(name), tuple(map(str, places)) if isinstance(places, dict) else len(places))
        for name, places in tree.items()
    )


def _layout(value: Any) -> Hashable:
    """Shapes and types of the tensors in `value`, recursively; what is no tensor is passed over."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape[1:]), value.dtype
    if isinstance(value, dict):
        return tuple((name, _layout(item)) for name, item in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_layout(item) for item in value)
    return None


def _control(control: dict[str, Any] | None) -> Hashable:
    """Which blocks a ControlNet adds to: it changes when the control starts or ends."""
    if control is None:
        return None
    return tuple(
        (name, tuple(item is not None for item in items)) for name, items in control.items()
    )
