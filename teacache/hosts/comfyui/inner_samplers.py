"""Samplers around other samplers: the noise levels that the inner one is at.

A wrapper may show the model another level than its sampler is at (Detail Daemon, LyingSigma). The
level is noted where the inner sampler evaluates, before the wrapper changes it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.samplers
import torch


def flattened(function: Any, options: Any) -> tuple[Any, Mapping[str, Any]]:
    """The function inside a `functools.partial` with keywords only, and all its options."""
    given = dict(options) if isinstance(options, Mapping) else {}
    if isinstance(function, functools.partial) and not function.args:
        return function.func, {**function.keywords, **given}
    return function, given


def samplers_within(sampler: Any) -> dict[str, Any]:
    """The samplers among the options of a `comfy.samplers.KSAMPLER`, by the options' names."""
    _, options = flattened(sampler.sampler_function, sampler.extra_options)
    return {name: value for name, value in options.items() if _is_sampler(value)}


def _is_sampler(value: Any) -> bool:
    return type(value) is comfy.samplers.KSAMPLER


class InnerLevels:
    """The level at which the innermost sampler evaluates."""

    def __init__(self) -> None:
        self._level: torch.Tensor | None = None

    def take(self) -> torch.Tensor | None:
        """The level of the evaluation that begins, [rows]; None where no inner sampler made it.

        Each one is given once: a wrapper may evaluate more often than the sampler in it.
        """
        level, self._level = self._level, None
        return level

    @contextmanager
    def noted(self, sampler: Any) -> Iterator[None]:
        """While it lasts, the samplers within `sampler` are copies that note their levels."""
        inner = samplers_within(sampler) if _is_sampler(sampler) else {}
        if not inner:
            yield
            return
        original = sampler.extra_options
        sampler.extra_options = self._with_copies(original, inner)
        try:
            yield
        finally:
            sampler.extra_options = original

    def _with_copies(self, options: Any, inner: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(options) if isinstance(options, Mapping) else {}
        return {**given, **{name: self._copy(each) for name, each in inner.items()}}

    def _copy(self, sampler: Any) -> Any:
        copied, inner = copy.copy(sampler), samplers_within(sampler)
        if inner:
            copied.extra_options = self._with_copies(sampler.extra_options, inner)
        else:
            copied.sampler_function = self._noting(sampler.sampler_function)
        return copied

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def sample(model: Any, *args: Any, **options: Any) -> Any:
            return function(_NotingModel(model, self._note), *args, **options)

        return sample

    def _note(self, level: Any) -> None:
        self._level = level if isinstance(level, torch.Tensor) else None


class _NotingModel:
    """The model that a sampler calls: it tells each level, and is else the same."""

    def __init__(self, model: Any, note: Callable[[Any], None]) -> None:
        self.__dict__.update(_model=model, _note=note)

    def __call__(self, x: Any, sigma: Any, *args: Any, **options: Any) -> Any:
        self._note(sigma)
        return self._model(x, sigma, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)
