"""What users and other packages do with pipelines: copies, threads, schedulers, own loops."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import tiny_pipelines
import torch
from tiny_pipelines import flow

# --- copies and threads --------------------------------------------------------------------------


def copy_of(pipe: Any, shift: float = 1.0) -> Any:
    """A copy that shares the transformer and has a scheduler of its own."""
    copied = copy.copy(pipe)
    copied.scheduler = flow(shift=shift)
    return copied


def in_threads(*calls: Callable[[threading.Barrier], Any]) -> list[Any]:
    """The results of `calls`, each in a thread of its own."""
    barrier, results = threading.Barrier(len(calls)), [None] * len(calls)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = calls[index](barrier)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


# --- schedulers ----------------------------------------------------------------------------------


class SchedulerProxy:
    """A scheduler that passes everything on to another one, by its attributes alone."""

    def __init__(self, inner: Any) -> None:
        self.__dict__["inner"] = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)

    def __len__(self) -> int:
        return len(self.inner)


def noisy_step(scheduler: Any) -> Any:
    """`scheduler` with a step of its own on the object, which adds noise."""
    original = scheduler.step
    generator = torch.Generator().manual_seed(7)

    def step(*args: Any, **options: Any) -> Any:
        out = original(*args, **options)
        values = list(out) if isinstance(out, tuple) else [out.prev_sample]
        values[0] = values[0] + 0.05 * torch.randn(values[0].shape, generator=generator)
        return tuple(values) if isinstance(out, tuple) else type(out)(prev_sample=values[0])

    scheduler.step = step
    return scheduler


def without_sigmas(scheduler: Any) -> Any:
    """A proxy of `scheduler` whose settings are few, and which does not tell its noise levels."""

    class Few(SchedulerProxy):
        def __getattr__(self, name: str) -> Any:
            if name == "sigmas":
                raise AttributeError(name)
            if name == "config":
                known = self.__dict__["inner"].config
                return _Settings({key: known[key] for key in known if "shift" in key})
            return super().__getattr__(name)

    return Few(scheduler)


class _Settings(dict[str, Any]):
    """A mapping whose entries are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def heun() -> Any:
    from diffusers import FlowMatchHeunDiscreteScheduler

    return FlowMatchHeunDiscreteScheduler()


def subclass() -> Any:
    """A class of its own whose step is another function than that of its base."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    class Mine(FlowMatchEulerDiscreteScheduler):
        def step(self, *args: Any, **options: Any) -> Any:
            return super().step(*args, **options)

    return Mine()


SCHEDULERS: dict[str, Callable[[], Any]] = {
    "flow": flow,
    "flow shifted": lambda: flow(shift=4.0),
    "stochastic": lambda: flow(stochastic_sampling=True),
    "heun": heun,
    "subclass": subclass,
    "proxy": lambda: SchedulerProxy(flow()),
    "own step": lambda: noisy_step(flow()),
    "few settings": lambda: without_sigmas(flow()),
}
"""Makers of flow-matching schedulers, by what is special about them."""


# --- loops ---------------------------------------------------------------------------------------


def own_loop(
    transformer: Any,
    steps: int,
    seed: int,
    texts: tuple[int, ...] = (1, 2),
    stop: int | None = None,
) -> torch.Tensor:
    """A loop of the user's own over the transformer of `sd3`.

    Args:
        texts: seeds of the embeddings of its branches.
    """
    embeddings = [
        {
            "encoder_hidden_states": tiny_pipelines.noise(text, 1, 5, 32),
            "pooled_projections": tiny_pipelines.noise(text + 10, 1, 12),
        }
        for text in texts
    ]
    x = tiny_pipelines.noise(seed, 1, 4, 8, 8)
    with torch.no_grad():
        for t in torch.linspace(1000, 1000 / steps, steps):
            outs = [transformer(x, timestep=t.reshape(1), **each)[0] for each in embeddings]
            x = x - (outs[-1] + 3 * (outs[0] - outs[-1])) / steps
    return x
