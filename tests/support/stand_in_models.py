"""Stand-ins for transformers that only newer versions of ComfyUI have, by their full names.

They have the structure of the models, in small: how the blocks are called, what a block takes and
returns, and what is kept from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

WIDTH = 32
DEPTH = 4

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(queries, keys, values), each [rows, tokens, width] -> [rows, tokens, width]."""


def named(full_name: str) -> Callable[[type], type]:
    """Gives a class the full name of the one that it stands for."""

    def rename(kind: type) -> type:
        kind.__module__, kind.__qualname__ = full_name.rsplit(".", 1)
        return kind

    return rename


def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return nn.functional.scaled_dot_product_attention(queries, keys, values)


class QwenBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img_norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(
        self,
        x: torch.Tensor,
        mod: Any,
        pe: torch.Tensor,
        attn_fn: Attention,
        prefix_len: int,
        transformer_options: dict[str, Any],
    ) -> torch.Tensor:
        (of_prefix, of_image), gate = mod[0], mod[1]
        scale = torch.cat(
            [
                of_prefix.expand(x.shape[0], prefix_len, WIDTH),
                of_image.expand(x.shape[0], x.shape[1] - prefix_len, WIDTH),
            ],
            dim=1,
        )
        q, k, v = self.qkv(self.img_norm1(x) * (1 + scale)).chunk(3, dim=-1)
        x += gate * self.out(attn_fn(q + pe, k + pe, v))  # in place, as there
        return x


@named("comfy.ldm.qwen_image21.model.QwenImage21Transformer2DModel")
class QwenImage21(nn.Module):
    """Qwen-Image 2.1: text before the image, whose keys and values may be kept for a run.

    Args:
        keeps_prefix: Whether they are.
    """

    def __init__(self, keeps_prefix: bool) -> None:
        super().__init__()
        self.img_in = nn.Linear(8, WIDTH)
        self.txt_in = nn.Linear(16, WIDTH)
        self.time_in = nn.Linear(1, WIDTH)
        self.transformer_blocks = nn.ModuleList(QwenBlock() for _ in range(DEPTH))
        self.proj_out = nn.Linear(WIDTH, 8)
        self.keeps_prefix = keeps_prefix
        self.kept: dict[bytes, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: Any
    ) -> tuple[torch.Tensor]:
        prefix, image = self.txt_in(encoder_hidden_states), self.img_in(hidden_states)
        scale = self.time_in(timestep.view(-1, 1)).unsqueeze(1)
        mod = ((self.time_in(torch.zeros(1, 1)).unsqueeze(1), scale), 0.2)
        length = prefix.shape[1]
        place = torch.linspace(-1, 1, WIDTH).expand(1, length + image.shape[1], -1)
        key = encoder_hidden_states.numpy().tobytes()
        kept = self.kept.get(key, [])
        filling = self.keeps_prefix and not kept
        x = image if self.keeps_prefix else torch.cat([prefix, image], dim=1)
        for index, block in enumerate(self.transformer_blocks):
            if filling:

                def keeping(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
                    kept.append((k, v))
                    return attend(q, k, v)

                prefix = block(prefix, mod, place[:, :length], keeping, length, {})
            if self.keeps_prefix:
                x = block(x, mod, place[:, length:], reading(*kept[index]), 0, {})
            else:
                x = block(x, mod, place, prefix_first(length), length, {})
        if self.keeps_prefix:
            self.kept[key] = kept
        return (self.proj_out(x[:, -image.shape[1] :]),)


def reading(keys: torch.Tensor, values: torch.Tensor) -> Attention:
    """Attention of the image to a prefix that is kept, and to itself."""
    return lambda q, k, v: attend(q, torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1))


def prefix_first(length: int) -> Attention:
    """Attention of the prefix to itself, and of the image to all."""
    return lambda q, k, v: torch.cat(
        [attend(q[:, :length], k[:, :length], v[:, :length]), attend(q[:, length:], k, v)], dim=1
    )


class SenseNovaLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(WIDTH)
        self.input_layernorm_mot_gen = nn.RMSNorm(WIDTH)
        self.of_text = nn.Linear(WIDTH, 3 * WIDTH)
        self.of_image = nn.Linear(WIDTH, 3 * WIDTH)

    def forward_prefix(
        self, prefix: torch.Tensor, options: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v = self.of_text(self.input_layernorm(prefix)).chunk(3, dim=-1)
        return prefix + 0.2 * attend(q, k, v), k, v

    def forward_generation(
        self,
        image: torch.Tensor,
        image_rope: torch.Tensor,
        prefix_key: torch.Tensor,
        prefix_value: torch.Tensor,
        transformer_options: dict[str, Any],
    ) -> torch.Tensor:
        q, k, v = self.of_image(self.input_layernorm_mot_gen(image)).chunk(3, dim=-1)
        attention = reading(prefix_key, prefix_value)
        return image + 0.2 * attention(q + image_rope, k + image_rope, v)


@named("comfy.ldm.sensenova.model.SenseNovaU15")
class SenseNova(nn.Module):
    """SenseNova U1.5: the layers of a language model, with a method for text and one for images."""

    def __init__(self) -> None:
        super().__init__()
        self.image_in = nn.Linear(8, WIDTH)
        self.text_in = nn.Linear(16, WIDTH)
        self.time_in = nn.Linear(1, WIDTH)
        self.language_model = nn.Module()
        self.language_model.model = nn.Module()
        self.language_model.model.layers = nn.ModuleList(SenseNovaLayer() for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, 8)

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: Any
    ) -> tuple[torch.Tensor]:
        prefix = self.text_in(encoder_hidden_states)
        image = self.image_in(hidden_states) + self.time_in(timestep.view(-1, 1)).unsqueeze(1)
        rope = torch.linspace(-1, 1, WIDTH).expand_as(image)
        for layer in self.language_model.model.layers:
            prefix, key, value = layer.forward_prefix(prefix, {})
            image = layer.forward_generation(image, rope, key, value, {})
        return (self.head(image),)


STAND_INS: tuple[Callable[[], nn.Module], ...] = (lambda: QwenImage21(True), SenseNova)
