"""Right and wrong steps: the loss of a process reward model, and a response's number out of its steps'."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Aggregation = Literal["min", "product", "last"]


def step_loss(score: Tensor, right: Tensor) -> Tensor:
    """Cross-entropy of each step's label under P(right) = sigmoid(score).

    Lightman et al. 2023 (arXiv:2305.20050), Uesato et al. 2022 (arXiv:2211.14275): a step is classified at
    its last token. Shapes: [S], [S] bool -> [S]. ln 2 where the score is 0.
    """
    return -logsigmoid(torch.where(right, score, -score))


def aggregate_steps(score: Tensor, response: Tensor, number: int, how: Aggregation = "min") -> Tensor:
    """[number]: a response's reward out of P(right) = sigmoid(score) of its steps.

    `min` the worst step's (Wang et al. 2024, arXiv:2312.08935), `product` that all are right if they were
    independent (Lightman et al. 2023), `last` the last step's. `score` [S] in order, `response` [S] int64
    ascending, which response a step belongs to. NaN for a response without steps.
    """
    log_right = logsigmoid(score)
    out = torch.full((number,), torch.nan, dtype=score.dtype, device=score.device)
    if how == "min":
        found = out.scatter_reduce(0, response, log_right, "amin", include_self=False)
    elif how == "product":
        found = out.scatter_reduce(0, response, log_right, "sum", include_self=False)
    elif how == "last":
        after = torch.cat([response[1:], response.new_full((1,), -1)])[: len(response)]
        closing = response != after
        found = out.index_put((response[closing],), log_right[closing])
    else:
        raise ValueError(f"unknown aggregation {how!r}: min, product or last")
    return found.exp()
