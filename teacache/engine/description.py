"""What a cache will do, in one line."""

from __future__ import annotations

from ..config import TeaCacheConfig
from ..families.registry import Family
from ..profiles.calibrated import Calibration
from ..profiles.profile import Profile, threshold_of
from .strategy import asked_method


def describe(
    config: TeaCacheConfig,
    family: Family,
    profile: Profile,
    calibration: Calibration | None = None,
) -> str:
    """What was recognised, and what will be done. calibration: the one that `config` names."""
    if config.preset != "auto" and config.rel_l1_thresh != 0:
        parts = [family.name, f"preset {config.preset}, resolved when a run starts"]
        return " · ".join([*parts, *_named(calibration)])
    method = asked_method(config)
    threshold = threshold_of(config, profile, method)
    source = "recommended" if config.rel_l1_thresh is None else "set"
    parts = [family.name, method.name]
    if calibration is not None and config.untouched:
        return " · ".join([family.name, "planned", *_named(calibration)])
    parts.append(f"threshold {threshold:g} ({source})" if threshold else "off")
    if method.indicator == "profile" and calibration is not None:
        parts += _named(calibration)
    elif method.indicator == "profile":
        label = "" if profile.calibrated else ", uncalibrated"
        if config.profile == "auto" and family.run_profile is not None:
            label += ", or by latent size and noise range"
        parts.append(f"profile {profile.name}{label}")
    elif config.profile != "auto":
        parts.append(f"profile {config.profile} is for the faithful mode: not used")
    return " · ".join(parts)


def _named(calibration: Calibration | None) -> list[str]:
    return [] if calibration is None else [f"profile {calibration.name}, your own"]
