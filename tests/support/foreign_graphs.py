"""Nodes as other packs make them, on the small model; any of them may raise at one of its calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import foreign
import torch
from foreign_conds import lora
from hostile import make_failure
from torch import nn

Node = Callable[[Any, "Calls"], Any]
"""(model patcher, calls) -> model patcher with the node on it."""


class NodeError(Exception):
    """An exception of another pack."""


@dataclass
class Calls:
    """Counts the calls of one node's functions, and raises at one of them.

    Args:
        fails_at: the call that raises, None for none.
        kind: of what is raised: one of `FAILURES`.
        scale: what the node multiplies values by.
    """

    fails_at: int | None
    kind: str
    scale: float
    count: int = 0

    def __call__(self, value: Any = None) -> Any:
        """`value`, its tensors scaled."""
        self.count += 1
        if self.count == self.fails_at:
            if self.kind == "own":
                raise NodeError(f"call {self.count}")
            if self.kind == "stop":
                raise StopIteration(self.count)
            raise make_failure(self.kind)
        if isinstance(value, torch.Tensor):
            return value * self.scale
        if isinstance(value, (list, tuple)):
            return type(value)(self.scaled(item) for item in value)
        return value

    def scaled(self, value: Any) -> Any:
        return value * self.scale if isinstance(value, torch.Tensor) else value


FAILURES = ("error", "memory", "interrupt", "ctrl-c", "own", "stop")


def _wrapper(kind: str, passes: int = 1) -> Node:
    """A wrapper that calls what it wraps `passes` times. kind: an attribute of WrappersMP."""

    def node(model: Any, calls: Calls) -> Any:
        from comfy.patcher_extension import WrappersMP

        def wrapped(executor: Any, *args: Any, **options: Any) -> Any:
            for _ in range(passes - 1):
                executor(*args, **options)
            return calls(executor(*args, **options))

        clone = model.clone()
        clone.add_wrapper_with_key(getattr(WrappersMP, kind), f"{kind} {passes}", wrapped)
        return clone

    return node


def _resampled(wrapper: Callable[..., Any]) -> Node:
    def node(model: Any, calls: Calls) -> Any:
        from comfy.patcher_extension import WrappersMP

        def wrapped(*args: Any, **options: Any) -> Any:
            calls()
            return wrapper(*args, **options)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, wrapper.__name__, wrapped)
        return clone

    return node


def _callback(kind: str) -> Node:
    """A callback. kind: an attribute of CallbacksMP."""

    def node(model: Any, calls: Calls) -> Any:
        from comfy.patcher_extension import CallbacksMP

        clone = model.clone()
        clone.add_callback_with_key(getattr(CallbacksMP, kind), kind, lambda *_, **__: calls())
        return clone

    return node


def _option(method: str) -> Node:
    """A function of the guidance, put on by `method` of the patcher."""

    def node(model: Any, calls: Calls) -> Any:
        def post(args: dict[str, Any]) -> Any:
            return calls(args["denoised"])

        def pre(args: dict[str, Any]) -> Any:
            return calls(args["conds_out"])

        def cfg(args: dict[str, Any]) -> Any:
            return calls(args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"])

        def batch(args: dict[str, Any]) -> Any:
            import comfy.samplers

            given = (args["model"], args["conds"], args["input"], args["sigma"])
            return calls(comfy.samplers.calc_cond_batch(*given, args["model_options"]))

        def mask(sigma: Any, mask: Any, extra_options: Any) -> Any:
            return calls(mask).clamp(0, 1)

        functions = {
            "sampler_post_cfg": post, "sampler_pre_cfg": pre, "sampler_cfg": cfg,
            "sampler_calc_cond_batch": batch, "denoise_mask": mask,
        }  # fmt: skip
        clone = model.clone()
        getattr(clone, f"set_model_{method}_function")(functions[method])
        return clone

    return node


def _unet_wrapper(tiles: bool) -> Node:
    def node(model: Any, calls: Calls) -> Any:
        def wrapped(apply: Any, args: dict[str, Any]) -> torch.Tensor:
            if tiles:
                return calls(foreign.tiled(apply, args))
            return calls(apply(args["input"], args["timestep"], **args["c"]))

        clone = model.clone()
        clone.set_model_unet_function_wrapper(wrapped)
        return clone

    return node


def _block_replaced(model: Any, calls: Calls) -> Any:
    """A replacement of a block by `patches_replace`."""

    def replaced(args: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        out = more["original_block"](args)
        return {**out, "img": calls(out["img"])}

    clone = model.clone()
    clone.set_model_patch_replace(replaced, "dit", "double_block", 1)
    return clone


class _Around(nn.Module):
    """A module around another one."""

    def __init__(self, inner: nn.Module, calls: Calls) -> None:
        super().__init__()
        self.inner = inner
        self.calls = calls

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.calls(self.inner(*args, **options))


def _object(path: str) -> Node:
    """A module of the model, exchanged for one around it."""

    def node(model: Any, calls: Calls) -> Any:
        clone = model.clone()
        clone.add_object_patch(path, _Around(model.get_model_object(path), calls))
        return clone

    return node


def _method(path: str) -> Node:
    """A method of the model, exchanged for a function around it."""

    def node(model: Any, calls: Calls) -> Any:
        original = model.get_model_object(path)
        clone = model.clone()
        clone.add_object_patch(path, lambda *args, **options: calls(original(*args, **options)))
        return clone

    return node


def _injected(model: Any, calls: Calls) -> Any:
    """A forward that is exchanged while the model is loaded."""
    from comfy.patcher_extension import PatcherInjection

    def inject(patcher: Any) -> None:
        layer = patcher.model.diffusion_model.final_layer
        kind = type(layer)
        layer.forward = lambda *args, **options: calls(kind.forward(layer, *args, **options))

    def eject(patcher: Any) -> None:
        vars(patcher.model.diffusion_model.final_layer).pop("forward", None)

    clone = model.clone()
    clone.set_injections("injected", [PatcherInjection(inject, eject)])
    return clone


def _lora(model: Any, calls: Calls) -> Any:
    clone = model.clone()
    clone.add_patches(lora(model, calls.scale - 0.8))
    return clone


def _options(model: Any, calls: Calls) -> Any:
    """Entries of its own in `transformer_options`, as other caches have them."""
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    options |= {"rel_l1_thresh": 0.2, "teacache_state": {"cond": {}}, "patches": {}}
    return clone


def _comfyui(module: str, name: str, *values: Any) -> Node:
    """A node of ComfyUI's own."""

    def node(model: Any, calls: Calls) -> Any:
        import importlib

        kind = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
        if hasattr(kind, "execute"):
            return kind.execute(model, *values).result[0]
        return kind().patch(model, *values)[0]

    return node


NODES: dict[str, Node] = {
    **{
        f"{kind} wrapper, {passes}": _wrapper(kind, passes)
        for kind in (
            "OUTER_SAMPLE", "PREPARE_SAMPLING", "SAMPLER_SAMPLE", "PREDICT_NOISE",
            "CALC_COND_BATCH", "APPLY_MODEL", "DIFFUSION_MODEL",
        )
        for passes in ((1,) if kind == "PREPARE_SAMPLING" else (1, 2))
    },
    **{
        f"{kind} callback": _callback(kind)
        for kind in ("ON_PRE_RUN", "ON_CLEANUP", "ON_PREPARE_STATE")
    },
    **{
        f"{method} function": _option(method)
        for method in (
            "sampler_post_cfg", "sampler_pre_cfg", "sampler_cfg", "sampler_calc_cond_batch",
            "denoise_mask",
        )
    },
    "shortened": _resampled(foreign.shortened),
    "denser": _resampled(foreign.denser),
    "unet wrapper": _unet_wrapper(tiles=False),
    "tiles": _unet_wrapper(tiles=True),
    "block replaced": _block_replaced,
    "final layer exchanged": _object("diffusion_model.final_layer"),
    "block exchanged": _object("diffusion_model.joint_blocks.0"),
    "forward exchanged": _method("diffusion_model.forward"),
    "apply_model exchanged": _method("apply_model"),
    "injected": _injected,
    "lora": _lora,
    "options": _options,
    "ModelSamplingSD3": _comfyui("nodes_model_advanced", "ModelSamplingSD3", 2.0),
    "RescaleCFG": _comfyui("nodes_model_advanced", "RescaleCFG", 0.7),
    "SkipLayerGuidance": _comfyui("nodes_slg", "SkipLayerGuidanceDiT", 3.0, 0.0, 0.8, "1", ""),
    "PerturbedAttention": _comfyui("nodes_pag", "PerturbedAttentionGuidance", 3.0),
    "EasyCache": _comfyui("nodes_easycache", "EasyCacheNode", 0.3, 0.15, 0.95, False),
    "LazyCache": _comfyui("nodes_easycache", "LazyCacheNode", 0.3, 0.15, 0.95, False),
    "CFGZeroStar": _comfyui("nodes_cfg", "CFGZeroStar"),
    "CFGNorm": _comfyui("nodes_cfg", "CFGNorm", 0.9),
    "TCFG": _comfyui("nodes_tcfg", "TCFG"),
    "Mahiro": _comfyui("nodes_mahiro", "Mahiro"),
    "APG": _comfyui("nodes_apg", "APG", 0.8, 5.0, -0.3),
    "EpsilonScaling": _comfyui("nodes_eps", "EpsilonScaling", 1.005),
}  # fmt: skip
"""Nodes by name. Those of ComfyUI's own never raise by themselves."""
