"""The two trained models of the comparison, each on both hosts with the same weights.

`demo` is the shipped SD3-type model (128 x 128 pictures), `digits` the small Wan video model of
`training.digits` (six frames of 32 x 32). Both sample from the same noise at the same noise
levels (ComfyUI's `simple` schedule, shift 3), with guidance against the empty caption.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline, WanPipeline
from torch import Tensor, nn

from teacache.demo.model import MODELS, TRANSFORMER_FILE, negative
from teacache.hosts.diffusers.demo_pipeline import load_demo
from training import digits
from training.data import ROOT

STEPS, SHIFT, GUIDANCE = 50, 3.0, 3.0
TEST_PROMPTS = 48
CONCEPTS = ROOT / "concepts.txt"
DIGITS_WEIGHTS = ROOT / "checkpoints" / "digits.safetensors"
DEMO_TUNING = (
    "red apple", "fox", "cactus", "owl", "cow", "pizza", "rocket", "sailboat", "guitar", "castle",
    "sunflower", "teapot", "umbrella", "penguin", "strawberry", "locomotive", "crab", "camera",
    "tiger", "cupcake", "mushroom", "lion", "bicycle", "snowman",
)  # fmt: skip
"""Captions that thresholds and rules were chosen on."""
COMFYUI, DIFFUSERS = "comfyui", "diffusers"
UNCACHED = {COMFYUI: "no cache (ComfyUI)", DIFFUSERS: "no cache (diffusers)"}
"""Name of each host's reference in the tables."""


@dataclass(frozen=True)
class Pair:
    """A picture to make."""

    prompt: str
    seed: int


@dataclass
class Testbed:
    """One model on both hosts.

    about: what it is, for the table. tests, tuning: captions that share none. patcher, pipe: the
    model in ComfyUI and in diffusers. embed: captions as the pipeline's text arguments. call: its
    other arguments. latent: shape of one latent. decode: latents as the model knows them to a
    picture [frames, H, W, 3] in [0, 1]. middle: on each host, the feed-forward layer of the
    middle block, whose calls are counted. frames: whether its latents have a time axis. steps,
    guidance: of the uncached run.
    """

    name: str
    about: str
    tests: tuple[str, ...]
    tuning: tuple[str, ...]
    patcher: Any
    pipe: Any
    embed: Callable[[Sequence[str]], dict[str, Tensor]]
    call: dict[str, Any]
    latent: tuple[int, ...]
    decode: Callable[[Tensor], Tensor]
    middle: dict[str, nn.Module]
    frames: bool
    steps: int = STEPS
    guidance: float = GUIDANCE

    def noise(self, pair: Pair) -> Tensor:
        """Of one picture, from its seed and caption alone."""
        digest = hashlib.sha256(f"{pair.prompt}|{pair.seed}".encode()).digest()
        number = int.from_bytes(digest[:6], "big")
        return torch.randn(1, *self.latent, generator=torch.Generator().manual_seed(number))

    def condition(self, prompts: Sequence[str]) -> list[Any]:
        """Captions as ComfyUI's nodes pass them on."""
        text = dict(self.embed(prompts))
        tokens, pooled = text.pop("prompt_embeds"), text.get("pooled_prompt_embeds")
        return [[tokens, {} if pooled is None else {"pooled_output": pooled}]]

    def levels(self, steps: int) -> Tensor:
        """ComfyUI's `simple` schedule: noise levels of its table of 1000."""
        import comfy.samplers

        sampling = self.patcher.get_model_object("model_sampling")
        found: Tensor = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
        return found

    def exact_levels(self, steps: int) -> Tensor:
        """The same schedule without the table, whose rounding shows in many steps."""
        time = torch.linspace(1, 0, steps + 1)
        return SHIFT * time / (1 + (SHIFT - 1) * time)

    def digest(self) -> str:
        """Tells one set of weights from another."""
        found = hashlib.sha256()
        for name, value in sorted(self.pipe.transformer.state_dict().items()):
            found.update(name.encode())
            found.update(value.contiguous().numpy().tobytes())
        return found.hexdigest()[:12]


class GivenLevels(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Goes through exactly the noise levels in `levels`."""

    levels: Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **_: Any) -> None:
        if num_inference_steps != len(self.levels) - 1:
            raise ValueError(f"{len(self.levels)} levels are not {num_inference_steps} steps")
        self.num_inference_steps = num_inference_steps
        self.sigmas = self.levels.clone()
        self.timesteps = self.levels[:-1] * self.config.num_train_timesteps
        self._step_index = self._begin_index = None


class StableDiffusion3Bed(StableDiffusion3Pipeline):  # type: ignore[misc]
    """The pipeline itself; a class of its own, since cache-dit changes the class."""


class WanBed(WanPipeline):  # type: ignore[misc]
    """The pipeline itself; a class of its own, since cache-dit changes the class."""


def load(name: str, weights: Path | None = None) -> Testbed:
    """A testbed by name. ComfyUI must be booted. weights: of digits, if not where they are."""
    with torch.no_grad():
        bed = load_demo_bed() if name == "demo" else load_digits_bed(weights or DIGITS_WEIGHTS)
    bed.pipe.set_progress_bar_config(disable=True)
    for module in (bed.pipe.transformer, bed.patcher.model.diffusion_model):
        module.requires_grad_(False)
    return bed


def chosen(captions: Sequence[str], excluded: Sequence[str] = ()) -> tuple[str, ...]:
    """The test captions: always the same ones, `excluded` not among them."""
    left = [caption for caption in captions if caption not in excluded]
    return tuple(random.Random(2411).sample(left, TEST_PROMPTS))


def load_demo_bed() -> Testbed:
    import folder_paths  # noqa: F401  (ComfyUI's paths before its loaders)
    from comfy.sd import load_diffusion_model

    lines = CONCEPTS.read_text(encoding="utf-8").splitlines()
    concepts = [line for line in lines if line and not line.startswith("#")]
    shipped = load_demo(torch.float32)
    parts = {k: v for k, v in shipped.components.items() if k != "scheduler"}
    pipe = StableDiffusion3Bed(**parts, scheduler=GivenLevels(shift=1.0))
    patcher = load_diffusion_model(
        str(MODELS / TRANSFORMER_FILE), model_options={"dtype": torch.float32}
    )

    def decode(latents: Tensor) -> Tensor:
        picture: Tensor = pipe.vae.decode(latents, return_dict=False)[0]
        return (picture / 2 + 0.5).clamp(0, 1).movedim(1, -1).contiguous()

    blocks = pipe.transformer.transformer_blocks
    middle = len(blocks) // 2
    return Testbed(
        "demo",
        f"SD3 type, {len(blocks)} blocks, 128 x 128 pictures",
        chosen(concepts, DEMO_TUNING),
        DEMO_TUNING,
        patcher,
        pipe,
        shipped.demo_text,
        {"height": 128, "width": 128},
        (16, 16, 16),
        decode,
        {
            COMFYUI: patcher.model.diffusion_model.joint_blocks[middle].x_block.mlp,
            DIFFUSERS: blocks[middle].ff,
        },
        frames=False,
    )


def load_digits_bed(weights: Path) -> Testbed:
    transformer, text = digits.load_model(weights)
    pipe = WanBed(
        tokenizer=None, text_encoder=None, vae=None, transformer=transformer,
        scheduler=GivenLevels(shift=1.0),
    )  # fmt: skip
    patcher = wan_in_comfyui(transformer)
    middle = len(transformer.blocks) // 2

    def decode(latents: Tensor) -> Tensor:
        grey = digits.to_film(latents)[0] / 2 + 0.5
        return grey.clamp(0, 1)[..., None].repeat(1, 1, 1, 3)

    tests = chosen(digits.CAPTIONS)
    return Testbed(
        "digits",
        f"Wan type, {len(transformer.blocks)} blocks, films of 6 frames of 32 x 32",
        tests,
        tuple(caption for caption in digits.CAPTIONS if caption not in tests),
        patcher,
        pipe,
        lambda captions: {"prompt_embeds": digits.embed(text, captions)},
        {"height": 64, "width": 64, "num_frames": 21},
        digits.LATENT,
        decode,
        {
            COMFYUI: patcher.model.diffusion_model.blocks[middle].ffn,
            DIFFUSERS: transformer.blocks[middle].ffn,
        },
        frames=True,
    )


def wan_in_comfyui(transformer: Any) -> Any:
    """ComfyUI's own Wan model with the weights of diffusers' one."""
    import comfy.model_patcher
    import comfy.supported_models

    ours = digits.TRANSFORMER
    shape = {
        "dim": ours["num_attention_heads"] * ours["attention_head_dim"],
        "num_heads": ours["num_attention_heads"],
        "in_dim": ours["in_channels"],
        "out_dim": ours["out_channels"],
        **{k: ours[k] for k in ("text_dim", "freq_dim", "ffn_dim", "num_layers", "patch_size")},
    }
    kind = comfy.supported_models.WAN21_T2V
    config = kind({**kind.unet_config, **shape})
    config.sampling_settings = {"shift": SHIFT}
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "").eval()
    model.diffusion_model.load_state_dict(
        comfyui_names(model.diffusion_model, transformer.state_dict())
    )
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def comfyui_names(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' Wan weights under ComfyUI's names: its conversion, run on numbers, backwards."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    names = list(model.state_dict())
    numbered = {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    places = convert_wan_transformer_to_diffusers(numbered)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    renamed = {names[int(number)]: weights[place] for place, number in places.items()}
    return {name: value.reshape(shapes[name]) for name, value in renamed.items()}


def text_arguments(bed: Testbed, prompt: str) -> dict[str, Tensor]:
    """The pipeline's arguments for a caption and, as what to keep away from, the empty one."""
    return {**bed.embed([prompt]), **negative(bed.embed([""]))}
