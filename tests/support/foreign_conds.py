"""Conds with what other nodes put on them: areas, ranges, ControlNets, LoRAs with a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tiny_models
import torch
from hostile import FAMILY

WEIGHT = "diffusion_model.joint_blocks.1.x_block.mlp.fc1.weight"


def cond(seed: int, **entries: Any) -> list[Any]:
    """A cond of the small model with further entries."""
    ((context, known),) = tiny_models.cond(FAMILY, seed)
    return [[context, {**known, **entries}]]


class Control:
    """Makes a ControlNet that adds to the last block, and remembers what it gave."""

    def __init__(self, **keywords: Any) -> None:
        from comfy.controlnet import ControlBase

        gave: list[bool] = []

        class Adding(ControlBase):
            def get_control(self, x: Any, t: Any, *_: Any) -> Any:
                inside = self.timestep_range[1] <= float(t[0]) <= self.timestep_range[0]
                gave.append(inside)
                if not inside:
                    return None
                tokens = (x.shape[2] // 2) * (x.shape[3] // 2)
                adds = torch.linspace(-1.0, 1.0, tokens * 128).view(1, tokens, 128)
                return {"output": [adds, adds], "input": [], "middle": []}

            def copy(self) -> Any:
                made = Adding()
                self.copy_to(made)
                return made

        self.gave = gave
        self.net = Adding()


def lora(model: Any, strength: float = 0.05) -> dict[str, Any]:
    """Patches of one weight of the small model."""
    return {WEIGHT: (torch.ones_like(model.model_state_dict()[WEIGHT]) * strength,)}


def lora_with_keyframes(model: Any, keyframes: dict[float, float]) -> Any:
    """A hook with a LoRA. keyframes: strength from each share of the denoising on."""
    import comfy.hooks

    group = comfy.hooks.create_hook_lora(lora(model), 1.0, 1.0)
    group.hooks[0].need_weight_init = False
    frames = comfy.hooks.HookKeyframeGroup()
    for start, strength in keyframes.items():
        frames.add(comfy.hooks.HookKeyframe(strength, start))
    group.set_keyframes_on_hooks(frames)
    return group


def _controlled(model: Any) -> list[Any]:
    import nodes

    image = torch.zeros(1, 32, 32, 3)
    positive, _ = nodes.ControlNetApplyAdvanced().apply_controlnet(
        cond(1), cond(2), Control().net, image, 1.0, 0.3, 0.7
    )
    return positive


CONDS: dict[str, Callable[[Any], list[Any]]] = {
    "one": lambda model: cond(1),
    "two": lambda model: cond(1) + cond(3),
    "early": lambda model: cond(1, end_percent=0.6) + cond(3),
    "area": lambda model: cond(1) + cond(3, area=(4, 2, 0, 0)),
    "mask": lambda model: cond(1, mask=torch.ones(1, 4, 4) / 2, mask_strength=0.8) + cond(3),
    "control": _controlled,
    "hooks": lambda model: cond(1, hooks=lora_with_keyframes(model, {0.0: 0.0, 0.5: 4.0})),
}
"""Makers of positive conds for the small model, by what is special about them."""
