"""Weights that accelerate keeps elsewhere until a module runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from accelerate import cpu_offload
from calibrations import calibration
from pipeline_sampling import SKIP_ALL, report_of
from tiny_pipelines import build, generate
from torch import nn

from teacache.hosts.diffusers import enable
from teacache.hosts.diffusers.enable import enable_teacache
from teacache.hosts.diffusers.weights import weights_digest
from teacache.profiles.conditions import UNKNOWN_DIGEST
from teacache.profiles.store import ProfileStore


def test_a_run_with_offloaded_weights_and_a_profile_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights must be identified to know whether the profile is theirs."""
    store = ProfileStore(tmp_path)
    store.save(calibration())
    monkeypatch.setattr(enable, "default_folder", lambda: tmp_path)
    pipe = build("sd3")
    digest = weights_digest(pipe.transformer)
    cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in pipe.transformer.parameters())
    handle = enable_teacache(pipe, SKIP_ALL)
    generate(pipe, "sd3")
    assert report_of(handle).skipped > 0
    assert weights_digest(pipe.transformer) == digest != UNKNOWN_DIGEST


def test_weights_that_are_nowhere_are_unknown() -> None:
    assert weights_digest(nn.Linear(2, 3, device="meta")) == UNKNOWN_DIGEST


def test_a_tensor_that_cannot_be_read_leaves_the_digest_unknown() -> None:
    class Opaque(torch.Tensor):
        """As packed weights of a quantised model may be."""

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
            if function is torch.Tensor.flatten:
                raise NotImplementedError("packed")
            return super().__torch_function__(function, types, args, kwargs)

    module = nn.Linear(2, 3)
    module.weight = nn.Parameter(torch.ones(3, 2).as_subclass(Opaque))
    assert weights_digest(module) == UNKNOWN_DIGEST
