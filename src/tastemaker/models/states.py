"""What a reward model knows of a response before its head makes one number of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tastemaker.errors import TastemakerError
from tastemaker.models.forward import Scorer
from tastemaker.models.heads import EnsembleHead, TokenHead
from tastemaker.models.roles import CPU_TOKENS, RoleModels
from tastemaker.types import Bundles


def last_states(models: RoleModels, batch: Bundles) -> Tensor:
    """[R, d]: the reward model's last hidden state at each response's last token, which its head reads.

    Raises TastemakerError for a reward model without a head of ours.
    """
    head = models.slot("reward").head
    if head is None:
        raise TastemakerError("the reward model has no head, so there is nothing that its head reads")
    width = (head.state if isinstance(head, TokenHead) else head).weight.shape[1]
    whole = EnsembleHead(width, width).to(models.device)
    with torch.no_grad():
        whole.weight.copy_(torch.eye(width))
    model, scope = models.generation_model("reward")
    bare = replace(batch, token_columns={}, response_columns={}, tree_columns={})
    budget = min(models.token_budget, CPU_TOKENS) if models.device.type == "cpu" else models.token_budget
    found: list[Tensor] = []
    with torch.no_grad(), scope:
        scorer = Scorer(model)
        for part in bare.cut(budget):
            rewards = scorer(part, "rewards", head=whole).rewards
            assert rewards is not None
            found.append(rewards)
    return torch.cat(found) if found else torch.zeros(0, width)
