"""Load Diffusion Model (diffusers) and Sampler (diffusers): diffusers pipelines in a graph."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import comfy.utils
import folder_paths
import torch
from comfy import model_management
from comfy_api.latest import io
from PIL import Image
from server import PromptServer

from ..teacache.environment import BACKEND_VARIABLE, resolve_cache_config
from ..teacache.hosts.diffusers import generation
from ..teacache.hosts.diffusers import loading as pipelines
from ..teacache.hosts.diffusers.folder import DEMO, list_folders
from ..teacache.hosts.diffusers.generation import Step
from ..teacache.hosts.diffusers.loading import Pipeline
from ..teacache.plots.pixels import to_pil
from .apply_pipeline import PipelineSocket
from .events import event_listener
from .sampler_widgets import seed_widget
from .schema import CATEGORY, advanced, schema

DEMO_NAME = "TeaCache demo model"
PREVIEW_SIZE = 512  # longer side, in pixels


class LoadDiffusionPipeline(io.ComfyNode):
    """Loads a diffusers pipeline from a folder or from a repository in the local cache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            search_aliases=["diffusers loader", "Hugging Face", "pipeline", "model_index.json"],
            node_id="LoadDiffusionPipeline",
            display_name="Load Diffusion Model (diffusers)",
            category=f"{CATEGORY}/diffusers",
            description=(
                "Loads a model in diffusers' format: a folder with model_index.json in "
                "models/diffusers. Only safetensors are loaded."
            ),
            inputs=[
                io.Combo.Input(
                    "pipeline",
                    options=[DEMO_NAME, *list_folders(pipeline_roots())],
                    tooltip="A folder in models/diffusers, or the demo model of this pack.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(pipelines.PRECISIONS),
                    default="auto",
                    tooltip="Of the weights. auto: bf16 where the device has it, fp32 on the CPU.",
                ),
                io.Combo.Input(
                    "placement",
                    options=list(pipelines.PLACEMENTS),
                    default="auto",
                    tooltip=(
                        "device: the whole model on the graphics card while it samples. offload: "
                        "its parts in turn, slower. auto: whole if it fits."
                    ),
                ),
                advanced(
                    io.String.Input(
                        "repository",
                        default="",
                        tooltip=(
                            "A Hugging Face repository instead of a folder, such as "
                            "Qwen/Qwen-Image; taken from the local cache."
                        ),
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "allow_network",
                        default=False,
                        tooltip="Download files of the repository that are not in the local cache.",
                    )
                ),
            ],
            outputs=[
                PipelineSocket.Output(
                    display_name="pipeline",
                    tooltip="For Apply TeaCache (diffusers) and Sampler (diffusers).",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        pipeline: str,
        precision: str = "auto",
        placement: str = "auto",
        repository: str = "",
        allow_network: bool = False,
    ) -> io.NodeOutput:
        cache = resolve_cache_config(os.environ)
        pipe = pipelines.load_pipeline(
            repository.strip() or folder_of(pipeline),
            source="repository" if repository.strip() else "pipeline",
            precision=precision,
            device=model_management.get_torch_device(),
            online=allow_network,
        )
        node_id = str(cls.hidden.unique_id)
        if cache is not None:
            line, problem = pipelines.recognise(pipe, cache)
            cache = cache if line else None
            note = problem or f"{line} (by {BACKEND_VARIABLE})"
            PromptServer.instance.send_progress_text(note, node_id)
        return io.NodeOutput(Pipeline(pipe, placement, cache, event_listener(node_id)))


def pipeline_roots() -> list[Path]:
    """ComfyUI's folders of diffusers pipelines."""
    return [Path(folder) for folder in folder_paths.get_folder_paths("diffusers")]


def folder_of(name: str) -> str:
    """The folder of a pipeline in the menu; if it no longer exists, where it would be."""
    if name == DEMO_NAME:
        return DEMO
    folders = [root / name for root in pipeline_roots() if (root / name).is_dir()]
    return str(folders[0] if folders else pipeline_roots()[0] / name)


class DiffusionPipelineSampler(io.ComfyNode):
    """Generates images with a diffusers pipeline."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            search_aliases=["diffusers sampler", "image edit", "image to image", "pipeline"],
            node_id="DiffusionPipelineSampler",
            display_name="Sampler (diffusers)",
            category=f"{CATEGORY}/diffusers",
            description="Makes pictures with a diffusers pipeline, from a prompt or an image.",
            inputs=[
                PipelineSocket.Input("pipeline", tooltip="The pipeline, with a cache or without."),
                io.String.Input(
                    "prompt", multiline=True, default="", tooltip="What to draw, or how to edit."
                ),
                io.String.Input(
                    "negative_prompt", multiline=True, default="", tooltip="What to keep away from."
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=16384,
                    step=16,
                    tooltip="In pixels. 0: the pipeline's own.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=16384,
                    step=16,
                    tooltip="In pixels. 0: the pipeline's own.",
                ),
                io.Int.Input("steps", default=50, min=1, max=10000, tooltip="Sampling steps."),
                io.Float.Input(
                    "guidance",
                    default=-1.0,
                    min=-1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How closely to follow the prompt. -1: the pipeline's own.",
                ),
                seed_widget("Seed of the noise.", changes=True),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Pictures to make."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="What to edit (edit pipelines) or to start from (image to image).",
                ),
                io.Float.Input(
                    "strength",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="How far to go from the image; edit pipelines do not take it.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures."),
                io.String.Output(display_name="report", tooltip="What the cache did, as JSON."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        pipeline: Pipeline,
        prompt: str,
        negative_prompt: str = "",
        width: int = 0,
        height: int = 0,
        steps: int = 50,
        guidance: float = -1.0,
        seed: int = 0,
        batch_size: int = 1,
        image: torch.Tensor | None = None,
        strength: float = 0.6,
    ) -> io.NodeOutput:
        node_id = str(cls.hidden.unique_id)
        request = generation.Request(
            prompt=prompt,
            negative=negative_prompt,
            width=width or None,
            height=height or None,
            steps=steps,
            guidance=None if guidance < 0 else guidance,
            seed=seed,
            batch=batch_size,
            image=None if image is None else pipeline_images(image),
            strength=None if image is None else strength,
        )
        bar, previews = comfy.utils.ProgressBar(steps, node_id=node_id), PreviewThrottle()

        def advance(step: Step) -> None:
            if model_management.processing_interrupted():
                raise KeyboardInterrupt  # which the report records as interrupted, not failed
            bar.update_absolute(step.done, step.total, previews.preview(step))

        device = model_management.get_torch_device()
        pipe = generation.for_image(pipeline.pipe, image is not None)
        if device.type != "cpu":
            needed = pipelines.size(pipe) * pipelines.HEADROOM
            model_management.free_memory(needed, device)
        free = model_management.get_free_memory(device)
        try:
            with pipelines.placed(pipe, pipeline.placement, device, free):
                result = generation.generate(
                    pipe,
                    request,
                    cache=pipeline.cache,
                    listener=pipeline.listener,
                    on_step=advance,
                )
        except KeyboardInterrupt:
            model_management.interrupt_current_processing(False)
            raise model_management.InterruptProcessingException from None
        finally:
            model_management.soft_empty_cache()
        report = {} if result.report is None else result.report.to_json()
        lines = [report["summary"]] if report else ["No cache on this pipeline."]
        PromptServer.instance.send_progress_text(" ".join([*lines, *result.notes]), node_id)
        return io.NodeOutput(result.pictures, json.dumps(report, indent=2))


class PreviewThrottle:
    """Decodes previews of steps, spending at most a tenth of the time on them."""

    def __init__(self) -> None:
        self._next_time = 0.0

    def preview(self, step: Step) -> tuple[str, Image.Image, int] | None:
        """The step's preview as ComfyUI's progress bar takes it: format, image and size.

        None if it is too early for one, or if the pipeline makes none.
        """
        started = time.perf_counter()
        if started < self._next_time:
            return None
        image = step.preview()
        ended = time.perf_counter()
        self._next_time = ended + 9 * (ended - started)
        return None if image is None else ("JPEG", image, PREVIEW_SIZE)


def pipeline_images(images: torch.Tensor) -> Image.Image | list[Image.Image]:
    """Images as pipelines take them: a list, or the image itself if there is only one.

    Args:
        images: `[count, height, width, channels]`, values from 0 to 1.
    """
    converted = [to_pil(image) for image in images]
    return converted[0] if len(converted) == 1 else converted


NODES: list[type[io.ComfyNode]] = [LoadDiffusionPipeline, DiffusionPipelineSampler]
