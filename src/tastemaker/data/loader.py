"""Batches as a pure function of the seed and the position, shares of a batch, and splits by prompt."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch

from tastemaker.data.bundles import Tokenised
from tastemaker.data.dialogue import plain, turns
from tastemaker.types import Bundles, Demonstration, Record, TastemakerError


def epoch_order(n: int, seed: int, epoch: int) -> list[int]:
    """A permutation of range(n) that depends on (n, seed, epoch) and on nothing else."""
    digest = hashlib.sha256(f"epoch order {seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randperm(n, generator=generator).tolist()


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Batches in one epoch, an incomplete last one included."""
    if batch_size < 1 or n < 1:
        raise TastemakerError(f"batch_size={batch_size} over {n} rows: both should be at least 1.")
    return -(-n // batch_size)


def total_steps(n: int, batch_size: int, *, max_steps: int | None = None, epochs: float | None = None) -> int:
    """Steps of a run: `max_steps` where it is given (and above 0), else as many as `epochs` take."""
    if max_steps is not None and max_steps > 0:
        return max_steps
    if epochs is None or epochs <= 0:
        raise TastemakerError("neither max_steps nor epochs says how long to train: give one above 0.")
    return math.ceil(epochs * steps_per_epoch(n, batch_size))


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Rows of batch `step` (from 0). Every epoch takes each row once; its last batch may be smaller."""
    per_epoch = steps_per_epoch(n, batch_size)
    epoch, place = divmod(step, per_epoch)
    return epoch_order(n, seed, epoch)[place * batch_size : (place + 1) * batch_size]


def batches(
    tokenised: Tokenised,
    *,
    batch_size: int,
    seed: int,
    max_steps: int | None = None,
    epochs: float | None = None,
    start_step: int = 0,
) -> Iterator[tuple[int, Bundles, tuple[Record, ...]]]:
    """(step, batch, its records) from `start_step` to the end.

    A batch depends on (seed, step) and the data alone, so a run resumed at `start_step` sees what the
    uninterrupted one saw. `batch_size` counts trees over all processes; `share` takes one process's part.
    The tree column `position` is a tree's place in the batch.
    """
    n = len(tokenised)
    last = total_steps(n, batch_size, max_steps=max_steps, epochs=epochs)
    per_epoch = steps_per_epoch(n, batch_size)
    order: list[int] = []
    for step in range(start_step, last):
        epoch, place = divmod(step, per_epoch)
        if place == 0 or not order:
            order = epoch_order(n, seed, epoch)
        indices = order[place * batch_size : (place + 1) * batch_size]
        batch = tokenised.batch(indices).with_trees(position=torch.arange(len(indices)))
        yield step, batch, tuple(tokenised.records[i] for i in indices)


# ----------------------------------------------------------------------------------------- processes


def share_indices(sizes: Sequence[int], rank: int, world: int) -> list[int]:
    """Which of the trees with `sizes` tokens process `rank` of `world` takes, in their order.

    Longest first, each to the process with the fewest tokens so far: deterministic, every tree exactly
    once, and at most one tree's tokens between any two processes. May be empty.
    """
    if not 0 <= rank < world:
        raise TastemakerError(f"rank={rank} of world={world}: should be at least 0 and below world.")
    loads = [0] * world
    mine: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owner = loads.index(min(loads))
        loads[owner] += sizes[i]
        if owner == rank:
            mine.append(i)
    return sorted(mine)


def share(bundles: Bundles, rank: int, world: int) -> Bundles:
    """Process `rank`'s whole trees of a batch, with their columns."""
    if world == 1:
        return bundles
    return bundles.take(share_indices([tree.size for tree in bundles.trees], rank, world))


# -------------------------------------------------------------------------------------------- splits


def prompt_key(record: Record) -> str:
    """SHA-256 of the prompt, white space aside; of the text itself where there is no prompt.

    A plain prompt and a conversation of that one user turn are the same prompt.
    """
    text = plain(turns(record.prompt, "user")) if record.prompt else ""
    if not text.strip() and isinstance(record, Demonstration):
        text = plain(record.response)
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def split_records(
    records: Sequence[Record], shares: Sequence[float], seed: int = 0
) -> tuple[tuple[Record, ...], ...]:
    """Disjoint parts of `records` in which no prompt appears twice, as near to `shares` as whole prompts allow.

    Prompts are put in an order that depends on their text and the seed alone, and that order is cut; records
    keep their own order within a part. `shares` are positive and sum to 1 or less (the rest is left out).
    """
    if not shares or any(s <= 0 for s in shares) or sum(shares) > 1 + 1e-9:
        raise TastemakerError(f"shares={list(shares)}: should be positive and sum to at most 1.")
    keys = [prompt_key(record) for record in records]
    count: dict[str, int] = {}
    for key in keys:
        count[key] = count.get(key, 0) + 1
    ordered = sorted(count, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    bounds = [sum(shares[: i + 1]) * len(records) for i in range(len(shares))]
    part: dict[str, int] = {}
    seen = 0
    for key in ordered:
        # A prompt belongs where its middle falls.
        middle = seen + count[key] / 2
        part[key] = next((i for i, bound in enumerate(bounds) if middle <= bound + 1e-9), len(shares))
        seen += count[key]
    return tuple(
        tuple(r for r, key in zip(records, keys, strict=True) if part[key] == i) for i in range(len(shares))
    )
