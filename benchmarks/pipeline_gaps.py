"""What diffusers' models and pipelines lack for the caches, added while a cache is enabled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import FluxPipeline, QwenImagePipeline, StableDiffusion3Pipeline
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor, nn

from benchmarks.testbeds import Testbed


class BlockReturningText(JointTransformerBlock):  # type: ignore[misc]
    """SD3's last block, returning its input text instead of None."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        _, image = super().forward(
            hidden_states, encoder_hidden_states, temb, joint_attention_kwargs
        )
        return encoder_hidden_states, image


@contextmanager
def last_block_returns_text(transformer: nn.Module) -> Iterator[None]:
    """Makes SD3's last block return a text tensor, which the model ignores."""
    block = [part for part in transformer.children() if isinstance(part, nn.ModuleList)][-1][-1]
    if type(block) is not JointTransformerBlock:
        yield
        return
    TransformerBlockRegistry.register(
        BlockReturningText,
        TransformerBlockMetadata(
            return_hidden_states_index=1, return_encoder_hidden_states_index=0
        ),
    )
    block.__class__ = BlockReturningText
    try:
        yield
    finally:
        block.__class__ = JointTransformerBlock


@contextmanager
def cache_contexts(testbed: Testbed) -> Iterator[None]:
    """Sets the cache context before each call: the SD3 pipeline sets none, those of FLUX and
    Qwen-Image only its name."""
    pipe = testbed.pipe
    transformer = pipe.transformer

    def place() -> dict[str, Any]:
        scheduler = pipe.scheduler
        step = scheduler.step_index or 0
        return {
            "step_index": step,
            "num_inference_steps": scheduler.num_inference_steps,
            "sigma": float(scheduler.sigmas[step]),
        }

    def set_context(transformer: nn.Module, args: Any) -> None:
        _set_cache_context(transformer, CacheContext("both", **place()))

    if isinstance(pipe, StableDiffusion3Pipeline):
        hook = transformer.register_forward_pre_hook(set_context)
        try:
            yield
        finally:
            hook.remove()
    elif isinstance(pipe, (FluxPipeline, QwenImagePipeline)):
        by_name = transformer.cache_context
        transformer.cache_context = lambda name: by_name(name, **place())
        try:
            yield
        finally:
            del transformer.cache_context
    else:
        yield


@contextmanager
def restored_on_exit(transformer: nn.Module) -> Iterator[None]:
    """Undoes what cache-dit leaves on FLUX when it is disabled.

    That is forwards of its own, and the lists of blocks in another order, by which other caches
    take the wrong block for the first one.
    """
    order = list(transformer._modules)
    try:
        yield
    finally:
        for name in order:
            transformer._modules[name] = transformer._modules.pop(name)
        for module in transformer.modules():
            for name in ("forward", "_is_patched"):
                vars(module).pop(name, None)
