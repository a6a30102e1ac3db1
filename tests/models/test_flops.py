"""The counted arithmetic against torch's own counter, which sees every product that is really made."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from tastemaker.models.flops import Counted, Spent, count, pairs
from tastemaker.types import Bundles, Tree


def llama(tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=53,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="eager")


def chain(length: int) -> Bundles:
    """One prompt token and a response: a plain row."""
    return Bundles((Tree(torch.tensor([1]), (torch.arange(length - 1) + 2,)),))


def measured(model: torch.nn.Module, length: int, *, backward: bool) -> int:
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=torch.arange(length)[None] + 1).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


def whole_square(counted: Counted, length: int, passes: int) -> float:
    """Plain rows compute all length^2 pairs and every head position; the count has only what is needed."""
    unneeded = counted.pair * (length**2 - length * (length + 1) // 2)
    return 2 * passes * (unneeded + counted.head)


@pytest.mark.parametrize("tied", [False, True])
def test_full_training_agrees_with_torchs_counter(tied: bool):
    model, length = llama(tied), 24
    counted, batch = count(model, None), chain(length)
    forward = counted.forward(batch, predicts=True)
    assert forward + whole_square(counted, length, 1) == measured(model, length, backward=False)
    both = forward + counted.backward(batch, predicts=True)
    assert both + whole_square(counted, length, 3) == measured(model, length, backward=True)


def test_lora_trains_only_its_own_matrices():
    model = get_peft_model(llama(), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]), "policy")
    model.add_adapter("other", LoraConfig(r=16, target_modules=["v_proj"]))
    on, off = count(model, "policy"), count(model, None)
    adapters = 3 * (4 * (32 + 32) + 4 * (48 + 32))
    assert on.weights - off.weights == adapters
    assert on.trained == adapters
    assert off.trained == 0
    assert on.head_trained == 0
    length = 24
    assert on.forward(chain(length), predicts=True) + whole_square(on, length, 1) == measured(
        model, length, backward=False
    )


def test_experts_count_as_often_as_they_are_chosen():
    config = MixtralConfig(
        vocab_size=53,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    model = MixtralForCausalLM._from_config(config)
    attention, router, expert = 4 * 32 * 32, 32 * 4, 3 * 32 * 48
    assert count(model, None).weights == 2 * (attention + router + 2 * expert)


def test_a_shared_prompt_is_counted_once():
    tree = Tree(torch.arange(5), (torch.arange(3), torch.arange(2)))
    batch = Bundles((tree,))
    assert pairs(batch, shared=True) == 15 + (3 * 5 + 6) + (2 * 5 + 3)
    assert pairs(batch, shared=False) == 2 * 15 + (3 * 5 + 6) + (2 * 5 + 3)
    counted = Counted(weights=1.0, trained=0.0, pair=0.0, head=0.0, head_trained=0.0)
    assert counted.forward(batch, predicts=False) == 2 * 10
    assert counted.forward(batch, predicts=False, shared=False) == 2 * 15


def test_what_is_taken_starts_anew():
    spent = Spent()
    spent.add("scoring", 3.0, 2)
    spent.add("scoring", 1.0, 1)
    taken = spent.take()
    assert (taken.flops["scoring"], taken.tokens["scoring"]) == (4.0, 3)
    assert spent.flops["scoring"] == 0
