"""What a server needs of a model: refuse what it cannot do, and sample."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from .requests import ImageRequest

RANDOM_SEEDS = 2**32


class Cancelled(KeyboardInterrupt):
    """The client has gone: sampling stops, and the run counts as interrupted."""


@dataclass(frozen=True)
class SamplingProgress:
    """`step` of `steps` is done; `picture` is what there is so far, where that was wanted."""

    stage: str
    step: int
    steps: int
    picture: Image.Image | None = None


@dataclass
class Pictures:
    """The result of a request.

    Args:
        images: one for each picture that was asked for.
        seconds: of sampling, with text encoding and decoding.
        seed: of the noise; None where the model has no input for it.
        runs: the cache's reports as JSON, one for each run of a sampler with a cache.
        notes: sentences for the user.
    """

    images: list[Image.Image]
    seconds: float
    seed: int | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


OnProgress = Callable[[SamplingProgress], None]
IsCancelled = Callable[[], bool]


class ModelDescription(Protocol):
    """What a server tells of its model, and what it refuses before a request is queued.

    Attributes:
        name: by which requests call it.
        about: what `GET /v1/models` tells of it.
        takes_images: whether pictures can be edited.
        lines: sentences for whoever starts the server.
    """

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> dict[str, Any]: ...
    @property
    def takes_images(self) -> bool: ...
    @property
    def lines(self) -> Sequence[str]: ...

    def check(self, request: ImageRequest) -> None:
        """Raises `ApiError`, `UserError` or `ConfigError` for what the model cannot do."""


class ServedModel(Protocol):
    """A model that samples one request at a time.

    Attributes:
        description: of it; it can be pickled.
    """

    @property
    def description(self) -> ModelDescription: ...

    def sample(
        self, request: ImageRequest, on_progress: OnProgress, is_cancelled: IsCancelled
    ) -> Pictures:
        """Samples, and blocks meanwhile.

        Raises:
            UserError, ConfigError: a value is unusable.
            ExecutionError: sampling failed.
            Cancelled: `is_cancelled` became true.
        """


def seed_of(request: ImageRequest) -> int:
    """The request's seed, or a new one."""
    return secrets.randbelow(RANDOM_SEEDS) if request.seed is None else request.seed
