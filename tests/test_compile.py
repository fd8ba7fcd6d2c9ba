"""torch.compile beside the cache, in both node orders: skips still happen, pictures agree."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_ALL, cached, report_of, sample, spying

pytestmark = pytest.mark.usefixtures("comfy")
WHOLE = ["diffusion_model"]


def per_block(model: Any) -> list[str]:
    count = len(model.model.diffusion_model.joint_blocks)
    return [f"diffusion_model.joint_blocks.{index}" for index in range(count)]


@pytest.fixture
def graphs() -> list[Any]:
    """The graphs that torch.compile has made so far; they run as they are."""
    torch._dynamo.reset()
    return []


def compiled(model: Any, keys: list[str], graphs: list[Any]) -> Any:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    patched = model.clone()
    set_torch_compile_wrapper(patched, backend, keys=keys)
    return patched


@pytest.mark.parametrize("order", ["compile first", "cache first"])
@pytest.mark.parametrize("part", ["whole", "per block"])
def test_skips_happen_and_pictures_agree(order: str, part: str, graphs: list[Any]) -> None:
    model = tiny_models.build("sd3")
    expected = sample(cached(model, SKIP_ALL)[0], "sd3")
    keys = WHOLE if part == "whole" else per_block(model)
    if order == "compile first":
        patched, handle = cached(compiled(model, keys, graphs), SKIP_ALL)
    else:
        clone, handle = cached(model, SKIP_ALL)
        patched = compiled(clone, keys, graphs)
    with spying(model) as spy:
        got = sample(patched, "sd3")
    assert graphs, "nothing was compiled"
    assert report_of(handle).skipped == spy.skipped_calls == 4
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", ["whole", "per block"])
def test_compiling_comes_to_an_end(part: str, graphs: list[Any]) -> None:
    """Other lengths of run compile again at first, as without the cache; then never again."""
    model = tiny_models.build("sd3")
    keys = WHOLE if part == "whole" else per_block(model)
    patched, handle = cached(compiled(model, keys, graphs), SKIP_ALL)
    made = []
    for seed, steps in enumerate((6, 12, 20, 6, 7, 12, 9, 20)):
        sample(patched, "sd3", seed=seed, steps=steps)
        assert report_of(handle).skipped == steps - 2
        made.append(len(graphs))
    assert made[0] and made[4:] == [made[3]] * 4
