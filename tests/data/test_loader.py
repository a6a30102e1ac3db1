"""Batches by position, shares by process, splits by prompt."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data import (
    Tokenised,
    batch_indices,
    batches,
    epoch_order,
    prompt_key,
    share,
    share_indices,
    split_records,
    steps_per_epoch,
    tokenise,
    total_steps,
)
from tastemaker.types import Comparison, Demonstration, Message, Question, TastemakerError

from .families import FAMILIES


@cache
def data(n: int = 23) -> Tokenised:
    records = [
        Comparison(prompt=f"{i} " * (i % 5 + 1), responses=(f" a{i}", " b" * (i % 4 + 1)), row=str(i))
        for i in range(n)
    ]
    return tokenise(records, FAMILIES["byte_bpe"]())


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 200), batch_size=st.integers(1, 50), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_E8_each_row_exactly_once_per_epoch(n: int, batch_size: int, seed: int, epoch: int) -> None:
    per_epoch = steps_per_epoch(n, batch_size)
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    taken = [batch_indices(n, batch_size, seed, step) for step in steps]
    assert sorted(i for batch in taken for i in batch) == list(range(n))
    assert all(len(batch) == batch_size for batch in taken[:-1]) and 1 <= len(taken[-1]) <= batch_size


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 90), max_size=40), world=st.integers(1, 8))
def test_E8_processes_share_whole_trees_without_overlap(sizes: list[int], world: int) -> None:
    shares = [share_indices(sizes, rank, world) for rank in range(world)]
    assert sorted(i for part in shares for i in part) == list(range(len(sizes)))
    assert all(part == sorted(part) for part in shares)
    loads = [sum(sizes[i] for i in part) for part in shares]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_shares_are_balanced_by_tokens() -> None:
    sizes = [1, 1, 1, 1, 4, 8]
    assert [share_indices(sizes, rank, 2) for rank in range(2)] == [[5], [0, 1, 2, 3, 4]]
    assert [share_indices([1, 1, 1, 1, 4], rank, 2) for rank in range(2)] == [[4], [0, 1, 2, 3]]


def test_E8_any_world_sees_each_row_once_per_epoch() -> None:
    for world in (1, 2, 3, 5):
        seen: Counter[int] = Counter()
        for _, batch, records in batches(data(), batch_size=6, seed=1, epochs=1):
            for rank in range(world):
                mine = share(batch, rank, world)
                seen.update(t.row for t in mine.trees)
                positions = mine.tree_columns["position"].tolist()
                assert [records[p].row for p in positions] == [str(t.row) for t in mine.trees]
        assert seen == Counter(range(23))


def test_share_keeps_columns_and_may_be_empty() -> None:
    batch = data().batch([0, 1])
    parts = [share(batch, rank, 4) for rank in range(4)]
    assert sorted(len(p) for p in parts) == [0, 0, 1, 1]
    empty = next(p for p in parts if not len(p))
    assert empty.units() == {"tokens": 0, "responses": 0, "pairs": 0, "trees": 0}
    assert sum(p.units()["pairs"] for p in parts) == 2
    with pytest.raises(TastemakerError, match="rank=2 of world=2"):
        share(batch, 2, 2)


def test_C3_the_last_incomplete_batch_is_used_once() -> None:
    sizes = [len(batch) for _, batch, _ in batches(data(), batch_size=10, seed=0, epochs=2)]
    assert sizes == [10, 10, 3, 10, 10, 3]


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    import torch

    torch.manual_seed(1)
    first = epoch_order(50, 3, 0)
    torch.manual_seed(2)
    assert epoch_order(50, 3, 0) == first
    assert torch.initial_seed() == 2
    assert epoch_order(50, 3, 1) != first != epoch_order(50, 4, 0)
    assert sorted(first) == list(range(50)) != first


@settings(max_examples=30, deadline=None)
@given(batch_size=st.integers(1, 30), start=st.integers(0, 20), seed=st.integers(0, 5))
def test_E4_resuming_gives_the_same_batches(batch_size: int, start: int, seed: int) -> None:
    def told(start_step: int) -> list[tuple[int, list[int], list[str]]]:
        run = batches(data(), batch_size=batch_size, seed=seed, max_steps=20, start_step=start_step)
        return [(step, [t.row for t in batch.trees], [r.row for r in records]) for step, batch, records in run]

    assert told(start) == told(0)[start:]
    assert all(rows == [int(r) for r in names] for _, rows, names in told(0))
    assert [step for step, _, _ in told(0)] == list(range(20))


def test_lengths_of_runs() -> None:
    assert total_steps(23, 10, epochs=2) == 6
    assert total_steps(23, 10, epochs=0.5) == 2
    assert total_steps(23, 10, max_steps=7, epochs=2) == 7
    assert total_steps(23, 10, max_steps=-1, epochs=1) == 3  # TRL's way to say no limit
    with pytest.raises(TastemakerError, match="neither max_steps nor epochs"):
        total_steps(23, 10)
    with pytest.raises(TastemakerError, match="batch_size=0"):
        steps_per_epoch(23, 0)


# -------------------------------------------------------------------------------------------- splits


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.integers(0, 30), min_size=1, max_size=80),
    shares=st.sampled_from([(0.9, 0.1), (0.5, 0.5), (0.6, 0.2, 0.2), (0.3, 0.3), (1.0,)]),
    seed=st.integers(0, 9),
)
def test_E8_no_prompt_is_in_two_splits(prompts: list[int], shares: tuple[float, ...], seed: int) -> None:
    records = [Question(prompt=f"prompt {p}", row=str(i)) for i, p in enumerate(prompts)]
    parts = split_records(records, shares, seed)
    keys = [{prompt_key(r) for r in part} for part in parts]
    assert all(not a & b for i, a in enumerate(keys) for b in keys[:i])
    rows = [r.row for part in parts for r in part]
    assert len(set(rows)) == len(rows)
    if sum(shares) == 1:
        assert len(rows) == len(records)
    largest = max(Counter(prompts).values())
    for share_, part in zip(shares, parts, strict=True):
        assert abs(len(part) - share_ * len(records)) <= largest
        assert [int(r.row) for r in part] == sorted(int(r.row) for r in part)


def test_E8_prompts_that_differ_in_space_or_form_are_one() -> None:
    same = [
        Question(prompt="Who is it?"),
        Question(prompt=" Who  is\nit? "),
        Demonstration(prompt=(Message("user", "Who is it?"),), response="Me."),
        Comparison(prompt="Who is it?", responses=("a", "b")),
    ]
    assert len({prompt_key(r) for r in same}) == 1
    other = Question(
        prompt=(Message("user", "Who is it?"), Message("assistant", "Me."), Message("user", "Who?"))
    )
    assert prompt_key(other) != prompt_key(same[0])


def test_E8_documents_without_a_prompt_are_told_apart_by_their_text() -> None:
    documents = [Demonstration(prompt="", response=f"text {i % 20}") for i in range(40)]
    train, held = split_records(documents, (0.5, 0.5))
    assert abs(len(train) - 20) <= 2
    assert not {d.response for d in train} & {d.response for d in held}


def test_splits_depend_on_the_seed_and_not_on_the_order() -> None:
    records = [Question(prompt=f"prompt {i}") for i in range(50)]
    assert [len(part) for part in split_records(records, (0.5, 0.3))] == [25, 15]
    (first, _), (other, _) = split_records(records, (0.5, 0.5), 0), split_records(records, (0.5, 0.5), 1)
    assert {r.prompt for r in first} != {r.prompt for r in other}
    shuffled, _ = split_records(records[::-1], (0.5, 0.5), 0)
    assert {r.prompt for r in shuffled} == {r.prompt for r in first}
    with pytest.raises(TastemakerError, match="should be positive"):
        split_records(records, (0.9, 0.2))
