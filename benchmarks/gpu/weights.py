"""Models without a file: built without memory, then filled with random weights on their device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.overrides import TorchFunctionMode

FP8 = torch.float8_e4m3fn
GAIN, BIAS = 0.6, 0.05
"""Standard deviation of a matrix's output for inputs of size 1, and of vectors: hidden states
neither grow nor vanish over the blocks."""


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves new weights as they are, whatever a module's constructor fills them with."""

    fills = ("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_")

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if getattr(function, "__name__", "") in self.fills:
            return args[0] if args else named["tensor"]
        return function(*args, **named)


@contextmanager
def without_memory() -> Iterator[None]:
    """Parameters of modules that are made meanwhile are on the meta device; tables that their
    constructors compute are real."""
    with init_empty_weights(include_buffers=False), _WithoutInitialisation():
        yield


def in_type(module: nn.Module, dtype: torch.dtype, in_float32: Sequence[str] = ()) -> None:
    """Give the parameters of `module` a type.

    Args:
        in_float32: names of parts of `module` whose parameters are kept in float32.
    """
    for path, parameter in module.named_parameters():
        kept = any(name in path.split(".") for name in in_float32)
        parameter.data = parameter.data.to(torch.float32 if kept else dtype)


def fill(module: nn.Module, device: torch.device, seed: int = 0) -> None:
    """Give the parameters of `module` memory and random values on `device`; its tables stay.

    Args:
        module: as `without_memory` made it.
        seed: of the values.
    """
    generator = torch.Generator(device).manual_seed(seed)
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                value = _random(parameter.shape, parameter.dtype, device, generator)
                part._parameters[name] = nn.Parameter(value, requires_grad=False)


def _random(
    shape: torch.Size, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> torch.Tensor:
    deviation = GAIN / shape[1:].numel() ** 0.5 if len(shape) > 1 else BIAS
    made_in = torch.bfloat16 if dtype == FP8 else dtype  # no random numbers are made in fp8
    value = torch.empty(shape, dtype=made_in, device=device)
    value.normal_(0.0, deviation, generator=generator)
    return value.to(dtype)


def parameter_count(module: nn.Module) -> int:
    """Parameters of `module`."""
    return sum(parameter.numel() for parameter in module.parameters())


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the parameters of `module`, with memory or without."""
    return sum(value.numel() * value.element_size() for value in module.parameters())
