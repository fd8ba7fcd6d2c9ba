"""Under what conditions ComfyUI samples, and where it keeps the user's profiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher

from ...digest import digest_of_patches, digest_of_weights
from ...families.spec import Family, unwrap_compiled
from ...families.streams import FamilyMismatch, reading_model
from ...profiles.conditions import UNKNOWN_DIGEST, Conditions
from ...profiles.store import ProfileStore

PREFIX = "diffusion_model."


def profile_store() -> ProfileStore:
    """Of this ComfyUI."""
    return ProfileStore.in_user_folder(Path(folder_paths.get_user_directory()))


def conditions_of(
    model: ModelPatcher,
    family: Family,
    sampler: str,
    sigmas: Sequence[float],
    latent: torch.Tensor,
    guidance: float | None,
    identify: bool = True,
) -> Conditions:
    """latent: of a run, the batch first. identify: whether the weights are looked at."""
    if latent.is_nested:
        latent = latent.unbind()[0]
    return Conditions(
        family=family.id,
        weights_digest=_digest(model) if identify else UNKNOWN_DIGEST,
        patches_digest=digest_of_patches(model.patches) if identify else UNKNOWN_DIGEST,
        sampler=sampler,
        sigmas=tuple(sigmas),
        latent=tuple(latent.shape[1:]),
        guidance=guidance,
    )


def guidance_of(guider: Any) -> float | None:
    return float(guider.cfg) if "cfg" in vars(guider) else None


def _digest(model: ModelPatcher) -> str:
    """Of the transformer's own weights, without what is patched into them."""
    try:
        with reading_model():
            return digest_of_weights(_weights(model))
    except FamilyMismatch:
        return UNKNOWN_DIGEST


def _weights(model: ModelPatcher) -> Iterator[tuple[str, torch.Tensor]]:
    transformer = unwrap_compiled(model.get_model_object("diffusion_model"))
    for name, weight in transformer.named_parameters():
        kept = model.backup.get(PREFIX + name)
        yield name, weight if kept is None else kept.weight
