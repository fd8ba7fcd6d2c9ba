"""Selection of the cache by command-line arguments or environment variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .config import PRESETS, TeaCacheConfig, wanted_speedup
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


def resolve_graph_cache(environment: Mapping[str, str], cache: str | None) -> TeaCacheConfig | None:
    """The settings of the cache that is put into a graph.

    Args:
        environment: Environment variables, as for `resolve_cache_config`.
        cache: Value of --cache, which overrides them: a threshold, a preset, a wanted speed-up, a
            JSON object of settings, or empty for the node's defaults. None if absent.

    Returns:
        The settings, or None for no cache. A threshold of None is the recommended one.

    Raises:
        UserError: A value is invalid; names the option or variable it comes from.
    """
    if cache is None:
        config = resolve_cache_config(environment)
        source = CONFIG_VARIABLE
    else:
        source = "--cache"
        try:
            config = TeaCacheConfig.from_mapping({"rel_l1_thresh": None} | parse_cache(cache))
        except ConfigError as error:
            raise UserError(f"{source}: {error}") from None
    if config is not None and config.coefficients is not None:
        raise UserError(
            f"{source}: coefficients are no setting of the node Apply TeaCache: keep them in a "
            "profile, and name it with profile"
        )
    return config


def parse_cache(text: str) -> dict[str, Any]:
    """The settings that a value of --cache stands for.

    Raises:
        UserError: It is neither a number, a preset nor a JSON object.
    """
    text = text.strip()
    if text.startswith("{"):
        return parse_config(text, "--cache")
    if text in PRESETS or wanted_speedup(text) is not None:
        return {"preset": text}
    try:
        return {"rel_l1_thresh": float(text)} if text else {}
    except ValueError:
        raise UserError(
            f"--cache: must be a threshold such as 0.2, a speed-up such as 2.0x, one of "
            f"{', '.join(PRESETS)}, or a JSON object of settings, not {text!r}"
        ) from None


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
