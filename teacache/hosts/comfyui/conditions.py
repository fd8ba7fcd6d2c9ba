"""The conditions of a sampling run in ComfyUI, and ComfyUI's folder of the user's profiles."""

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

TRANSFORMER_PREFIX = "diffusion_model."
"""Of the keys of weights in `ModelPatcher.backup`."""


def profile_store() -> ProfileStore:
    """The user's profiles, in the user folder of this ComfyUI."""
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
    """The conditions of a run, by which a calibration is matched to it.

    Args:
        model: The model that is sampled.
        family: Its family.
        sampler: The sampler's name.
        sigmas: The run's noise levels.
        latent: `[batch, channels, ...]`; of a nested tensor the first one counts.
        guidance: The guidance scale, None where the guider has none.
        identify: Whether to compute the digests of weights and patches, which reads the weights.
    """
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
    """The guidance scale; None where a guider has none, or one that is not a single number."""
    cfg = vars(guider).get("cfg")
    if isinstance(cfg, torch.Tensor) and cfg.numel() == 1:
        return float(cfg)
    number = isinstance(cfg, (int, float)) and not isinstance(cfg, bool)
    return float(cfg) if number else None


def _digest(model: ModelPatcher) -> str:
    """The digest of the transformer's original weights, without patches such as LoRAs."""
    try:
        with reading_model():
            return digest_of_weights(_weights(model))
    except FamilyMismatch:
        return UNKNOWN_DIGEST


def _weights(model: ModelPatcher) -> Iterator[tuple[str, torch.Tensor]]:
    transformer = unwrap_compiled(model.get_model_object("diffusion_model"))
    for name, weight in transformer.named_parameters():
        original = model.backup.get(TRANSFORMER_PREFIX + name)
        yield name, weight if original is None else original.weight
