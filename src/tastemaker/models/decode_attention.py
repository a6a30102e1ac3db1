"""Attention of decoding as plain products: whole prompts, and new tokens over keys that lie in batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tastemaker.models.attention import AttentionRule

SCORES_IN_A_BLOCK = 2**24
"""Attention scores held at once while prompts are read by layers that no fused kernel serves."""


def causal(query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule) -> Tensor:
    """Causal attention of right-padded prompts: [U, H, P, D] -> [U, H, P, Dv]. What stands in the padding is
    never seen from before it.
    """
    prompts, heads, longest, width = query.shape
    groups = key.shape[1]
    window = rule.window if rule.window is not None and rule.window < longest else None
    if window is None and rule.softcap is None and rule.sinks is None:
        return scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=rule.scale, enable_gqa=groups != heads
        )
    query = (query * rule.scale).reshape(prompts, groups, heads // groups, longest, width)
    output = query.new_empty(prompts, groups, heads // groups, longest, value.shape[3])
    block = max(1, SCORES_IN_A_BLOCK // (prompts * heads * longest))
    sinks = None if rule.sinks is None else rule.sinks.view(1, groups, -1, 1, 1)
    for start in range(0, longest, block):
        end = min(start + block, longest)
        low = 0 if window is None else max(0, start + 1 - window)
        scores = torch.einsum("ughqd,ugkd->ughqk", query[:, :, :, start:end], key[:, :, low:end])
        if rule.softcap is not None:
            scores = scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
        apart = torch.arange(start, end, device=key.device)[:, None] - torch.arange(low, end, device=key.device)
        hidden = (apart < 0) if window is None else (apart < 0) | (apart >= window)
        weights = weights_of(scores.masked_fill_(hidden, float("-inf")), sinks, value.dtype)
        output[:, :, :, start:end] = torch.einsum("ughqk,ugkd->ughqd", weights, value[:, :, low:end])
    return output.view(prompts, heads, longest, -1)


def scores_of(query: Tensor, keys: Tensor, hidden: Tensor | None, rule: AttentionRule) -> Tensor:
    """[b, q, k] from [b, q, D] and [b, k, D], with `hidden` [b, 1 or q, k] added."""
    turned = keys.transpose(1, 2)
    if hidden is not None and hidden.shape[1] not in (1, query.shape[1]):
        hidden = hidden.repeat_interleave(query.shape[1] // hidden.shape[1], dim=1)  # members -> their heads
    if rule.softcap is None and hidden is not None:
        return torch.baddbmm(hidden, query, turned, alpha=rule.scale)
    scores = torch.bmm(query * rule.scale, turned)
    if rule.softcap is not None:
        scores = scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
    return scores if hidden is None else scores.add_(hidden)


def sinks_of(rule: AttentionRule, groups: int, rows: int) -> Tensor | None:
    """[rows * groups, heads of a group, 1]: the score that each head's sink takes part with."""
    return None if rule.sinks is None else rule.sinks.view(groups, -1, 1).repeat(rows, 1, 1)


def weights_of(scores: Tensor, sinks: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Softmax over the last axis, in float32 or wider; `sinks`, one a row, take part and carry nothing."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    if sinks is None:
        weights = torch.softmax(scores, dim=-1, dtype=wide)
    else:
        beside = sinks.to(wide).expand(*scores.shape[:-1], 1)
        weights = torch.softmax(torch.cat([scores.to(wide), beside], dim=-1), dim=-1)[..., :-1]
    return weights if weights.dtype == dtype else weights.to(dtype)


def minus_infinity(where: Tensor, dtype: torch.dtype) -> Tensor:
    """-inf there, zeros elsewhere."""
    return torch.zeros(where.shape, dtype=dtype, device=where.device).masked_fill_(where, float("-inf"))
