"""Tensors in another type, and cached ones on their way to main memory and back, without making the
host wait.

Copies between a graphics card and pinned memory are queued like any other work of the device. What
was copied to main memory is therefore read by nothing but the copy back, which is queued behind.
"""

from __future__ import annotations

import torch


def to_main_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of `tensor` in main memory, pinned where the tensor is on a CUDA device.

    Where no memory can be pinned the host waits for a copy into ordinary memory.
    """
    if tensor.device.type != "cuda":
        return tensor.to("cpu")
    try:
        held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    except RuntimeError:
        return tensor.to("cpu")
    return held.copy_(tensor, non_blocking=True)


def in_float32(tensor: torch.Tensor, copy: bool = False) -> torch.Tensor:
    """`tensor` in float32, or in its own type where that is wider, as sums of several values need.

    Args:
        copy: whether the result has memory of its own in any case.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=copy)


def beside(held: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`held` on the device of `tensor`, in its own type."""
    return held if held.device == tensor.device else held.to(tensor.device, non_blocking=True)
