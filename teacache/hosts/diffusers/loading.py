"""Loading diffusers pipelines: from safetensors only, and without network unless asked for."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ...config import TeaCacheConfig
from ...engine.run import RunListener
from ...environment import BACKENDS, NONE, TEACACHE
from ...errors import ConfigError, UserError
from .folder import DEMO, PipelineFolder, check_folder, find_pipeline

INSTALL = "diffusers pipelines need an extra: pip install 'teacache-studio[diffusers]'"
PRECISIONS = {
    "auto": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
PLACEMENTS = ("auto", "device", "offload")
HEADROOM = 1.3
"""Memory of a running pipeline relative to that of its weights; `auto` offloads above it."""


def require_diffusers() -> None:
    """Raises `UserError` with the command that installs the extra, where it is missing."""
    for package in ("diffusers", "transformers", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise UserError(INSTALL)


@dataclass(frozen=True)
class Pipeline:
    """A loaded pipeline with its settings, passed from node to node.

    Attributes:
        pipe: The pipeline.
        placement: One of `PLACEMENTS`.
        cache: Settings of the cache; None for no cache.
        listener: Receives the events of the cached run.
    """

    pipe: Any
    placement: str = "auto"
    cache: TeaCacheConfig | None = None
    listener: RunListener | None = None


def default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def chosen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the device has it, else float16; float32 on the CPU."""
    chosen = PRECISIONS[precision]
    if chosen is not None:
        return chosen
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


@contextlib.contextmanager
def network(allowed: bool) -> Iterator[None]:
    """Keeps Hugging Face's libraries off the network, unless `allowed`."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def load_pipeline(
    name: str | Path,
    *,
    source: str = "model",
    precision: str = "auto",
    device: torch.device | None = None,
    online: bool = False,
    cache_backend: str | None = None,
    cache_config: Mapping[str, Any] | None = None,
) -> Any:
    """Loads a pipeline into main memory, with the cache on it if one is asked for.

        pipe = load_pipeline(
            "models/Qwen-Image",
            cache_backend="tea_cache",
            cache_config={"rel_l1_thresh": 0.2},
        )
        image = pipe.to(device)("a cup of coffee on a table", num_inference_steps=50).images[0]
        print(pipe.teacache.report_for().summary)

    Args:
        name: A folder, a repository in the local cache, or `demo`.
        source: The option or input that gave the name, for messages.
        precision: A key of `PRECISIONS`.
        device: The device it will run on, which decides the precision `auto`.
        online: Allow downloads.
        cache_backend: `tea_cache` turns the cache on; `none` or None loads the pipeline as it is.
        cache_config: Settings of `TeaCacheConfig`. Without a threshold, the one recommended for the
            model is used.

    Raises:
        UserError: There is nothing to load, or it cannot be loaded safely.
        ConfigError: A setting of the cache is unusable, or the cache does not know the model.
    """
    cache = cache_settings(cache_backend, cache_config)
    require_diffusers()
    dtype = chosen_dtype(precision, device or default_device())
    with network(online):
        if name == DEMO:
            from .demo_pipeline import load_demo

            pipe: Any = load_demo(dtype)
        else:
            folder = check_folder(find_pipeline(str(name), source, online), source)
            pipe = _load(folder, source, dtype)
    if cache is not None:
        from .enable import enable_teacache

        enable_teacache(pipe, **asdict(cache))
    return pipe


def cache_settings(backend: str | None, config: Mapping[str, Any] | None) -> TeaCacheConfig | None:
    """The settings that `cache_backend` and `cache_config` stand for; None for no cache.

    Raises:
        ConfigError: There is no such backend or setting, or there are settings without a backend.
    """
    if backend not in (None, *BACKENDS):
        raise ConfigError(f"cache_backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    if backend in (None, NONE):
        if config is not None:
            raise ConfigError(f"cache_config: no cache is on; cache_backend must be {TEACACHE!r}")
        return None
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"cache_config must be a mapping, not {type(config).__name__}")
    return TeaCacheConfig.from_mapping({"rel_l1_thresh": None, **(config or {})})


def _load(folder: PipelineFolder, source: str, dtype: torch.dtype) -> Any:
    import diffusers

    name = folder.class_name
    kind: Any = getattr(diffusers, name) if hasattr(diffusers, name) else None
    known = inspect.isclass(kind) and issubclass(kind, diffusers.DiffusionPipeline)
    if not known:
        raise UserError(
            f"{source}: {folder.path}: diffusers {diffusers.__version__} has no pipeline {name!r}"
        )
    try:
        if folder.is_demo:
            from .demo_pipeline import load_demo

            return load_demo(dtype, folder.path)
        return kind.from_pretrained(
            folder.path,
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            variant=folder.variant,
        )
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source}: {folder.path} cannot be loaded: {reason[:300]}") from error


def recognise(pipe: Any, cache: TeaCacheConfig) -> tuple[str, str]:
    """Whether the cache supports a pipeline.

    Returns:
        What the cache does in it, and why the pipeline stays unchanged; one of the two is empty.

    Raises:
        ConfigError: The settings do not suit the model.
    """
    from .enable import UnsupportedModel, teacache

    try:
        with teacache(pipe, **asdict(cache)) as handle:
            return handle.describe(), ""
    except UnsupportedModel as problem:
        return "", f"{problem}."


@contextlib.contextmanager
def placed(pipe: Any, placement: str, device: torch.device, free: float | None) -> Iterator[None]:
    """Moves a pipeline to a device for the context, then back to main memory.

    Args:
        pipe: The pipeline.
        placement: `device` moves all of it, `offload` its components in turn, `auto` chooses by
            the free memory.
        device: Where it runs.
        free: Free memory in bytes for `auto`; by default that of the device.
    """
    if device.type == "cpu":
        yield
        return
    if placement == "auto" and free is None and device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    whole = placement == "device" or (
        placement == "auto" and (free is None or size(pipe) * HEADROOM <= free)
    )
    try:
        if whole:
            pipe.to(device)
        else:
            pipe.enable_model_cpu_offload(device=device)
        yield
    finally:
        pipe.remove_all_hooks()
        pipe.to("cpu", silence_dtype_warnings=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def size(pipe: Any) -> int:
    """Size of the pipeline's weights in bytes."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())


def quiet(verbose: bool) -> None:
    """Silences the libraries' log messages and progress bars, unless `verbose`."""
    if verbose:
        return
    import warnings

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    warnings.simplefilter("ignore")
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
