"""The key of a transformer call's branch, from the call's arguments alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from teacache.hosts.diffusers.branches import (
    MAX_BRANCHES,
    Branches,
    arguments_of,
    latent_name,
    layout_of,
    tensors_in,
    timestep_name,
    timestep_of,
)
from teacache.hosts.diffusers.reads import TensorReads


class Transformer(nn.Module):
    def forward(
        self, hidden_states: Any, timestep: Any = None, *, guidance: Any = None, **kwargs: Any
    ) -> None: ...


def text(value: float, size: int = 3) -> torch.Tensor:
    return torch.full((1, size), value)


# --- arguments -----------------------------------------------------------------------------------


def test_arguments_are_named_in_the_order_of_the_forward() -> None:
    named = arguments_of(Transformer(), (1, 2), {"more": 4, "guidance": 3})
    assert list(named.items()) == [
        ("hidden_states", 1), ("timestep", 2), ("guidance", 3), ("more", 4),
    ]  # fmt: skip
    assert latent_name(named) == "hidden_states"
    assert arguments_of(Transformer(), (), {"hidden_states": 1}) == {"hidden_states": 1}


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TypeError):
        arguments_of(Transformer(), (1, 2, 3), {})


@pytest.mark.parametrize("name", ["timestep", "timesteps", "t"])
def test_the_timestep_has_one_of_three_names(name: str) -> None:
    assert timestep_name({"x": 1, name: 2}) == name
    value = timestep_of({"x": 1, name: torch.tensor([[1.0, 5.0], [3.0, 2.0]])})
    assert value.shape == () and value == 5.0


def test_a_call_without_a_timestep_is_refused() -> None:
    with pytest.raises(LookupError, match="no argument is called timestep or timesteps or t"):
        timestep_name({"x": 1})


def test_a_timestep_carries_no_gradient() -> None:
    assert not timestep_of({"t": torch.ones(2, requires_grad=True)}).requires_grad


# --- what is in them -----------------------------------------------------------------------------


def test_tensors_are_gathered_from_all_that_is_nested() -> None:
    a, b, c = text(1), text(2), text(3)
    found = list(tensors_in({"one": [a, (b, 5)], "two": {"three": c, "four": "x"}}))
    assert [id(tensor) for tensor in found] == [id(a), id(b), id(c)]


def test_the_layout_is_the_structure_and_not_the_values() -> None:
    assert layout_of(text(1)) == layout_of(text(2))
    assert layout_of(text(1)) != layout_of(text(1, size=4))
    assert layout_of(text(1)) != layout_of(text(1).double())
    assert layout_of(text(1)) != layout_of(text(1).to("meta"))
    assert layout_of({"a": text(1)}) != layout_of({"b": text(1)})
    assert layout_of({"a": text(1)}) != layout_of({"a": text(1, size=4)})
    assert layout_of([text(1), 3]) == layout_of((text(2), 4))
    assert layout_of([text(1)]) != layout_of([text(1), text(1)])
    assert layout_of([text(1)]) != layout_of([text(1, size=4)])
    assert layout_of(3) == layout_of(4) != layout_of("3")
    assert layout_of({1: 3}) == layout_of({"1": 3})
    hash(layout_of({"a": [text(1), {"b": None}]}))


def test_lists_are_equal_where_every_tensor_is() -> None:
    equal = TensorReads().all_equal
    assert equal([], []) and equal([text(1), text(2)], [text(1), text(2)])
    assert not equal([text(1)], [text(1), text(2)])
    assert not equal([text(1), text(2)], [text(1), text(3)])
    assert not equal([text(1)], [text(1, size=4)])
    assert not equal([text(1)], [text(1).double()])
    assert not equal([text(1)], [text(1).to("meta")])


def test_what_lies_in_the_same_memory_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing reads from the device, which makes the host wait."""

    def compared(*_: Any) -> bool:
        raise AssertionError

    equal = TensorReads().all_equal
    values = torch.arange(4.0).view(2, 2)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "equal", compared)
        assert equal([values], [values]) and equal([values], [values.view(2, 2)])
    assert not equal([values], [values.T]), "the same memory, read in another order"
    assert not equal([values[0]], [values[1]])


# --- keys ----------------------------------------------------------------------------------------


def test_equal_texts_are_one_branch_wherever_they_lie() -> None:
    branches = Branches(TensorReads())
    first = branches.key(None, {"x": text(0), "encoder_hidden_states": text(1)})
    other = branches.key(None, {"x": text(0), "encoder_hidden_states": text(2)})
    third = branches.key(None, {"x": text(0), "encoder_hidden_states": text(3)})
    assert len({first, other, third}) == 3
    assert branches.key(None, {"x": text(9), "encoder_hidden_states": text(1)}) == first
    assert branches.key(None, {"x": text(9), "encoder_hidden_states": text(2)}) == other


@pytest.mark.parametrize(
    "name", ["encoder_hidden_states_image", "pooled_projections", "cap_feats", "prompt_embeds"]
)
def test_texts_are_known_by_the_beginning_of_their_names(name: str) -> None:
    branches = Branches(TensorReads())
    assert branches.key(None, {name: text(1)}) != branches.key(None, {name: text(2)})
    other = "x_" + name
    assert branches.key(None, {other: text(1)}) == branches.key(None, {other: text(2)})


def test_other_texts_are_named_by_the_family() -> None:
    branches = Branches(TensorReads(), ("y",))
    assert branches.key(None, {"y": text(1)}) != branches.key(None, {"y": text(2)})
    assert branches.key(None, {"z": text(1)}) == branches.key(None, {"z": text(2)})


def test_plain_arguments_and_the_context_belong_to_the_key() -> None:
    branches = Branches(TensorReads())
    settings = [
        {"skip_layers": [7, 8]}, {"skip_layers": [7, 9]}, {"skip_layers": [7, [8]]},
        {"flag": True}, {"flag": "True"}, {"flag": 5}, {"other": 5},
    ]  # fmt: skip
    keys = [branches.key(None, given) for given in settings]
    assert len(set(keys)) == len(settings)
    assert branches.key("cond", settings[0]) != keys[0]
    assert branches.key("cond", settings[0]) == branches.key("cond", {"skip_layers": (7, 8)})


def test_values_that_change_from_step_to_step_do_not_belong_to_the_key() -> None:
    branches = Branches(TensorReads())
    assert branches.key(None, {"scale": 0.5}) == branches.key(None, {"scale": 0.7})
    assert branches.key(None, {"ids": text(1)}) == branches.key(None, {"ids": text(2)})


def test_a_key_for_every_call_is_refused_in_the_end() -> None:
    branches = Branches(TensorReads())
    for number in range(MAX_BRANCHES):
        branches.key(None, {"number": number})
    branches.key(None, {"number": 0})
    with pytest.raises(ValueError, match="more than 16 different texts or settings in one run"):
        branches.key(None, {"number": MAX_BRANCHES})


def test_the_same_texts_in_the_same_memory_are_not_read() -> None:
    reads = TensorReads()
    branches = Branches(reads)
    one, other, third = text(1.0), text(2.0), text(3.0)
    key = branches.key(None, {"prompt_embeds": one, "prompt_mask": other})
    assert branches.key(None, {"prompt_embeds": one, "prompt_mask": other}) == key
    assert reads.take() == 0
    second = branches.key(None, {"prompt_embeds": one, "prompt_mask": third})
    assert second != key and reads.take() == 1
    assert branches.key(None, {"prompt_embeds": one, "prompt_mask": third}) == second
    assert reads.take() == 0, "not even compared with the first"
