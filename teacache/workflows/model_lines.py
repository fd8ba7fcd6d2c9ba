"""Model lines: where a graph hands a model, or a pipeline, to a node that samples it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .definitions import MATCHING, Definitions, NodeKind, input_types

APPLY_TO = {"MODEL": "ApplyTeaCache", "DIFFUSION_PIPELINE": "ApplyTeaCacheDiffusers"}
"""{type of a line: the class that adds the cache to it}."""
WITHOUT_SAMPLING = frozenset(
    {"*", MATCHING, "SIGMAS", "SAMPLER", "CONTROL_NET", "FLOAT", "INT", "STRING", "BOOLEAN"}
)
"""Types of outputs that are derived from a model's settings, or pass on what came in."""
READERS = frozenset({"AddNoise", "TeaCacheCalibrate", "TeaCacheSweep"})
"""Classes that take a model and sample nothing, or sample with caches of their own. TeaCache Report
is none: it wants the model with its cache."""
OURS = READERS | {"TeaCacheCompareImages", "TeaCacheProfiles", "TeaCacheReport"}
"""Classes of this pack with a cache's name that add none."""
CACHES = re.compile("teacache|easycache|lazycache|magcache|fbcache|cachedit|taylorseer")
"""In the names of classes, in small letters and digits only, that add a cache to a model."""


def adds_cache(class_type: str) -> bool:
    """Whether a class adds a cache to a model: Apply TeaCache, or a node of another pack."""
    name = re.sub(r"[^a-z0-9]", "", class_type.lower())
    return class_type not in OURS and CACHES.search(name) is not None


def node_kind(definitions: Definitions, class_type: str) -> NodeKind:
    """The inputs and outputs of a node class; none for an unknown class."""
    if class_type not in definitions:
        return NodeKind({}, ())
    entry = definitions[class_type]
    return NodeKind(
        input_types(entry["input"]),
        tuple(map(str, entry.get("output", ()))),
        bool(entry.get("output_node")),
    )


def line_type(input_type: str) -> str | None:
    """The one of `APPLY_TO` that an input of this type accepts; None for other inputs."""
    accepted = input_type.split(",")
    return next((kind for kind in APPLY_TO if kind in accepted), None)


def samples(class_type: str, inputs: Mapping[str, str], outputs: Iterable[str]) -> bool:
    """Whether a node with a model or pipeline input samples it, or hands it to what does.

    A node that returns the model is a patch, unless it has a sampler too; one that returns noise
    levels, numbers or nothing only reads the model's settings or saves it.

    Args:
        class_type: the node's class.
        inputs: the type of every input.
        outputs: the types of its outputs.
    """
    given = set(outputs)
    if class_type in READERS or class_type in APPLY_TO.values():
        return False
    if given & APPLY_TO.keys():
        return "sampler_name" in inputs or "SAMPLER" in inputs.values()
    return bool(given - WITHOUT_SAMPLING)
