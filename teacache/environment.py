"""Selection of the cache by command-line arguments or environment variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .config import TeaCacheConfig
from .errors import ConfigError, UserError, nearest

BACKEND_VARIABLE = "DIFFUSION_CACHE_BACKEND"
CONFIG_VARIABLE = "DIFFUSION_CACHE_CONFIG"
TEACACHE, NONE = "tea_cache", "none"
BACKENDS = (TEACACHE, NONE)


def resolve_cache_config(
    environment: Mapping[str, str],
    backend: str | None = None,
    config: str | None = None,
    threshold: float | None = None,
) -> TeaCacheConfig | None:
    """The settings of the selected cache; an argument overrides its environment variable.

    Args:
        environment: Environment variables; read are `DIFFUSION_CACHE_BACKEND` and
            `DIFFUSION_CACHE_CONFIG`.
        backend: Value of --cache-backend, one of `BACKENDS`, or None if absent.
        config: Value of --cache-config, a JSON object, or None if absent.
        threshold: Value of --tea-cache-rel-l1-thresh, or None if absent; overrides the threshold
            of `config`.

    Returns:
        The settings, or None for no cache. A threshold that is not given is None in the settings,
        which stands for the one recommended for the model family.

    Raises:
        UserError: A value is invalid; names the argument or variable it comes from.
    """
    source = "--cache-backend" if backend is not None else BACKEND_VARIABLE
    name = backend if backend is not None else environment.get(BACKEND_VARIABLE, "") or NONE
    if name not in BACKENDS:
        hint = nearest(name, BACKENDS) or ";"
        raise UserError(f"{source}: unknown backend {name!r}{hint} known: {', '.join(BACKENDS)}")
    if name == NONE:
        for option, value in (
            ("--cache-config", config),
            ("--tea-cache-rel-l1-thresh", threshold),
        ):
            if value is not None:
                raise UserError(f"{option}: no cache is on; add --cache-backend {TEACACHE}")
        return None
    values: dict[str, Any] = {"rel_l1_thresh": None}
    source = "--cache-config" if config is not None else CONFIG_VARIABLE
    text = config if config is not None else environment.get(CONFIG_VARIABLE, "")
    if text.strip() or config is not None:
        values |= parse_config(text, source)
    if threshold is not None:
        values["rel_l1_thresh"] = threshold
        source = "--tea-cache-rel-l1-thresh"
    try:
        return TeaCacheConfig.from_mapping(values)
    except ConfigError as error:
        raise UserError(f"{source}: {error}") from None


def parse_config(text: str, source: str) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        text: The JSON text.
        source: The argument or variable it comes from, for messages.

    Raises:
        UserError: It is not JSON, or not an object.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f'{source}: not JSON ({error}); write it like {{"rel_l1_thresh": 0.2}}'
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{source}: must be a JSON object, not {type(values).__name__}")
    return values
