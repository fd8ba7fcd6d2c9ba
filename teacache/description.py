"""What a cache will do, in one line."""

from __future__ import annotations

from .config import TeaCacheConfig
from .families import Family
from .method import asked_method
from .profiles import Profile, threshold_of


def describe(config: TeaCacheConfig, family: Family, profile: Profile) -> str:
    """What was recognised, and what will be done."""
    method = asked_method(config)
    threshold = threshold_of(config, profile, method)
    source = "recommended" if config.rel_l1_thresh is None else "set"
    parts = [family.name, method.name]
    parts.append(f"threshold {threshold:g} ({source})" if threshold else "off")
    if method.indicator == "profile":
        label = "" if profile.calibrated else ", uncalibrated"
        if config.profile == "auto" and family.run_profile is not None:
            label += ", or by latent size and noise range"
        parts.append(f"profile {profile.name}{label}")
    elif config.profile != "auto":
        parts.append(f"profile {config.profile} is for the faithful mode: not used")
    return " · ".join(parts)
