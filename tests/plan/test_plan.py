"""What a plan says against published sizes, closed forms, and what runs really keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tastemaker.config import TrainSettings
from tastemaker.errors import TastemakerError
from tastemaker.methods import DPO, PPO, SFT, RewardModel
from tastemaker.models import LoraSettings, build_roles
from tastemaker.models.sizes import model_size, size_of
from tastemaker.models.tiny import tiny_model
from tastemaker.plan import Hardware, Lengths, estimate, hardware_named
from tastemaker.plan.memory import Load, layer_bytes, memory_parts, peak
from tastemaker.types import Bundles, Tree

PUBLISHED = {
    "0.5B": 0.49,
    "1.5B": 1.54,
    "3B": 3.09,
    "7B": 7.62,
    "8B": 8.03,
    "14B": 14.8,
    "32B": 32.8,
    "70B": 70.6,
}
"""Billions of parameters as the model cards of Qwen2.5 and Llama 3.1 have them."""
BOARD = Hardware("board", 80e9, 300e12, 2e12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    assert model_size(name).parameters / 1e9 == pytest.approx(PUBLISHED[name], rel=0.01)


def test_unknown_model_and_device_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(TastemakerError, match=r"no configuration.*0\.5B"):
        model_size(tmp_path / "nothing")
    with pytest.raises(TastemakerError, match="a100-80gb"):
        hardware_named("abacus")


def parts_of(method: object, size: object, **settings: object) -> dict[str, float]:
    parts = memory_parts(
        method,  # pyright: ignore[reportArgumentType]
        TrainSettings(**settings),  # pyright: ignore[reportArgumentType]
        size,  # pyright: ignore[reportArgumentType]
        Load(1000, 500),
        kind="cuda",
        bits=16,
    )
    return {p.name: p.bytes for p in parts}


def test_full_training_holds_sixteen_bytes_for_a_trained_number_and_two_for_a_frozen_one() -> None:
    size = model_size("7B")
    n = size.parameters
    dpo = parts_of(DPO(), size)
    assert dpo["policy, trained"] + dpo["gradients"] + dpo["optimiser"] == 16 * n
    assert dpo["reference, frozen"] == 2 * n
    ppo = parts_of(PPO(), size)
    assert sum(b for name, b in ppo.items() if name.endswith("frozen")) == 2 * 2 * n
    assert ppo["gradients"] == 2 * 4 * n
    assert "reference, frozen" not in parts_of(DPO(), size, precompute_ref_log_probs=True)
    assert parts_of(DPO(), size, optim="adamw_bf16")["optimiser"] == 4 * n


def test_frozen_copies_values_on_the_policy_and_four_bits() -> None:
    size = model_size("7B")
    n = size.parameters
    wide = parts_of(DPO(), size, frozen_dtype="float32")
    assert wide["reference, frozen"] == 4 * n
    shared = parts_of(PPO(value_model="head"), size)
    assert "value, trained" not in shared and shared["gradients"] == 4 * n
    four = parts_of(DPO(), size, use_peft=True, load_in_4bit=True)["base model, shared"]
    linear = sum(rows * columns for rows, columns in size.linear)
    assert four == 0.5625 * linear + 2 * (n - linear)


def test_offloaded_models_are_there_one_at_a_time_while_they_score() -> None:
    size = model_size("7B")
    read = "a frozen model, while it is read"
    for method, others in ((DPO(), 1), (PPO(), 2)):
        kept, away = parts_of(method, size), parts_of(method, size, offload_frozen=True)
        assert sum("frozen" in name for name in kept) == others
        assert [name for name in away if "frozen" in name] == [read]
        assert away[read] == 2 * size.parameters
    parts = [
        memory_parts(PPO(), TrainSettings(offload_frozen=off), size, Load(1000, 500), kind="cuda", bits=16)
        for off in (False, True)
    ]
    saved = peak(parts[0]) - peak(parts[1])
    assert 2 * size.parameters < saved <= 4 * size.parameters
    assert read not in parts_of(PPO(), size, use_peft=True, offload_frozen=True)


def test_adapters_share_one_base() -> None:
    size = model_size("7B")
    ppo = parts_of(PPO(), size, use_peft=True, lora_r=8)
    assert ppo["base model, shared"] == 2 * size.parameters
    assert ppo["gradients"] == 2 * 4 * size.adapter(8)
    assert size.adapter(16) == 2 * size.adapter(8)


@pytest.mark.parametrize("dtype, width", [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_layers_keep_what_the_plan_says(dtype: str, width: int, recompute: bool, lora: bool) -> None:
    """What two more layers add to the bytes that autograd saves, against the formula."""

    def kept(layers: int) -> tuple[float, int, object]:
        config = LlamaConfig(
            hidden_size=128,
            intermediate_size=320,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_hidden_layers=layers,
            vocab_size=300,
            tie_word_embeddings=True,
        )
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        models = build_roles(
            ("policy",),
            ("policy",),
            policy=(model, tiny_model(["a b c"], seed=0)[1]),
            lora=LoraSettings(r=4, alpha=8, dropout=0.0, target_modules="all-linear") if lora else None,
            dtype=dtype,
            device=torch.device("cpu"),
            seed=0,
            token_budget=10**6,
            gradient_checkpointing=recompute,
        )
        ids = torch.randint(300, (2000,), generator=torch.Generator().manual_seed(1))
        batch = Bundles(trees=(Tree(prompt=ids[:1000], responses=(ids[1000:],), ended=(True,)),))
        storages: dict[int, int] = {}

        def save(tensor: torch.Tensor) -> torch.Tensor:
            # weights, and the joined or converted copies made of them, do not grow with the tokens
            if tensor.numel() >= batch.size * 48:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(save, lambda t: t), models.scope("policy"):
            scores = models.forward("policy", batch)
        assert scores.logps is not None
        return float(sum(storages.values())), batch.size, size_of(model)

    few, tokens, size = kept(2)
    many, _, _ = kept(4)
    inputs = (width if lora else 4) * 128 * (1 if recompute else 2)
    expected = inputs + (0 if recompute else layer_bytes(size, width))  # pyright: ignore[reportArgumentType]
    assert (many - few) / 2 / tokens == pytest.approx(expected, rel=0.1)


def test_time_follows_the_arithmetic_and_money_the_time() -> None:
    size = model_size("0.5B")
    settings = TrainSettings(num_train_epochs=1.0, per_device_train_batch_size=10)
    lengths = Lengths(rows=1000, prompt=100, response=50)
    found = estimate(RewardModel(), settings, size, lengths, BOARD, price=2.0, share=0.5)
    assert found.steps == 100
    # six operations for each weight and token, attention small beside it; the head is not run
    tokens = 1000 * 200
    weights = sum(rows * columns for rows, columns in size.linear)
    assert sum(found.flops.values()) == pytest.approx(6 * weights * tokens, rel=0.02)
    seconds = sum(found.seconds.values())
    assert seconds == pytest.approx(sum(found.flops.values()) / (0.5 * BOARD.flops))
    assert found.cost == pytest.approx(2.0 * seconds / 3600)
    double = estimate(RewardModel(), settings, size, lengths, BOARD, devices=2, price=2.0, share=0.5)
    assert sum(double.seconds.values()) == pytest.approx(seconds / 2)
    assert double.cost == pytest.approx(found.cost)


def test_sampling_is_bound_by_reading_the_weights() -> None:
    size = model_size("7B")
    settings = TrainSettings(max_steps=10, per_device_train_batch_size=8, use_peft=True)
    found = estimate(PPO(response_length=128), settings, size, Lengths(rows=1000), BOARD)
    assert found.seconds["rollouts"] == pytest.approx(10 * 128 * 2 * size.parameters / BOARD.bandwidth)


def test_what_does_not_fit_says_what_would() -> None:
    size = model_size("7B")
    found = estimate(DPO(), TrainSettings(), size, Lengths(rows=100), BOARD)
    assert not found.fits
    best = found.remedies[0]
    assert best.startswith("--use-peft") and best.endswith("fits")
    lora = estimate(DPO(), TrainSettings(use_peft=True), size, Lengths(rows=100), BOARD)
    assert lora.fits and not lora.remedies
    large = estimate(DPO(), TrainSettings(use_peft=True), model_size("70B"), Lengths(rows=100), BOARD)
    assert "QLoRA" in large.remedies[-1] and large.remedies[-1].endswith("fits")
    small = estimate(DPO(), TrainSettings(), model_size("70B"), Lengths(rows=100), replace(BOARD, memory=24e9))
    assert "still too much" in small.remedies[-1]


def test_only_the_largest_phase_counts() -> None:
    size = model_size("0.5B")
    parts = memory_parts(PPO(), TrainSettings(), size, Load(1000, 500, 64, 400), kind="cpu", bits=32)
    lasting = sum(p.bytes for p in parts if p.lasting)
    phases = {p.phase for p in parts if not p.lasting}
    largest = max(sum(p.bytes for p in parts if p.phase == phase) for phase in phases)
    assert phases == {"update", "scoring", "rollouts"} and peak(parts) == lasting + largest


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"rows": 5, "prompt": 0.0}, {"rows": 5, "responses": 0}])
def test_lengths_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(TastemakerError, match="at least 1"):
        Lengths(**wrong)  # pyright: ignore[reportArgumentType]


def test_demonstrations_have_one_response() -> None:
    size = model_size("0.5B")
    settings = TrainSettings(max_steps=1, per_device_train_batch_size=1)
    one = estimate(SFT(), settings, size, Lengths(rows=1, responses=2), BOARD).flops["updates"]
    two = estimate(DPO(), settings, size, Lengths(rows=1, responses=2), BOARD).flops["updates"]
    assert 1.3 < two / one < 1.7
