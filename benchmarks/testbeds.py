"""The trained models of the comparison, each on both hosts with the same weights.

`demo` is the shipped SD3-type model (128 x 128 pictures), `digits` the small Wan video model of
`training.digits` (six frames of 32 x 32), `photos` the FLUX-type model of `training.photos`
(64 x 64 pictures), `photos-distilled` the same with its guidance distilled into one branch, `unet`
the Stable Diffusion 1.5 type of `training.unet` (32 x 32 pictures). Both hosts sample from the same
noise at the same noise levels, those of ComfyUI's schedule, with guidance against the empty
caption, or as an input of the distilled model.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline, WanPipeline
from torch import Tensor, nn

from benchmarks.grounds import Ground
from teacache.demo.model import MODELS, TRANSFORMER_FILE, negative
from teacache.errors import UserError
from teacache.hosts.diffusers.demo_pipeline import load_demo
from training import digits
from training.data import ROOT

STEPS, SHIFT, GUIDANCE = 50, 3.0, 3.0
TEST_PROMPTS = 48
FIRST_TUNING_SEED = 1000
"""Pairs that settings are chosen on have seeds from here on, pairs that are judged those below."""
CONCEPTS = ROOT / "concepts.txt"
DIGITS_WEIGHTS = ROOT.parent / "models" / "digits" / "digits.safetensors"
DEMO_TUNING = (
    "red apple", "fox", "cactus", "owl", "cow", "pizza", "rocket", "sailboat", "guitar", "castle",
    "sunflower", "teapot", "umbrella", "penguin", "strawberry", "locomotive", "crab", "camera",
    "tiger", "cupcake", "mushroom", "lion", "bicycle", "snowman",
)  # fmt: skip
"""Captions that settings were tuned on; no cache is judged on them."""
COMFYUI, DIFFUSERS = "comfyui", "diffusers"
UNCACHED = {COMFYUI: "no cache (ComfyUI)", DIFFUSERS: "no cache (diffusers)"}
"""Name of each host's uncached run in the tables."""


@dataclass(frozen=True)
class Pair:
    """A caption and a seed: what one sample is made from."""

    prompt: str
    seed: int


def _unchanged(latents: Tensor) -> Tensor:
    return latents


@dataclass
class Testbed:
    """One model on both hosts.

    Args:
        name: short name of the model.
        description: for the tables.
        ground: how it is sampled.
        test_captions, tuning_captions: disjoint, unless there are so few captions that their pairs
            are told apart by the seeds alone.
        patcher: the model in ComfyUI (`ModelPatcher`).
        pipe: the model in diffusers; None if it is not used there.
        embed: captions -> text arguments of the pipeline.
        pipeline_arguments: the other arguments of the pipeline.
        latent_shape: of one latent, without the batch.
        decode: latents, scaled as the model takes them -> frames [N, H, W, 3] in [0, 1].
        middle_layers: for each host, the feed-forward layer of the middle block, whose calls are
            counted.
        is_video: whether latents have a time dimension.
        shift: of the noise levels of flow matching; None for Stable Diffusion's levels.
        guidance_argument: what the pipeline calls the guidance scale.
        distilled: whether guidance is an input of the model, which has one branch then.
        to_pipeline, from_pipeline: latents [n, *latent_shape] as the pipeline takes and gives them.
    """

    ground: Ground
    description: str
    test_captions: tuple[str, ...]
    tuning_captions: tuple[str, ...]
    patcher: Any
    pipe: Any
    embed: Callable[[Sequence[str]], dict[str, Tensor]]
    pipeline_arguments: dict[str, Any]
    latent_shape: tuple[int, ...]
    decode: Callable[[Tensor], Tensor]
    middle_layers: dict[str, nn.Module]
    is_video: bool
    shift: float | None = SHIFT
    guidance_argument: str = "guidance_scale"
    to_pipeline: Callable[[Tensor], Tensor] = _unchanged
    from_pipeline: Callable[[Tensor], Tensor] = _unchanged
    distilled: bool = False

    @property
    def cfg(self) -> float:
        """ComfyUI's scale of classifier-free guidance; at 1 the negative branch does not run."""
        return 1.0 if self.distilled else self.ground.guidance

    @property
    def branches(self) -> int:
        """Branches of guidance in an evaluation: rows of a call for each pair."""
        return 1 if self.cfg == 1 else 2

    @property
    def denoiser(self) -> nn.Module:
        """The model in diffusers."""
        named = self.pipe.components
        found: nn.Module = named["unet"] if "unet" in named else named["transformer"]
        return found

    @property
    def schedule(self) -> str:
        """Of the noise levels, for the tables."""
        if self.shift is None:
            return self.ground.scheduler
        return f"{self.ground.scheduler}, shift {self.shift:g}"

    @property
    def name(self) -> str:
        """The model's."""
        return self.ground.model

    def on(self, ground: Ground) -> Testbed:
        """The same model, sampled as `ground` says.

        Raises:
            ValueError: it is another model's ground.
        """
        if ground.model != self.name:
            raise ValueError(f"{ground.name} is no ground of {self.name}")
        return replace(self, ground=ground)

    def test_pairs(self, count: int) -> list[Pair]:
        """`count` pairs that nothing was chosen on, each caption once before one comes again.

        Raises:
            ValueError: there are not so many.
        """
        most = len(self.test_captions) * FIRST_TUNING_SEED
        if count > most:
            raise ValueError(f"{self.name} has {most} pairs to be judged on, not {count}")
        return _pairs(self.test_captions, 0, count)

    def tuning_pairs(self, count: int) -> list[Pair]:
        """`count` pairs to choose settings on, none of which is in `test_pairs`."""
        return _pairs(self.tuning_captions, FIRST_TUNING_SEED, count)

    def noise(self, pair: Pair) -> Tensor:
        """The initial noise [1, *latent_shape] of a sample."""
        digest = hashlib.sha256(f"{pair.prompt}|{pair.seed}".encode()).digest()
        number = int.from_bytes(digest[:6], "big")
        return torch.randn(1, *self.latent_shape, generator=torch.Generator().manual_seed(number))

    def conditioning(self, prompts: Sequence[str]) -> list[Any]:
        """Captions as ComfyUI's CONDITIONING, in one batch."""
        text = dict(self.embed(prompts))
        tokens, pooled = text.pop("prompt_embeds"), text.get("pooled_prompt_embeds")
        extra = {} if pooled is None else {"pooled_output": pooled}
        return [[tokens, {**extra, "guidance": self.ground.guidance} if self.distilled else extra]]

    def sigmas(self, steps: int) -> Tensor:
        """The noise levels [steps + 1] of the ground's schedule, from ComfyUI's table of 1000."""
        import comfy.samplers

        sampling = self.patcher.get_model_object("model_sampling")
        sigmas: Tensor = comfy.samplers.calculate_sigmas(sampling, self.ground.scheduler, steps)
        return sigmas

    def exact_sigmas(self, steps: int) -> Tensor:
        """The schedule without the table, whose rounding matters at many steps.

        With a shift it is `simple`, else `normal`, which ComfyUI takes from between the table's.
        """
        if self.shift is None:
            return self.on(replace(self.ground, scheduler="normal")).sigmas(steps)
        time = torch.linspace(1, 0, steps + 1)
        return self.shift * time / (1 + (self.shift - 1) * time)

    def digest(self) -> str:
        """Identifies the weights: 12 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, value in sorted(self.denoiser.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]


def _pairs(captions: Sequence[str], first_seed: int, count: int) -> list[Pair]:
    rounds = -(-count // len(captions))
    seeds = range(first_seed, first_seed + rounds)
    return [Pair(caption, seed) for seed in seeds for caption in captions][:count]


class FixedSigmasScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Euler steps at the noise levels in `fixed_sigmas`, which the caller sets."""

    fixed_sigmas: Tensor

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: Any = None,
        **_: Any,
    ) -> None:
        """Set `fixed_sigmas`, whichever levels the pipeline asks for."""
        steps = len(self.fixed_sigmas) - 1
        asked = len(sigmas) if num_inference_steps is None else num_inference_steps
        if asked != steps:
            raise ValueError(f"{steps + 1} noise levels are not {asked} steps")
        self.num_inference_steps = steps
        self.sigmas = self.fixed_sigmas.to(device, copy=True)
        self.timesteps = self.sigmas[:-1] * self.config.num_train_timesteps
        self._step_index = self._begin_index = None


class StableDiffusion3TestbedPipeline(StableDiffusion3Pipeline):  # type: ignore[misc]
    """A subclass that cache-dit may patch; it recognises pipelines by how the name begins."""


class WanTestbedPipeline(WanPipeline):  # type: ignore[misc]
    """As `StableDiffusion3TestbedPipeline`."""


def load(name: str, weights: Path | None = None) -> Testbed:
    """Load a testbed. ComfyUI must be booted.

    Args:
        name: `demo`, `digits`, `photos`, `photos-distilled` or `unet`.
        weights: file of any of them but `demo`; None for the usual one.

    Raises:
        UserError: the weights are not there.
    """
    from benchmarks import unet_testbed
    from benchmarks.photos_testbed import PHOTOS, load_photos_testbed

    with torch.no_grad():
        if name == "demo":
            testbed = load_demo_testbed()
        elif name in PHOTOS:
            usual, training = PHOTOS[name]
            testbed = load_photos_testbed(_existing(weights or usual, training))
        elif name == "unet":
            usual = unet_testbed.WEIGHTS
            testbed = unet_testbed.load_unet_testbed(_existing(weights or usual, "train_unet"))
        else:
            testbed = load_digits_testbed(_existing(weights or DIGITS_WEIGHTS, "train_digits"))
    testbed.pipe.set_progress_bar_config(disable=True)
    for module in (testbed.denoiser, testbed.patcher.model.diffusion_model):
        module.requires_grad_(False)
    return testbed


def _existing(weights: Path, training: str) -> Path:
    """`weights`, if they are there.

    Args:
        training: the module that makes them.

    Raises:
        UserError: they are not.
    """
    if not weights.is_file():
        shown = weights.relative_to(ROOT.parent) if weights.is_relative_to(ROOT.parent) else weights
        raise UserError(f"there is no {shown}: make it with python -m training.{training}")
    return weights


def choose_test_captions(captions: Sequence[str], excluded: Sequence[str] = ()) -> tuple[str, ...]:
    """`TEST_PROMPTS` random captions, always the same ones, without `excluded`."""
    candidates = [caption for caption in captions if caption not in excluded]
    return tuple(random.Random(2411).sample(candidates, TEST_PROMPTS))


def load_demo_testbed() -> Testbed:
    import folder_paths  # noqa: F401  (ComfyUI's paths before its loaders)
    from comfy.sd import load_diffusion_model

    lines = CONCEPTS.read_text(encoding="utf-8").splitlines()
    concepts = [line for line in lines if line and not line.startswith("#")]
    shipped = load_demo(torch.float32)
    components = {k: v for k, v in shipped.components.items() if k != "scheduler"}
    pipe = StableDiffusion3TestbedPipeline(**components, scheduler=FixedSigmasScheduler(shift=1.0))
    patcher = load_diffusion_model(
        str(MODELS / TRANSFORMER_FILE), model_options={"dtype": torch.float32}
    )

    def decode(latents: Tensor) -> Tensor:
        picture: Tensor = pipe.vae.decode(latents, return_dict=False)[0]
        return (picture / 2 + 0.5).clamp(0, 1).movedim(1, -1).contiguous()

    blocks = pipe.transformer.transformer_blocks
    middle = len(blocks) // 2
    return Testbed(
        Ground("demo", STEPS, GUIDANCE),
        f"SD3 type, {len(blocks)} blocks, 128 x 128 pictures",
        choose_test_captions(concepts, DEMO_TUNING),
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
        is_video=False,
    )


def load_digits_testbed(weights: Path) -> Testbed:
    transformer, text = digits.load_model(weights)
    pipe = WanTestbedPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=transformer,
        scheduler=FixedSigmasScheduler(shift=1.0),
    )  # fmt: skip
    patcher = wan_in_comfyui(transformer)
    middle = len(transformer.blocks) // 2

    def decode(latents: Tensor) -> Tensor:
        grey = digits.to_film(latents)[0] / 2 + 0.5
        return grey.clamp(0, 1)[..., None].repeat(1, 1, 1, 3)

    tests = choose_test_captions(digits.CAPTIONS)
    return Testbed(
        Ground("digits", STEPS, GUIDANCE),
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
        is_video=True,
    )


def wan_in_comfyui(transformer: Any) -> Any:
    """A `ModelPatcher` of ComfyUI's Wan model with the weights of diffusers' `transformer`."""
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
    """diffusers' Wan weights under ComfyUI's names.

    diffusers converts ComfyUI's names to its own. The conversion is run on numbered scalars in
    place of weights, which shows where each of ComfyUI's weights goes.
    """
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    names = list(model.state_dict())
    numbered = {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    converted = convert_wan_transformer_to_diffusers(numbered)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    renamed = {names[int(number)]: weights[name] for name, number in converted.items()}
    return {name: value.reshape(shapes[name]) for name, value in renamed.items()}


def text_arguments(testbed: Testbed, prompt: str) -> dict[str, Tensor]:
    """The pipeline's text arguments: a caption and, for two branches, the empty one as negative."""
    text = testbed.embed([prompt])
    return text if testbed.branches == 1 else {**text, **negative(testbed.embed([""]))}
