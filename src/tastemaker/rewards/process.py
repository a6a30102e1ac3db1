"""A process reward model as a reward: its steps' probabilities, made one number a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tastemaker.functional import aggregate_steps
from tastemaker.rewards.results import Decode, rewarded
from tastemaker.types import Bundles, Models, Record, Rewarded, Role, TastemakerError

AGGREGATIONS = ("min", "product", "last")


class ProcessReward:
    """`types.Reward` from a process reward model that reads the policy's own tokens.

    A step ends with the token that completes `separator` in the response's text, the last one with the
    response (its end token aside). Total: P(right) of the worst step (`min`), of all steps together (`product`)
    or of the last (`last`). Parts: all three, and `steps`, how many there were.
    """

    def __init__(
        self,
        models: Models,
        decode: Decode,
        *,
        aggregation: Literal["min", "product", "last"] = "min",
        separator: str = "\n",
        role: Role = "reward",
        name: str = "process_reward",
    ):
        """`models` hold a role trained by `process_reward`; `decode` turns token ids into text.

        Raises:
            TastemakerError: an aggregation that there is none of, or an empty separator.
        """
        if aggregation not in AGGREGATIONS:
            raise TastemakerError(f"aggregation {aggregation!r}: should be one of {', '.join(AGGREGATIONS)}")
        if not separator:
            raise TastemakerError(
                "separator is empty; steps must be told apart by some text, such as a newline"
            )
        self.name = name
        self.aggregation = aggregation
        self._models = models
        self._decode = decode
        self._separator = separator
        self._role: Role = role

    def __call__(self, batch: Bundles, records: Sequence[Record]) -> Rewarded:
        """Scores [R].

        Raises:
            TastemakerError: a model that gives no score per step, or a score that is not finite.
        """
        scores = self._models.score(self._role, batch).values
        if scores is None and len(batch) == 0:
            return Rewarded(total=torch.zeros(0, device=batch.device))
        if scores is None:
            raise TastemakerError(
                f"{self.name}: the model of role {self._role!r} scores whole responses; train one that scores "
                "steps with `tastemaker process_reward`"
            )
        ends = step_ends(batch, self._decode, self._separator)
        response, number = batch.response[ends], len(batch.lengths)
        parts = {how: aggregate_steps(scores[ends], response, number, how) for how in AGGREGATIONS}
        total = rewarded(parts[self.aggregation], batch, self.name).total
        steps = torch.bincount(response, minlength=number).to(total.dtype)
        return Rewarded(total=total, parts={**parts, "steps": steps})


def step_ends(batch: Bundles, decode: Decode, separator: str) -> Tensor:
    """[N] bool: tokens that close a step; every response has one at least."""
    marks: list[bool] = []
    for tree in batch.trees:
        over = tree.ended or (False,) * len(tree.responses)
        for ids, ended in zip(tree.responses, over, strict=True):
            body = max(1, len(ids) - int(ended))
            own = _closes([decode(ids[i : i + 1]) for i in range(body)], separator)
            marks += [*own, *[False] * (len(ids) - body)]
    return torch.tensor(marks, dtype=torch.bool, device=batch.device)


def _closes(pieces: list[str], separator: str) -> list[bool]:
    """Which pieces complete the separator after some text, and the last that holds any."""
    marks = [False] * len(pieces)
    text = ""
    for i, piece in enumerate(pieces):
        text += piece
        if separator in text and text.split(separator, 1)[0].strip():
            marks[i], text = True, ""
        elif not text.strip():
            text = ""  # separators in a row close nothing
    if text.strip() or not any(marks):
        marks[-1] = True
    return marks
