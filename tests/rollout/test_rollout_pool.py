"""Rows that wait take the places of rows that have ended, and no token depends on it."""

from __future__ import annotations

import pytest
import torch

from tastemaker.models.decode import StreamDecoder, cache_bytes_per_token
from tastemaker.rollout import pool
from tastemaker.rollout.local import LocalGenerator
from tastemaker.rollout.pool import Work
from tastemaker.types import Bundles, Sampling

LENGTHS = [4, 7, 2, 9, 5, 1, 3, 12, 6, 8]


def responses(batch: Bundles) -> list[list[int]]:
    return [r.tolist() for tree in batch.trees for r in tree.responses]


@pytest.fixture
def watched(monkeypatch):
    """Rows of each forward, and rows that each call added."""
    steps: list[int] = []
    added: list[int] = []
    step, add = StreamDecoder.step, StreamDecoder.add

    def stepping(self, tokens):
        steps.append(len(tokens))
        return step(self, tokens)

    def adding(self, prompts, owners, room):
        added.append(len(owners))
        return add(self, prompts, owners, room)

    monkeypatch.setattr(StreamDecoder, "step", stepping)
    monkeypatch.setattr(StreamDecoder, "add", adding)
    return steps, added


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2", "GptOss"])
def test_waiting_rows_join_and_nothing_changes(family, n, build, wrap, prompts, teacher_forced, watched):
    steps, added = watched
    model, batch = build(family), prompts(LENGTHS)
    model.generation_config.eos_token_id = [2, 3, 4, 5]
    sampling = Sampling(max_new_tokens=24, n=n, temperature=2.0)
    whole = LocalGenerator(wrap(model)).generate(batch, sampling, seed=4)
    assert added[-1] == 10 * n
    assert len(set(whole.lengths.tolist())) > 3
    generator = LocalGenerator(wrap(model), cache_bytes=3 * (30 + 24 * n) * cache_bytes_per_token(model))
    generator.generate(prompts([3]), Sampling(max_new_tokens=1), seed=0)  # whatever is tried is tried here
    steps.clear(), added.clear()
    held = generator.generate(batch, sampling, seed=4)
    assert len(added) > 2  # rows came in while others were growing
    assert max(steps) < 10 * n
    assert responses(held) == responses(whole)
    torch.testing.assert_close(
        held.token_columns["sampled_logps"], whole.token_columns["sampled_logps"], atol=2e-5, rtol=0
    )
    expected = teacher_forced(model, held, 2.0)
    torch.testing.assert_close(held.token_columns["sampled_logps"], expected, atol=2e-5, rtol=0)


def test_a_straggler_does_not_hold_the_rest(build, wrap, prompts, watched):
    steps, _ = watched
    model = build("Llama")
    model.generation_config.eos_token_id = [2, 3, 4, 5, 6, 7]
    sampling = Sampling(max_new_tokens=40, temperature=3.0)
    budget = 8 * (44 * cache_bytes_per_token(model) + 24 * 31)
    batch = prompts([4] * 40)
    out = LocalGenerator(wrap(model), cache_bytes=budget).generate(batch, sampling, seed=1)
    # without refilling every few rows would take as many steps as the longest among them
    assert len(steps) < 0.7 * sum(max(out.lengths[i : i + 8].tolist()) for i in range(0, 40, 8))


@pytest.mark.parametrize("n", [1, 4])
def test_dropping_rows_changes_nothing(n, build, wrap, prompts, monkeypatch):
    model, batch = build("Mistral"), prompts(LENGTHS)
    model.generation_config.eos_token_id = [2, 3, 4]
    sampling = Sampling(max_new_tokens=20, n=n, temperature=2.0)
    found = []
    for share, rows in ((0.75, 8), (1.0, 1), (0.0, 8)):
        monkeypatch.setattr(pool, "SHRINK_AT", share)
        monkeypatch.setattr(pool, "ROWS_IN_STEP", rows)
        found.append(LocalGenerator(wrap(model)).generate(batch, sampling, seed=7))
    assert responses(found[0]) == responses(found[1]) == responses(found[2])
    for other in found[1:]:
        torch.testing.assert_close(
            found[0].token_columns["sampled_logps"], other.token_columns["sampled_logps"], atol=2e-5, rtol=0
        )


@pytest.mark.parametrize("n", [1, 3])
def test_rows_that_end_with_their_first_token(n, build, wrap, prompts, teacher_forced):
    model, batch = build("Llama"), prompts(LENGTHS)
    model.generation_config.eos_token_id = list(range(31))
    out = LocalGenerator(wrap(model)).generate(batch, Sampling(max_new_tokens=9, n=n), seed=0)
    assert out.lengths.tolist() == [1] * 10 * n
    assert out.ended.all()
    torch.testing.assert_close(
        out.token_columns["sampled_logps"], teacher_forced(model, out), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("budget", [2**31, 20_000])
def test_rooms_of_different_size(n, budget, build, wrap, prompts, teacher_forced):
    model = build("GPT2", max_position_embeddings=14, n_positions=14)
    out = LocalGenerator(wrap(model), cache_bytes=budget).generate(
        prompts([3, 9, 13, 1, 6]), Sampling(max_new_tokens=8, n=n), seed=0
    )
    room = torch.tensor([8, 5, 1, 8, 8]).repeat_interleave(n)
    assert torch.equal(out.lengths[~out.ended], room[~out.ended])
    assert (out.lengths <= room).all()
    torch.testing.assert_close(
        out.token_columns["sampled_logps"], teacher_forced(model, out), atol=2e-5, rtol=0
    )


def work(owners: list[int], prompt: int = 10, row: int = 4) -> Work:
    size = len(owners)
    return Work(
        prompts=[torch.ones(2)] * (owners[-1] + 1),
        owners=owners,
        rows=torch.zeros(size),
        members=torch.zeros(size),
        room=torch.ones(size),
        seed=0,
        prompt_costs=[prompt] * (owners[-1] + 1),
        row_cost=row,
    )


def test_who_is_admitted():
    asked = work([0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert asked.admitted(0, [], 1000) == 9
    assert asked.admitted(0, [], 44) == 6  # two groups of 10 + 3 * 4
    assert asked.admitted(0, [], 43) == 3  # a group that can come in whole later is not cut
    assert asked.admitted(0, [], 19) == 2  # one that never can is
    assert asked.admitted(0, [], 1) == 1  # something must grow
    assert asked.admitted(3, [1, 2], 40) == 6  # 18 are taken
    assert asked.admitted(3, [1, 2], 39) == 3
    assert asked.admitted(2, [0, 1], 19) == 2  # no place yet
