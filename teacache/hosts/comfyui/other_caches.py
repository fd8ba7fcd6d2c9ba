"""Detection of other nodes that wrap or cache a model's prediction in ComfyUI."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from typing import Any

import comfy.patcher_extension
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

ANOTHER_TEACACHE = "a TeaCache node of another pack"
CACHES = {
    "easycache": "EasyCache",
    "lazycache": "LazyCache",
    "magcache": "MagCache",
    "fbcache": "FBCache",
    "firstblockcache": "FBCache",
    "cachedit": "cache-dit",
    "taylorseer": "TaylorSeer",
    "fsampler": "FSampler",
    "teacache": ANOTHER_TEACACHE,
    "rell1thresh": ANOTHER_TEACACHE,
}
"""Words in the names that caching nodes leave on a model or in a sampler, and the caches' names.

The names are wrapper keys, transformer options, and modules and names of functions, in small
letters and digits only.
"""
PATH_SEPARATOR = r"[/\\]"
OUR_MODULES = __name__.rsplit(".hosts.", 1)[0]


def stacked_caches_warning(model: ModelPatcher, sampler: Any = None) -> str:
    """A warning that names the other caches on `model` and in `sampler`; empty if there are none.

    Args:
        sampler: A `comfy.samplers.Sampler`, once it is known.
    """
    traces = [re.sub(r"[^a-z0-9]", "", trace.lower()) for trace in _traces(model, sampler)]
    names = {name for word, name in CACHES.items() if any(word in trace for trace in traces)}
    if not names:
        return ""
    skips = "skips" if len(names) == 1 else "skip"
    return (
        f"Two caches are stacked: {' and '.join(sorted(names))} {skips} steps of this model too, "
        "and the errors add up. Use one of them."
    )


def origin(thing: Any) -> tuple[str, str]:
    """The name of a function, or of an object's class, and of the module it comes from."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    named = thing if inspect.isroutine(thing) or inspect.isclass(thing) else type(thing)
    return named.__qualname__.replace(".<locals>", ""), str(named.__module__)


def pack_or_module(module: str) -> str:
    """The folder of the pack that a module belongs to, else the module's own name.

    ComfyUI names the modules of packs by the path of the pack's folder.
    """
    *path, name = re.split(PATH_SEPARATOR, module)
    return name.split(".")[0] if path else name.rsplit(".", 1)[-1]


def has_prediction_wrappers(model_options: dict[str, Any]) -> bool:
    """Whether other nodes' `PREDICT_NOISE` wrappers may replace or change the prediction."""
    kind = WrappersMP.PREDICT_NOISE
    return bool(
        comfy.patcher_extension.get_all_wrappers(kind, model_options, is_model_options=True)
    )


def _traces(model: ModelPatcher, sampler: Any) -> Iterator[str]:
    """Names that other nodes have left."""
    options = model.model_options.get("transformer_options", {})
    yield from map(str, options)
    for by_kind in (model.wrappers, options.get("wrappers", {})):
        for by_key in by_kind.values():
            for key, wrappers in by_key.items():
                foreign = [wrapper for wrapper in wrappers if not _is_ours(wrapper)]
                if foreign:
                    yield str(key)
                yield from (_trace(wrapper) for wrapper in foreign)
    for patch in model.object_patches.values():
        yield _trace(patch)
    unet_wrapper = model.model_options.get("model_function_wrapper")
    if unet_wrapper is not None:
        yield _trace(unet_wrapper)
    function = None if sampler is None else vars(sampler).get("sampler_function")
    if function is not None:
        yield _trace(function)


def _trace(thing: Any) -> str:
    name, module = origin(thing)
    return f"{re.split(PATH_SEPARATOR, module)[-1]}.{name}"


def _is_ours(wrapper: Any) -> bool:
    return origin(wrapper)[1].startswith(OUR_MODULES)
