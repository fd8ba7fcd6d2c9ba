"""What is known of ComfyUI's samplers, and the noise levels at which conditioning changes."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from teacache.engine.strategy import AMPLIFIED

pytestmark = pytest.mark.usefixtures("comfy")

ONE_EVALUATION = ["euler", "dpmpp_2m", "lms", "ipndm", "ipndm_v", "deis", "res_multistep"]
ONE_EVALUATION += ["gradient_estimation", "euler_cfg_pp"]
UNSTEADY = ["dpmpp_2m_cfg_pp", "dpmpp_2s_ancestral_cfg_pp", "res_multistep_cfg_pp"]
UNSTEADY += ["res_multistep_ancestral_cfg_pp", "gradient_estimation_cfg_pp"]
SEVERAL_EVALUATIONS = ["heun", "dpm_2", "unipc", "unipc_bh2"]
LISTED_AS = {"unipc": "uni_pc", "unipc_bh2": "uni_pc_bh2"}
"""How ComfyUI lists the samplers that have another name than their function."""


def traits(sampler: Any) -> Any:
    from teacache.hosts.comfyui.samplers import sampler_traits

    return sampler_traits(sampler)


def named(name: str) -> Any:
    import comfy.samplers

    return comfy.samplers.sampler_object(LISTED_AS.get(name, name))


def of(function: Any, options: Any = None) -> Any:
    import comfy.samplers

    sampler = comfy.samplers.KSAMPLER(function)
    sampler.extra_options = {} if options is None else options
    return sampler


def euler() -> Any:
    from comfy.k_diffusion.sampling import sample_euler

    return sample_euler


# --- samplers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_EVALUATION + SEVERAL_EVALUATIONS)
def test_deterministic_samplers_are_known(name: str) -> None:
    found = traits(named(name))
    assert found.plannable and found.forecast and not found.computed_in_full
    assert found.one_eval_per_step is (name in ONE_EVALUATION)
    assert found.euler is (name == "euler")
    assert found.name == name


@pytest.mark.parametrize("name", UNSTEADY)
def test_a_sampler_in_which_small_differences_grow_is_computed_in_full(name: str) -> None:
    found = traits(named(name))
    assert not (found.plannable or found.forecast or found.foreign)
    assert found.why_not_planned == "it lets small differences grow"
    assert found.one_eval_per_step is (name != "dpmpp_2s_ancestral_cfg_pp"), "as the faithful mode"
    assert found.adds_noise is ("ancestral" in name) and not found.adaptive


def test_errors_count_more_where_they_are_enlarged() -> None:
    for name in ("euler", "dpmpp_2m", "euler_ancestral", "dpmpp_sde"):
        assert traits(named(name)).error_weight == 1
    for name in ("lms", "ipndm", "deis", "unipc", "euler_cfg_pp"):
        assert traits(named(name)).error_weight == AMPLIFIED


@pytest.mark.parametrize("name", ["dpm_fast", "dpm_adaptive"])
def test_samplers_that_choose_their_levels_are_adaptive(name: str) -> None:
    found = traits(named(name))
    assert found.computed_in_full and not found.foreign and found.name == name
    assert not found.forecast and not found.plannable
    assert found.why_not_planned == "it chooses its own noise levels"


@pytest.mark.parametrize(
    ("name", "one"), [("euler_ancestral", True), ("dpmpp_sde", False), ("lcm", True)]
)
def test_samplers_that_add_noise_are_forecast_and_not_planned(name: str, one: bool) -> None:
    found = traits(named(name))
    assert found.name == name and found.one_eval_per_step is one
    assert found.forecast and found.adds_noise and not found.plannable
    assert not (found.computed_in_full or found.foreign or found.euler)
    assert found.why_not_planned == "it adds noise"


def test_every_sampler_that_comfyui_offers_is_in_a_table() -> None:
    import comfy.samplers

    for name in comfy.samplers.KSampler.SAMPLERS:
        assert not traits(named(name)).foreign, name


@pytest.mark.parametrize("option", ["s_churn", "eta"])
def test_an_option_that_adds_noise_counts_unless_it_is_zero(option: str) -> None:
    for value in (0, 0.0, None):
        assert traits(of(euler(), {option: value})).euler
    for value in (0.5, "0", torch.zeros(1)):
        found = traits(of(euler(), {option: value}))
        assert found.adds_noise and not found.foreign and found.name == "euler"
    noisy = traits(of(euler(), {"s_churn": 0.0, "eta": 0.0, option: 1}))
    assert noisy.raises_levels and not (noisy.euler or noisy.one_eval_per_step)
    assert traits(of(euler(), {"s_noise": 1.0})).euler
    assert traits(of(euler(), "no options")).euler


def test_a_partial_is_the_function_in_it_with_its_options() -> None:
    assert traits(of(functools.partial(euler()))).euler
    noisy = functools.partial(euler(), s_churn=0.5)
    assert traits(of(noisy)).adds_noise
    assert traits(of(noisy, {"s_churn": 0.0})).euler, "given options replace the partial's"
    assert traits(of(functools.partial(euler(), None))).foreign


class Callable:
    def __call__(self) -> None: ...


def sample_heun() -> None:
    """A foreign function with a known name."""


def test_what_is_not_comfyuis_own_is_foreign() -> None:
    foreign = {
        "sample_heun of test_samplers": of(sample_heun),
        "Callable of test_samplers": of(Callable()),
        "sample_euler of sampling": of(functools.partial(euler(), None)),
        "SimpleNamespace of types": SimpleNamespace(),
    }
    for name, sampler in foreign.items():
        found = traits(sampler)
        assert found.foreign and found.forecast and not (found.plannable or found.computed_in_full)
        assert found.name == name


def test_a_class_derived_from_comfyuis_sampler_is_foreign() -> None:
    import comfy.samplers

    class Derived(comfy.samplers.KSAMPLER):
        pass

    found = traits(Derived(euler()))
    assert found.foreign and not found.plannable
    assert found.name.endswith("Derived of test_samplers")


def test_a_sampler_that_calls_another_is_named_with_it() -> None:
    found = traits(of(sample_heun, {"strength": 1.0, "inner": named("dpmpp_2m")}))
    assert found.name == "sample_heun of test_samplers, around dpmpp_2m" and found.foreign


def test_a_wrapper_has_the_traits_of_the_sampler_in_it() -> None:
    def around(name: str) -> Any:
        return traits(of(sample_heun, {"outer": of(sample_heun, {"inner": named(name)})}))

    for name in ("euler", "dpmpp_2m", "heun"):
        found = around(name)
        assert found.foreign and found.forecast and not (found.euler or found.one_eval_per_step)
    assert around("lcm").adds_noise and around("dpmpp_2s_ancestral").adds_noise
    assert around("euler").error_weight == 1 and around("lms").error_weight == AMPLIFIED
    assert traits(of(sample_heun)).error_weight == AMPLIFIED, "nothing is known of it"
    assert around("dpm_adaptive").computed_in_full
    two = {"one": named("dpm_adaptive"), "other": named("euler")}
    assert not traits(of(sample_heun, two)).computed_in_full, "it is not known which one it follows"


def test_a_function_that_is_registered_beside_comfyuis_own_is_foreign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import comfy.k_diffusion.sampling as known

    monkeypatch.setattr(known, "sample_heun", sample_heun)
    assert traits(of(sample_heun)).foreign


def test_one_of_comfyuis_own_that_is_in_no_table_is_seen_while_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import comfy.k_diffusion.sampling as known

    def sample_newer() -> None: ...

    sample_newer.__module__ = known.__name__
    monkeypatch.setattr(known, "sample_newer", sample_newer, raising=False)
    found = traits(of(sample_newer))
    assert found.name == "newer" and found.foreign and found.forecast
    assert found.why_not_planned == "what it does between the steps is not known"


# --- conditioning --------------------------------------------------------------------------------


def boundaries(**conds: list[dict[str, Any]]) -> list[float]:
    from teacache.hosts.comfyui.samplers import conditioning_boundaries

    return conditioning_boundaries(conds)


def control(levels: tuple[float, float] | None, previous: Any = None, **more: Any) -> Any:
    return SimpleNamespace(timestep_range=levels, previous_controlnet=previous, **more)


def hooks(*levels: float) -> Any:
    keyframes = [SimpleNamespace(start_t=level) for level in levels]
    return SimpleNamespace(
        hooks=[SimpleNamespace(hook_keyframe=SimpleNamespace(keyframes=keyframes))]
    )


def test_a_cond_starts_and_ends_at_levels() -> None:
    assert boundaries(positive=[{"timestep_start": 0.9, "timestep_end": 0.2}]) == [0.2, 0.9]
    assert boundaries(positive=[{"timestep_end": torch.tensor(0.5)}]) == [0.5]
    assert boundaries(positive=[{}], negative=[{"control": None, "hooks": None}]) == []


def test_every_control_in_a_chain_has_its_range() -> None:
    chain = control((0.8, 0.3), control(None, control((0.7, 0.1))))
    assert boundaries(positive=[{"control": chain}]) == [0.1, 0.3, 0.7, 0.8]


def test_controls_of_other_packs_change_at_their_keyframes() -> None:
    from teacache.hosts.comfyui.samplers import conditioning_boundaries

    timed, shared = SimpleNamespace(start_t=0.6), SimpleNamespace(start_percent=0.25)
    both = SimpleNamespace(start_t=0.9, start_percent=0.5)
    chain = control(
        None,
        control((0.8, 0.3), timestep_keyframes=SimpleNamespace(keyframes=[timed, both])),
        latent_keyframes=[shared, "no keyframe", SimpleNamespace()],
        keyframes_to_come=None,
        other=[SimpleNamespace(start_t=0.11)],
    )
    conds = {"positive": [{"control": chain}]}
    assert conditioning_boundaries(conds) == [0.3, 0.6, 0.8, 0.9]
    assert conditioning_boundaries(conds, lambda share: 1 - share) == [0.3, 0.6, 0.75, 0.8, 0.9]
    nothing = control(None, keyframes=SimpleNamespace(other=1))
    assert boundaries(positive=[{"control": nothing}]) == []


def test_the_strength_of_every_control_counts() -> None:
    from teacache.hosts.comfyui.samplers import control_strengths

    chain = control(None, control(None, strength=1), strength=0.5)
    conds = {
        "positive": [{"control": chain}, {}],
        "negative": [{"control": control(None, strength="?")}, {"control": control(None)}],
    }
    assert control_strengths(conds) == (0.5, 1.0)


def test_hooks_change_at_their_keyframes() -> None:
    assert boundaries(positive=[{"hooks": hooks(0.9, 0.4)}]) == [0.4, 0.9]


def test_the_levels_of_all_conds_are_given_once() -> None:
    same = {"timestep_start": 0.6}
    assert boundaries(positive=[same, {"timestep_end": 0.1}], negative=[same]) == [0.1, 0.6]


def test_a_phase_lies_between_boundaries_or_on_one() -> None:
    from teacache.hosts.comfyui.samplers import conditioning_phase

    levels = [0.3, 0.7]
    groups = [(0.1, 0.2), (0.3,), (0.4, 0.6), (0.7,), (0.8, 1.0)]
    phases = [{conditioning_phase(levels, sigma) for sigma in group} for group in groups]
    assert all(len(phase) == 1 for phase in phases)
    assert len(set.union(*phases)) == len(groups)
    assert conditioning_phase([], 0.5) == conditioning_phase([], 0.1)
