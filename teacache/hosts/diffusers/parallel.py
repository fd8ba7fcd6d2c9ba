"""Whether a transformer is split over processes, and over which.

Processes that each hold a whole transformer and make a picture of their own do not wait for each
other. Those among which tokens (context parallelism) or weights (tensor parallelism, FSDP) are
split call the blocks together, and must skip them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ...engine.parallel import Ranks
from ...families.spec import unwrap_compiled


def ranks_of(transformers: Iterable[nn.Module], device: torch.device) -> Ranks | None:
    """The processes that share `transformers`; None where each is whole.

    Args:
        device: of the latent.
    """
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    groups: dict[int, Any] = {}
    for transformer in transformers:
        module = unwrap_compiled(transformer)
        for group in (*_configured(module), *_sharded(module)):
            if distributed.get_world_size(group) > 1:
                groups.setdefault(id(group), group)
    return Ranks(list(groups.values()), device) if groups else None


def _configured(module: Any) -> Iterator[Any]:
    """The groups of diffusers' `enable_parallelism`."""
    config = module._parallel_config if hasattr(module, "_parallel_config") else None
    if config is None:
        return
    if config.context_parallel_config is not None:
        yield config.context_parallel_config._flattened_mesh.get_group()
    if hasattr(config, "tensor_parallel_config") and config.tensor_parallel_config is not None:
        yield config.tensor_parallel_config._mesh.get_group()


def _sharded(module: nn.Module) -> Iterator[Any]:
    """The groups over which the parameters are split."""
    from torch.distributed.tensor import DTensor

    for parameter in module.parameters():
        if isinstance(parameter, DTensor):
            mesh = parameter.device_mesh
            for dimension, placement in enumerate(parameter.placements):
                if placement.is_shard():
                    yield mesh.get_group(dimension)
