"""The stand-in of the transformer: one token for each position of the latent."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CHANNELS, WIDTH, FREQUENCIES, TEXT_WIDTH, BLOCKS = 4, 12, 16, 6, 3


class WanAttentionBlock(nn.Module):
    """Takes and returns the video's tokens and what other models add beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.text = nn.Linear(TEXT_WIDTH, WIDTH)
        self.calls = 0
        self.device_moves = 0

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.device_moves += 1
        return super()._apply(fn, recurse)

    def forward(
        self, x: torch.Tensor, e: Any, context: Any, x_ip: Any = None,
        lynx_ref_feature: Any = None, x_ovi: Any = None, **other: Any,
    ) -> Any:  # fmt: skip
        self.calls += 1
        shift, scale = e[:, :WIDTH], e[:, WIDTH : 2 * WIDTH]
        moved = self.mix(x * (1 + scale)) + shift + self.text(context).mean(0)
        return x + 0.3 * torch.tanh(moved), x_ip, lynx_ref_feature, x_ovi


class WanModel(nn.Module):
    """Its forward has the pack's arguments, as far as the sampler's stand-in gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.model_type, self.freq_dim = "t2v", FREQUENCIES
        self.dim = WIDTH
        self.in_dim = self.out_dim = CHANNELS
        self.slg_blocks: list[int] | None = None
        self.enable_teacache = False
        self.swaps = False
        """Whether blocks are moved before and after they run, as with block swap."""
        self.outputs = 3
        """The video, the sound and the state of the pack's own cache; older versions lack one."""
        self.is_longcat = False
        """Whether it predicts the negative of what the schedulers take."""
        self.sound = False
        """Whether a sound is returned beside the video."""
        self.calls = 0
        self.patch_embedding = nn.Linear(CHANNELS, WIDTH)
        self.time_embedding = nn.Sequential(
            nn.Linear(FREQUENCIES, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        self.blocks = nn.ModuleList([WanAttentionBlock() for _ in range(BLOCKS)])
        self.head = nn.Linear(WIDTH, CHANNELS)

    def forward(
        self, x: Any, t: torch.Tensor, context: Any, seq_len: int, is_uncond: bool = False,
        current_step_percentage: float = 0.0, current_step: int = 0, last_step: bool = False,
        y: Any = None, pred_id: Any = None, add_cond: Any = None, transformer_options: Any = None,
    ) -> Any:  # fmt: skip
        self.calls += 1
        latent = x[0][:CHANNELS]
        tokens = self.patch_embedding(latent.flatten(1).T)[None]
        angles = t.float()[:, None] * 0.002 * torch.arange(1, FREQUENCIES // 2 + 1)
        e = self.time_embedding(torch.cat([angles.cos(), angles.sin()], dim=1))
        e0 = self.time_projection(e)
        x_ip = lynx = x_ovi = None
        for index, block in enumerate(self.blocks):
            if self.swaps:
                block.to(torch.float32)
            if self.slg_blocks and is_uncond and index in self.slg_blocks:
                continue
            tokens, x_ip, lynx, x_ovi = block(
                tokens, x_ip=x_ip, lynx_ref_feature=lynx, x_ovi=x_ovi, e=e0, context=context[0]
            )
            if self.swaps:
                block.to(torch.float32)
        video = self.head(tokens[0]).T.reshape(latent.shape)
        beside = [video.mean()] if self.sound else None
        return ([video.float()], beside, pred_id)[: self.outputs]


class WanVideoModel(nn.Module):
    """What a patcher of the pack holds: the transformer, and settings by name."""

    def __init__(self, transformer: WanModel) -> None:
        super().__init__()
        self.diffusion_model = transformer
        self.pipeline: dict[str, Any] = {"compile_args": None}

    def __getitem__(self, name: str) -> Any:
        return self.pipeline[name]
