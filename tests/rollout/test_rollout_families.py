"""What a generator says about its tokens is what scoring the same tokens says, in every kind of family."""

from __future__ import annotations

import pytest
import torch

from tastemaker.models import decode, decode_attention, decode_ways
from tastemaker.rollout.local import LocalGenerator
from tastemaker.types import Sampling, TastemakerError

STREAM = ["Llama", "Mistral", "Gemma2", "GPT2", "GptOss", "GPTNeoX", "Cohere", "DiffLlama", "DeepseekV3"]
ROWS = ["Falcon", "Mamba", "Bloom", "Rwkv", "RecurrentGemma", "Qwen2Moe", "MiniMax", "GPT2"]
LENGTHS = [3, 9, 1, 6]


@pytest.mark.parametrize("family", STREAM)
def test_sampled_logps_equal_teacher_forcing(family, build, wrap, prompts, teacher_forced):
    model = build(family)
    out = LocalGenerator(wrap(model)).generate(prompts(LENGTHS), Sampling(max_new_tokens=14, n=3), seed=1)
    assert out.group_sizes == (3, 3, 3, 3)
    assert len(set(out.lengths.tolist())) > 1  # rows were dropped on the way
    torch.testing.assert_close(
        out.token_columns["sampled_logps"], teacher_forced(model, out), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("family", ROWS)
def test_models_with_their_own_attention_or_state(family, build, wrap, prompts, teacher_forced):
    model = build(family, own_attention=True)
    out = LocalGenerator(wrap(model)).generate(prompts(LENGTHS), Sampling(max_new_tokens=14, n=2), seed=1)
    assert len(set(out.lengths.tolist())) > 1
    torch.testing.assert_close(
        out.token_columns["sampled_logps"], teacher_forced(model, out), atol=1e-4, rtol=0
    )


def test_float64_to_rounding(build, wrap, prompts, teacher_forced):
    # GPT-2 has no float32 island inside a float64 model, so nothing hides behind rounding
    model = build("GPT2", dtype=torch.float64)
    out = LocalGenerator(wrap(model)).generate(prompts(LENGTHS), Sampling(max_new_tokens=40, n=3), seed=2)
    found = out.token_columns["sampled_logps"]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, teacher_forced(model, out), atol=1e-9, rtol=0)


def test_bfloat16_log_probabilities_are_made_in_float32(build, wrap, prompts, teacher_forced):
    model = build("Llama", dtype=torch.bfloat16)
    out = LocalGenerator(wrap(model)).generate(prompts([4, 6]), Sampling(max_new_tokens=8, n=2), seed=2)
    found = out.token_columns["sampled_logps"]
    assert found.dtype == torch.float32
    assert (found - teacher_forced(model, out)).abs().mean() < 0.2


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2"])
@pytest.mark.parametrize("own_attention", [False, True])
def test_greedy_is_generate_greedy(family, own_attention, build, wrap, prompts, teacher_forced):
    model = build(family, own_attention=own_attention)
    batch = prompts(LENGTHS)
    out = LocalGenerator(wrap(model)).generate(batch, Sampling(max_new_tokens=12, temperature=0.0), seed=0)
    torch.testing.assert_close(
        out.token_columns["sampled_logps"], teacher_forced(model, out), atol=1e-4, rtol=0
    )
    model.set_attn_implementation("eager")
    for tree in out.trees:
        ids = tree.prompt[None]
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        assert theirs[0, ids.shape[1] :].tolist() == tree.responses[0].tolist()


@pytest.mark.parametrize("family", ["Mistral", "Gemma2", "GptOss"])
def test_prompts_read_in_blocks_and_segments(family, build, wrap, prompts, monkeypatch):
    batch, sampling = prompts([3, 21, 5, 17, 9]), Sampling(max_new_tokens=4, n=2)
    generator = LocalGenerator(wrap(build(family)))
    whole = generator.generate(batch, sampling, seed=3)
    monkeypatch.setattr(decode, "PREFILL_TOKENS", 20)
    monkeypatch.setattr(decode_attention, "SCORES_IN_A_BLOCK", 300)
    cut = generator.generate(batch, sampling, seed=3)
    torch.testing.assert_close(cut.token_columns["sampled_logps"], whole.token_columns["sampled_logps"])


def test_which_caches_are_trusted(build):
    with torch.no_grad():
        sound = {family: decode_ways.cache_is_sound(build(family, own_attention=True)) for family in ROWS}
    assert all(sound[family] for family in ("Falcon", "Mamba", "Bloom", "Qwen2Moe", "GPT2"))
    assert not sound["Rwkv"]  # none that can drop rows
    assert not sound["MiniMax"]  # raises when rows are dropped


def test_a_cache_that_forgets_is_not_used(build, wrap, prompts, teacher_forced):
    model = build("Llama", own_attention=True)
    assert decode_ways.cache_is_sound(model)
    forward = model.forward

    def forgetful(*args, past_key_values=None, **options):
        out = forward(*args, past_key_values=past_key_values, **options)
        if out.past_key_values is not None and past_key_values is not None:
            out.past_key_values.layers[0].keys.mul_(0.5)
        return out

    model.forward = forgetful
    assert not decode_ways.cache_is_sound(model)
    out = LocalGenerator(wrap(model)).generate(prompts(LENGTHS), Sampling(max_new_tokens=6, n=2), seed=1)
    model.forward = forward
    torch.testing.assert_close(
        out.token_columns["sampled_logps"], teacher_forced(model, out), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("own_attention", [False, True])
def test_rows_are_cut_where_positions_end(own_attention, build, wrap, prompts, teacher_forced):
    model = build("GPT2", own_attention=own_attention, max_position_embeddings=12, n_positions=12)
    out = LocalGenerator(wrap(model)).generate(prompts([3, 9, 11, 1]), Sampling(max_new_tokens=7, n=3), seed=0)
    room = torch.tensor([7, 3, 1, 7]).repeat_interleave(3)
    assert torch.equal(out.lengths[~out.ended], room[~out.ended])
    assert (out.lengths <= room).all()
    torch.testing.assert_close(
        out.token_columns["sampled_logps"], teacher_forced(model, out), atol=1e-4, rtol=0
    )
    alone = LocalGenerator(wrap(model)).generate(prompts([3]), Sampling(max_new_tokens=7, n=3), seed=0)
    assert [r.tolist() for r in alone.trees[0].responses] == [r.tolist() for r in out.trees[0].responses]
    with pytest.raises(
        TastemakerError, match=r"row 1: a prompt of 12 tokens leaves no room.*good for 12 tokens"
    ):
        LocalGenerator(wrap(model)).generate(prompts([3, 12]), Sampling(), seed=0)


def test_position_limits(build):
    model = build("Llama", own_attention=True)
    assert decode.position_limit(model) == 64
    model.config.rope_parameters = {"rope_type": "longrope", "original_max_position_embeddings": 16}
    assert decode.position_limit(model) == 16  # rotary factors change for the whole batch beyond it
    assert decode.position_limit(build("Mamba", own_attention=True)) in (None, 64)
