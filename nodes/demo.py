"""Loads the demo model's text encoder as a CLIP; ComfyUI's own loaders load its other files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.utils
import folder_paths
import torch
from comfy import model_management
from comfy_api.latest import io

from ..teacache.demo.model import MAX_TOKENS, PAD, START, DemoText, TextEncoder, Tokenizer
from .schema import CATEGORY, schema

KEY = "teacache_demo"
WeightedTokens = dict[str, list[list[tuple[Any, ...]]]]


class DemoTokenizer:
    """The demo model's tokenizer with the methods of ComfyUI's, (word:1.2) weights included."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **_: Any
    ) -> WeightedTokens:
        """One row of `MAX_TOKENS` tuples: token id, weight and, if requested, word id."""
        segments = comfy.sd1_clip.token_weights(text, 1.0)
        words = [(i, weight) for part, weight in segments for i in self.tokenizer.numbers(part)]
        row = [(START, 1.0), *words][:MAX_TOKENS]
        row += [(PAD, 1.0)] * (MAX_TOKENS - len(row))
        if not return_word_ids:
            return {KEY: [row]}
        return {KEY: [[(i, w, n if i > START else 0) for n, (i, w) in enumerate(row)]]}

    def untokenize(self, pairs: list[tuple[Any, ...]]) -> list[tuple[Any, str]]:
        """Each tuple of token id and weight with the token's word."""
        special = {PAD: "", START: ""}
        names = special | {number: word for word, number in self.tokenizer.ids.items()}
        return [(pair, names[pair[0]]) for pair in pairs]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Empty: the vocabulary is in the text encoder's file."""
        return {}


class DemoConditioner(torch.nn.Module):
    """The demo model's text encoder with the methods of ComfyUI's CLIP models."""

    def __init__(self, encoder: TextEncoder, device: Any, dtype: torch.dtype, **_: Any) -> None:
        super().__init__()
        self.encoder = encoder.to(device)  # in float32: it is small
        self.dtypes = {torch.float32}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Does nothing: there is no choice of layers."""

    def reset_clip_options(self) -> None:
        """Does nothing: there is no choice of layers."""

    @torch.no_grad()
    def encode_token_weights(self, tokens: WeightedTokens) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodes one prompt; a weighted token is scaled relative to the empty prompt's.

        Returns:
            The context, `[1, tokens, width]`, and the pooled text, `[1, width]`.
        """
        row = tokens[KEY][0]
        empty = [START] + [PAD] * (MAX_TOKENS - 1)
        device = self.encoder.position.device
        cond, pooled = self.encoder(torch.tensor([[t[0] for t in row], empty], device=device))
        weights = torch.tensor([t[1] for t in row], device=device).unsqueeze(-1)
        weighted = torch.where(weights == 1, cond[0], cond[1] + (cond[0] - cond[1]) * weights)
        out = model_management.intermediate_device()
        return weighted.unsqueeze(0).to(out), pooled[:1].to(out)

    def load_sd(self, weights: dict[str, torch.Tensor]) -> Any:
        """Loads `weights` and returns the missing and the unexpected keys."""
        return self.load_state_dict(weights, strict=False)


def load_clip(path: str) -> comfy.sd.CLIP:
    """Loads the text encoder from a safetensors file."""
    text = DemoText.load(path)
    target = SimpleNamespace(
        params={},
        clip=lambda **kwargs: DemoConditioner(text.encoder, **kwargs),
        tokenizer=lambda **_: DemoTokenizer(text.tokenizer),
    )
    return comfy.sd.CLIP(
        target, parameters=comfy.utils.calculate_parameters(text.encoder.state_dict())
    )


class LoadDemoTextEncoder(io.ComfyNode):
    """Loads the demo model's text encoder as a CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            search_aliases=["demo CLIP loader"],
            node_id="LoadDemoTextEncoder",
            display_name="Load Demo Text Encoder",
            category=f"{CATEGORY}/demo",
            description="Loads the text encoder of the TeaCache demo model, for CLIP Text Encode.",
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=demo_files(),
                    tooltip="teacache_demo_text.safetensors, which comes with this pack.",
                )
            ],
            outputs=[io.Clip.Output(tooltip="For CLIP Text Encode.")],
        )

    @classmethod
    def execute(cls, text_encoder: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("text_encoders", text_encoder)
        return io.NodeOutput(load_clip(path))


def demo_files() -> list[str]:
    """The names of all text encoder files, those of the demo model first."""
    files = folder_paths.get_filename_list("text_encoders")
    return sorted(files, key=lambda name: ("teacache_demo" not in name, name))


NODES: list[type[io.ComfyNode]] = [LoadDemoTextEncoder]
