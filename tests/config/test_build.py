"""Flat mappings to a method and its run's settings, and back through YAML."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.config import (
    CompareSettings,
    TrainSettings,
    dump,
    load_config,
    method_and_settings,
    settings_from,
)
from tastemaker.config.check import field_types
from tastemaker.errors import TastemakerError
from tastemaker.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_method_defaults_apply_and_are_overruled(name: str):
    cls = METHODS[name]
    method, run = method_and_settings(cls)
    assert isinstance(method, cls)
    for setting, value in cls.defaults.items():
        assert getattr(run, setting) == value
    _, run = method_and_settings(cls, {"learning_rate": 0.5, "seed": 7})
    assert (run.learning_rate, run.seed) == (0.5, 7)


@pytest.mark.parametrize("name", METHODS)
def test_methods_share_no_name_with_the_run(name: str):
    """One flat mapping holds both, so a name must mean one thing."""
    assert not field_types(METHODS[name]).keys() & field_types(TrainSettings).keys()
    assert METHODS[name].defaults.keys() <= field_types(TrainSettings).keys()


def test_trl_spelling_gives_the_same_settings():
    trl = {"num_ppo_epochs": 2, "max-completion-length": "32", "warmup_ratio": 0.1, "bf16": True, "peft": True}
    ours = {
        "num_ppo_epochs": 2,
        "response_length": 32,
        "warmup_steps": 0.1,
        "dtype": "bfloat16",
        "use_peft": True,
    }
    assert method_and_settings(METHODS["ppo"], trl) == method_and_settings(METHODS["ppo"], ours)


def test_a_methods_own_checks_name_the_origin():
    with pytest.raises(TastemakerError, match=r"^recipe\.yaml: .*beta"):
        method_and_settings(METHODS["dpo"], {"beta": -1}, origin="recipe.yaml")


def test_wrong_in_method_and_in_run_are_said_together():
    with pytest.raises(TastemakerError) as caught:
        method_and_settings(METHODS["ppo"], {"kl_estimator": "k9", "gamma": "x", "seed": -1, "klcoef": 1})
    for part in ("kl_estimator = 'k9': should be k1|k3", "gamma", "seed = -1", "klcoef", "kl_coef"):
        assert part in str(caught.value)


def test_the_same_setting_twice():
    with pytest.raises(TastemakerError, match="max_steps is already given as max_steps = 5"):
        settings_from(TrainSettings, {"max_steps": 5, "max-steps": 6})
    assert settings_from(TrainSettings, {"max_steps": 5, "max-steps": 5}).max_steps == 5


def _values(name: str, kind: Any) -> st.SearchStrategy[Any]:
    """Values a user might give for a field, by its name where the range is narrow."""
    small = st.floats(0, 0.99, allow_nan=False)
    special = {
        "max_steps": st.sampled_from([-1, 1, 500]),
        "max_length": st.sampled_from([None, 2048]),
        "max_prompt_length": st.sampled_from([None, 512]),
        "lora_target_modules": st.none()
        | st.lists(st.sampled_from(["q_proj", "v_proj"]), max_size=2).map(tuple),
        "warmup_steps": st.integers(0, 10**6) | small,
        "learning_rate": st.none() | st.floats(1e-12, 1, allow_nan=False),
        "chat_template": st.none() | st.text(min_size=5),
        "device": st.sampled_from(["auto", "cpu", "cuda:1"]),
        "stop_at_gold_peak": st.just(False),  # goes with a gold alone
        "gold": st.none(),
        "ref_model": st.none() | st.sampled_from(["runs/sft", "Qwen/Qwen3-0.6B", "123"]),
        "max_dropped": small,
        "dtype": st.sampled_from(["auto", "float32", "bfloat16"]),
        "attention": st.sampled_from(["auto", "stream", "rows"]),
        "truncation_mode": st.sampled_from(["keep_start", "keep_end"]),
        "lr_scheduler_type": st.sampled_from(["linear", "cosine", "constant", "constant_with_warmup"]),
        "frozen_dtype": st.sampled_from(["auto", "float32", "bfloat16"]),
        "optim": st.sampled_from(["adamw_torch_fused", "adamw_bf16", "paged_adamw_8bit", "sgd"]),
        "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    }
    if name in special:
        return special[name]
    if kind is bool:
        return st.booleans()
    default = TrainSettings.__dataclass_fields__[name].default
    return small.filter(lambda x: x > 1e-9) if isinstance(default, float) else st.integers(1, 10**9)


ANY_SETTINGS = st.fixed_dictionaries(
    {}, optional={name: _values(name, kind) for name, kind in field_types(TrainSettings).items()}
)


@settings(max_examples=60, deadline=None)
@given(values=ANY_SETTINGS)
def test_written_and_read_back_is_the_same(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory):
    before = TrainSettings(**values)
    path = tmp_path_factory.mktemp("yaml") / "settings.yaml"
    path.write_text(yaml.safe_dump(dump(before)), encoding="utf-8")
    assert settings_from(TrainSettings, load_config(path).values) == before


@settings(max_examples=60, deadline=None)
@given(values=ANY_SETTINGS)
def test_typed_as_flags_is_the_same(values: dict[str, Any]):
    """Every value survives being typed as text on a command line."""
    values = {k: v for k, v in values.items() if k not in ("chat_template", "lora_target_modules")}
    typed = {f"--{k.replace('_', '-')}": "none" if v is None else str(v) for k, v in values.items()}
    assert settings_from(TrainSettings, typed) == TrainSettings(**values)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_round_trips(name: str):
    method = METHODS[name]()
    again, _ = method_and_settings(METHODS[name], dump(method))
    assert dataclasses.asdict(again) == dataclasses.asdict(method)  # pyright: ignore


def test_comparison_spreads_what_is_for_all_and_round_trips():
    compare = CompareSettings(
        methods=("dpo",), stages={"all": {"max_steps": 5, "seed": 1}, "dpo": {"max_steps": 7, "beta": 0.2}}
    )
    assert compare.stages == {
        "sft": {"max_steps": 5, "seed": 1},
        "reward": {"max_steps": 5, "seed": 1},
        "dpo": {"max_steps": 7, "seed": 1, "beta": 0.2},
    }
    assert settings_from(CompareSettings, dump(compare)) == compare


@pytest.mark.parametrize("methods", [(), ("dpo", "dpo")])
def test_comparison_needs_different_methods(methods: tuple[str, ...]):
    with pytest.raises(TastemakerError, match="methods"):
        CompareSettings(methods=methods)
