"""Decisions equal an independent implementation of the published algorithm, step for step.

The reference is written from the paper (arXiv 2411.19108) and FACTS, not from the package: the
model runs natively, every block included; hooks read the modulated input where the first
attention takes it in, and overwrite the last block's output on the steps that TeaCache skips.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from sampling import cached, report_of, sample

pytestmark = pytest.mark.usefixtures("comfy")

FLUX_DEV = [4.98651651e02, -2.83781631e02, 5.58554382e01, -3.82021401e00, 2.64230861e-01]
QWEN_IMAGE = [45.1443, -52.9113, 17.0784, 0.10393, 0]
WAN_1_3B = [2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774]


class Reference:
    """TeaCache for one branch, as hooks on a native model."""

    def __init__(self, coefficients: list[float], threshold: float, steps: int) -> None:
        self.poly = np.poly1d(coefficients)
        self.threshold, self.steps = threshold, steps
        self.step = -1
        self.accumulated = 0.0
        self.previous: torch.Tensor | None = None
        self.residual: torch.Tensor | None = None
        self.entry: torch.Tensor | None = None
        self.skips: list[bool] = []

    def indicator(self, m: torch.Tensor) -> None:
        self.step += 1
        if self.step in (0, self.steps - 1):
            skip, self.accumulated = False, 0.0
        else:
            change = ((m - self.previous).abs().mean() / self.previous.abs().mean()).item()
            self.accumulated += float(self.poly(change))
            skip = self.accumulated < self.threshold
            if not skip:
                self.accumulated = 0.0
        self.previous = m.clone()
        self.skips.append(skip)

    def leave(self, image: torch.Tensor) -> torch.Tensor:
        if self.skips[-1]:
            return self.entry + self.residual
        self.residual = image - self.entry
        return image


def hook_sd3(model: torch.nn.Module, ref: Reference) -> list[Any]:
    blocks = model.joint_blocks
    return [
        blocks[0].x_block.attn.qkv.register_forward_pre_hook(lambda m, a: ref.indicator(a[0])),
        blocks[0].register_forward_pre_hook(lambda m, a: setattr(ref, "entry", a[1].clone())),
        blocks[-1].register_forward_hook(lambda m, a, out: (out[0], ref.leave(out[1]))),
    ]


def hook_flux(model: torch.nn.Module, ref: Reference) -> list[Any]:
    double, single = model.double_blocks, model.single_blocks

    def end(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        tokens = ref.entry.shape[1]
        return torch.cat((out[:, :-tokens], ref.leave(out[:, -tokens:])), dim=1)

    return [
        double[0].img_attn.qkv.register_forward_pre_hook(lambda m, a: ref.indicator(a[0])),
        double[0].register_forward_pre_hook(
            lambda m, a, k: setattr(ref, "entry", k["img"].clone()), with_kwargs=True
        ),
        single[-1].register_forward_hook(end),
    ]


def hook_qwen(model: torch.nn.Module, ref: Reference) -> list[Any]:
    blocks = model.transformer_blocks
    return [
        blocks[0].attn.to_q.register_forward_pre_hook(lambda m, a: ref.indicator(a[0])),
        blocks[0].register_forward_pre_hook(
            lambda m, a, k: setattr(ref, "entry", k["hidden_states"].clone()), with_kwargs=True
        ),
        blocks[-1].register_forward_hook(lambda m, a, out: (out[0], ref.leave(out[1]))),
    ]


def hook_wan(model: torch.nn.Module, ref: Reference) -> list[Any]:
    blocks = model.blocks
    return [
        model.time_embedding.register_forward_hook(lambda m, a, out: ref.indicator(out)),
        blocks[0].register_forward_pre_hook(lambda m, a: setattr(ref, "entry", a[0].clone())),
        blocks[-1].register_forward_hook(lambda m, a, out: ref.leave(out)),
    ]


CASES: dict[str, tuple[Callable[..., list[Any]], list[float], str, list[float]]] = {
    "sd3": (hook_sd3, [4, 0], "sd3-uncalibrated", [0.08, 0.2, 0.4, 1.2, 2.4, 8.0]),
    "flux1": (hook_flux, FLUX_DEV, "flux1-dev", [0.19, 0.3, 0.45, 0.7, 1.5, 4.0]),
    "qwen_image": (hook_qwen, QWEN_IMAGE, "qwen-image-mlx", [0.002, 0.02, 0.1, 0.3, 1.0, 4.0]),
    "wan21": (hook_wan, WAN_1_3B, "wan21-t2v-1.3b", [0.08, 0.12, 0.15, 0.2, 0.3, 0.5]),
}


@pytest.mark.parametrize("name", list(CASES))
def test_decisions_and_latents_equal_the_reference(name: str) -> None:
    hook, coefficients, profile, thresholds = CASES[name]
    steps = 14
    model = tiny_models.build(name)
    patterns = set()
    for threshold in thresholds:
        reference = Reference(coefficients, threshold, steps)
        hooks = hook(model.model.diffusion_model, reference)
        try:
            expected = sample(model, name, steps=steps, cfg=1.0)
        finally:
            for handle in hooks:
                handle.remove()
        clone, handle = cached(model, threshold, profile=profile)
        got = sample(clone, name, steps=steps, cfg=1.0)
        report = report_of(handle)
        assert [record.skipped for record in report.records] == reference.skips, threshold
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        patterns.add(tuple(reference.skips))
    assert len(patterns) >= 3, f"the thresholds do not tell schedules apart: {patterns}"
    mixed = [p for p in patterns if any(p) and not all(p[1:-1])]
    assert mixed, "no threshold gave both skipped and computed steps"
