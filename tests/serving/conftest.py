"""The demo model behind a server, for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from image_server import Running, serving

from teacache.config import TeaCacheConfig
from teacache.hosts.diffusers.loading import load_pipeline
from teacache.serving.kept import KeptPictures
from teacache.serving.limits import Limits
from teacache.serving.pipelines import PipelineModel


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("demo")


@pytest.fixture(scope="module")
def demo(pipe) -> Iterator[Running]:
    model = PipelineModel(pipe, "demo", TeaCacheConfig(rel_l1_thresh=0.3), steps=10)
    limits = Limits(side=256, steps=40, pictures=3, body=200_000)
    with serving(model, limits=limits, kept=KeptPictures(1_000_000)) as running:
        yield running
