"""What a cache will do, in one line."""

from __future__ import annotations

from .config import TeaCacheConfig
from .families import Family
from .method import MODES, Method, asked_method
from .profiles import Profile, threshold_of


def method_name(method: Method) -> str:
    """The mode's name, or the parts of a method that is none of them."""
    names = [name for name, known in MODES.items() if known == method]
    return names[0] if names else f"{method.cached}, {method.indicator}, {method.predictor}"


def describe(config: TeaCacheConfig, family: Family, profile: Profile) -> str:
    """What was recognised, and what will be done."""
    method = asked_method(config)
    threshold = threshold_of(config, profile, method)
    source = "recommended" if config.rel_l1_thresh is None else "set"
    parts = [family.name, method_name(method)]
    parts.append(f"threshold {threshold:g} ({source})" if threshold else "off")
    if method.indicator == "profile":
        label = "" if profile.calibrated else ", uncalibrated"
        if config.profile == "auto" and family.run_profile is not None:
            label += ", or by latent size and noise range"
        parts.append(f"profile {profile.name}{label}")
    elif config.profile != "auto":
        parts.append(f"profile {config.profile} is for the faithful mode: not used")
    return " · ".join(parts)
