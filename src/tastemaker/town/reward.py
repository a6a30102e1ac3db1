"""The gold reward as a reward function over token batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tastemaker.town.gold import PARTS
from tastemaker.town.world import Town
from tastemaker.types import Bundles, Record, Rewarded, TastemakerError


class GoldReward:
    """Scores responses by the town's gold reward (a `types.Reward`).

    `decode` turns the ids of one response [L] int64 into words separated by blanks, special tokens
    kept as words (so that a stray mark inside an answer counts as malformed).
    """

    name = "gold"

    def __init__(self, town: Town, decode: Callable[[Tensor], str]) -> None:
        self._town = town
        self._decode = decode

    def __call__(self, batch: Bundles, records: Sequence[Record]) -> Rewarded:
        """`records[b]` is the Question of tree b, as `Town.prompts` made it."""
        if len(records) != len(batch.trees):
            raise TastemakerError(f"{len(records)} records were given for {len(batch.trees)} prompts.")
        totals: list[float] = []
        parts: dict[str, list[float]] = {name: [] for name in PARTS}
        for tree, record in zip(batch.trees, records, strict=True):
            for ids, ended in zip(tree.responses, tree.ended, strict=True):
                gold = self._town.gold(record, self._decode(ids[:-1] if ended else ids), ended)
                totals.append(gold.total)
                for name, value in gold.parts.items():
                    parts[name].append(value)
        return Rewarded(
            total=torch.tensor(totals, device=batch.device),
            parts={name: torch.tensor(values, device=batch.device) for name, values in parts.items()},
        )


def gold_reward(town: Town, decode: Callable[[Tensor], str]) -> GoldReward:
    """The gold reward of `town` over decoded responses; see `GoldReward`."""
    return GoldReward(town, decode)
