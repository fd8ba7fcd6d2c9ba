"""The demo model: its files, its text encoder and tokeniser, and its export to diffusers.

The transformer's file has diffusers' keys, which ComfyUI converts as it loads them, the
autoencoder's has ComfyUI's, and the text encoder's those of `TextEncoder` and the vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import GELU, Embedding, LayerNorm, Linear, MultiheadAttention, Sequential

from ..files import write_atomically, write_json
from ..installation import pack_folder

MODELS = pack_folder() / "models"
TRANSFORMER_FILE = Path("diffusion_models", "teacache_demo.safetensors")
VAE_FILE = Path("vae", "teacache_demo_vae.safetensors")
TEXT_FILE = Path("text_encoders", "teacache_demo_text.safetensors")

MAX_TOKENS = 12
PAD, START = 0, 1  # words are numbered from 2
ARTICLES = {"a", "an", "the"}
TEXT_METADATA = "teacache_demo_text"

# ComfyUI's SD3 latent format: latents are scaled by these between autoencoder and transformer.
SD3_SCALE, SD3_SHIFT = 1.5305, 0.0609

AUTOENCODER_CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderTiny",
    "act_fn": "relu",
    "decoder_block_out_channels": [64, 64, 64, 64],
    "encoder_block_out_channels": [64, 64, 64, 64],
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 16,
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
}
EXPORTED_TEXT = Path("text_encoder", "model.safetensors")
SCHEDULER_CONFIG: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
TEXT_PARTS = [f"{part}{i}" for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3")]
PIPELINE_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusion3Pipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
    **{name: [None, None] for name in (*TEXT_PARTS, "feature_extractor", "image_encoder")},
}


class Tokenizer:
    """Turns words into numbers; articles and words outside the vocabulary are dropped."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.ids = {word: number for number, word in enumerate(self.words, start=START + 1)}

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Tokenizer:
        return cls(sorted({word for text in texts for word in cls.split(text)}))

    @staticmethod
    def split(text: str) -> list[str]:
        return re.findall(r"[a-z0-9]+", re.sub(r"['’]", "", text.lower()))

    def numbers(self, text: str) -> list[int]:
        """Numbers of the known words; an unknown plural counts as its singular."""
        words = (word for word in self.split(text) if word not in ARTICLES)
        forms = ((w, w.removesuffix("s"), w.removesuffix("es")) for w in words)
        known = (next((f for f in three if f in self.ids), None) for three in forms)
        return [self.ids[word] for word in known if word is not None]

    def __call__(self, text: str) -> list[int]:
        """MAX_TOKENS numbers: START, at most MAX_TOKENS - 1 words, and PAD."""
        ids = [START, *self.numbers(text)][:MAX_TOKENS]
        return ids + [PAD] * (MAX_TOKENS - len(ids))


class TextEncoder(nn.Module):
    """Word and position embeddings, one transformer layer, and a mean over the tokens."""

    def __init__(self, tokens: int, width: int, pooled_width: int) -> None:
        super().__init__()
        self.word = Embedding(tokens, width)
        self.position = nn.Parameter(torch.randn(MAX_TOKENS, width) * 0.02)
        self.norm1 = LayerNorm(width)
        self.attention = MultiheadAttention(width, width // 64, batch_first=True)
        self.norm2 = LayerNorm(width)
        self.mlp = Sequential(Linear(width, 4 * width), GELU(), Linear(4 * width, width))
        self.norm3 = LayerNorm(width)
        self.pool = Linear(width, pooled_width)
        nn.init.normal_(self.word.weight, std=0.5)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes token numbers of shape (batch, MAX_TOKENS).

        Returns:
            Embeddings of shape (batch, MAX_TOKENS, width) and (batch, pooled width).
        """
        padding = ids == PAD
        x = self.word(ids) + self.position
        y = self.norm1(x)
        x = x + self.attention(y, y, y, key_padding_mask=padding, need_weights=False)[0]
        x = x + self.mlp(self.norm2(x))
        x = self.norm3(x)
        keep = (~padding).unsqueeze(-1).to(x.dtype)
        return x, self.pool((x * keep).sum(1) / keep.sum(1))


class DemoText:
    """The text encoder with its tokeniser, stored in one safetensors file."""

    def __init__(self, encoder: TextEncoder, tokenizer: Tokenizer) -> None:
        self.encoder, self.tokenizer = encoder, tokenizer

    @classmethod
    def load(cls, path: str | Path = MODELS / TEXT_FILE) -> DemoText:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        if TEXT_METADATA not in metadata:
            raise ValueError(f"{path} is not a text encoder of the TeaCache demo model")
        tokenizer = Tokenizer(json.loads(metadata[TEXT_METADATA])["words"])
        weights = load_file(str(path))
        (tokens, width), pooled_width = weights["word.weight"].shape, len(weights["pool.bias"])
        encoder = TextEncoder(tokens, width, pooled_width)
        encoder.load_state_dict(weights)
        return cls(encoder.eval(), tokenizer)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
        vocabulary = json.dumps({"words": self.tokenizer.words})
        weights = {k: v.to(dtype).contiguous() for k, v in self.encoder.state_dict().items()}
        save_file(weights, str(path), {"format": "pt", TEXT_METADATA: vocabulary})

    @torch.no_grad()
    def __call__(self, prompts: str | Sequence[str]) -> dict[str, Tensor]:
        """`prompt_embeds` and `pooled_prompt_embeds`, as diffusers' pipeline takes them."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        ids = torch.tensor([self.tokenizer(text) for text in texts])
        tokens, pooled = self.encoder(ids.to(self.encoder.position.device))
        return {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}


def vae_to_comfyui(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames diffusers' AutoencoderTiny weights to ComfyUI's, with SD3's scale and shift."""
    renamed = {"vae_scale": torch.tensor(SD3_SCALE), "vae_shift": torch.tensor(SD3_SHIFT)}
    for key, weight in weights.items():
        part, _, index, rest = key.split(".", 3)
        number = int(index) + (part == "decoder")  # ComfyUI's decoder starts with a clamp
        renamed[f"taesd_{part}.{number}.{rest}"] = weight
    return renamed


def vae_to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `vae_to_comfyui`."""
    renamed = {}
    for key, weight in weights.items():
        if key.startswith("taesd_"):
            part, index, rest = key.removeprefix("taesd_").split(".", 2)
            number = int(index) - (part == "decoder")
            renamed[f"{part}.layers.{number}.{rest}"] = weight
    return renamed


def transformer_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """SD3Transformer2DModel's configuration, derived from the shapes of its weights."""
    hidden, channels, patch, _ = weights["pos_embed.proj.weight"].shape
    layers = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("transformer_blocks."))
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 16,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": channels,
        "num_layers": layers,
        "num_attention_heads": hidden // 64,
        "attention_head_dim": 64,
        "caption_projection_dim": hidden,
        "joint_attention_dim": weights["context_embedder.weight"].shape[1],
        "pooled_projection_dim": weights["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        "pos_embed_max_size": round(weights["pos_embed.pos_embed"].shape[1] ** 0.5),
        "qk_norm": "rms_norm",
    }


def export_diffusers(folder: str | Path, models: str | Path = MODELS) -> Path:
    """Writes the demo model as a diffusers folder, for `demo_pipeline.load_diffusers`.

    Args:
        folder: The folder to write.
        models: The folder with the model's three files.

    Returns:
        `folder`.
    """
    folder, models = Path(folder), Path(models)
    transformer = load_file(str(models / TRANSFORMER_FILE))
    vae = vae_to_diffusers(load_file(str(models / VAE_FILE)))
    configs = {
        "model_index.json": PIPELINE_INDEX,
        "scheduler/scheduler_config.json": SCHEDULER_CONFIG,
        "transformer/config.json": transformer_config(transformer),
        "vae/config.json": AUTOENCODER_CONFIG,
    }
    for name, config in configs.items():
        write_json(folder / name, config)
    weights_name = "diffusion_pytorch_model.safetensors"
    save_file(transformer, str(folder / "transformer" / weights_name), {"format": "pt"})
    save_file(vae, str(folder / "vae" / weights_name), {"format": "pt"})
    text = (models / TEXT_FILE).read_bytes()
    write_atomically(folder / EXPORTED_TEXT, lambda file: file.write_bytes(text))
    return folder


def negative(embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames a prompt's embeddings to the pipeline's arguments for a negative prompt."""
    return {f"negative_{name}": value for name, value in embeddings.items()}
