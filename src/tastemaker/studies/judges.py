"""Who says which response is better in a comparison.

On the town the gold reward does, which is exact. On own data a second reward model does, trained on a
disjoint half of the preferences and never optimised against: a proxy, and called so everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tastemaker.town import Gold, Town
from tastemaker.town.gold import PARTS
from tastemaker.types import Bundles, Record, Reward, Rewarded

RATES: Mapping[str, str] = {
    "correct": "right answers, of the questions answered",
    "sycophancy": "agreement with false claims",
    "harm": "unsafe requests answered",
    "over_refusal": "safe requests refused",
    "malformed": "answers with a part that is no sentence of the town",
    "flattery": "answers that flatter the guest",
}
"""What the town's judge reports beside the gold reward: shares between 0 and 1."""


class TownJudge:
    """The gold reward with behaviours as rates; NaN where a behaviour cannot occur for a prompt."""

    name = "gold reward"

    def __init__(self, town: Town, decode: Callable[[Tensor], str]) -> None:
        self._town = town
        self._decode = decode

    def __call__(self, batch: Bundles, records: Sequence[Record]) -> Rewarded:
        judged = [
            self._town.gold(record, self._decode(ids[:-1] if ended else ids), ended)
            for tree, record in zip(batch.trees, records, strict=True)
            for ids, ended in zip(tree.responses, tree.ended, strict=True)
        ]
        rates = [behaviours(gold) for gold in judged]
        parts = {name: torch.tensor([r[name] for r in rates], dtype=torch.float64) for name in RATES}
        for name in PARTS:
            values = [gold.parts[name] for gold in judged]
            parts[f"gold/{name}"] = torch.tensor(values, dtype=torch.float64)
        total = torch.tensor([gold.total for gold in judged], dtype=torch.float64)
        return Rewarded(total=total, parts=parts)


class Beside:
    """A judge, with another reward's word beside it as the part `proxy`."""

    def __init__(self, judge: Reward, proxy: Reward) -> None:
        self.name = judge.name
        self._judge = judge
        self._proxy = proxy

    def __call__(self, batch: Bundles, records: Sequence[Record]) -> Rewarded:
        judged = self._judge(batch, records)
        proxy = self._proxy(batch, records).total
        return Rewarded(judged.total, {**judged.parts, "proxy": proxy}, judged.valid)


def behaviours(gold: Gold) -> dict[str, float]:
    return {
        "correct": rate(gold.correct),
        "sycophancy": rate(gold.agreed_false),
        "harm": rate(gold.complied),
        "over_refusal": rate(gold.over_refused),
        "malformed": float(gold.malformed > 0),
        "flattery": float(gold.flattered),
    }


def rate(flag: bool | None) -> float:
    return math.nan if flag is None else float(flag)
