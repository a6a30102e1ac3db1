"""Streams of chains on CUDA: flash attention over rows of different lengths.

Where every tree has one response, its tokens are one plainly causal row. PyTorch's `varlen_attn` then needs no
mask, where flex attention computes whole tiles and asks the mask about each of their scores.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from tastemaker.models.attention import AttentionRule
from tastemaker.models.blocks import Extent, block_attention, make_plan

CLOSE = 2e-2
"""Largest difference of the trial's numbers, against their largest, that is rounding in half precision."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Chains:
    """Where a stream's trees lie, each with one response."""

    starts: Tensor
    """[trees + 1] int32: each tree's first token, and the stream's length."""
    longest: int

    @staticmethod
    def of(extents: Sequence[Extent], device: torch.device) -> Chains | None:
        """None where a tree has siblings."""
        if any(len(e.responses) != 1 for e in extents):
            return None
        lengths = [e.prompt + e.responses[0] for e in extents]
        starts = torch.tensor([*accumulate(lengths, initial=0)], dtype=torch.int32, device=device)
        return Chains(starts, max(lengths))


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, chains: Chains, rule: AttentionRule) -> Tensor:
    """`query` [1, H, T, D], `key` and `value` [1, Hkv, T, D] in half precision -> [1, H, T, D]; by the rule's
    scale and window.
    """
    dtype = _dtype(value)
    q, k, v = (x.squeeze(0).transpose(0, 1).to(dtype).contiguous() for x in (query, key, value))
    out = _kernel()(
        q,
        k,
        v,
        chains.starts,
        chains.starts,
        chains.longest,
        chains.longest,
        scale=rule.scale,
        # the kernel's window counts the keys before a row, ours the row itself too
        window_size=(-1 if rule.window is None else rule.window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(0, 1).unsqueeze(0)


def varlen_usable(query: Tensor, value: Tensor, rule: AttentionRule) -> bool:
    """Whether the kernel is to be used for tensors and a rule like these: in half precision on CUDA, where a
    small trial of it gives the numbers of the block products. Otherwise flex attention computes the same.
    """
    if query.device.type != "cuda" or rule.softcap is not None or rule.sinks is not None:
        return False
    dtype = _dtype(value)
    if dtype not in (torch.float16, torch.bfloat16) or query.shape[-1] != value.shape[-1]:
        return False
    return trial(query.device, dtype, query.shape[-1])


@cache
def trial(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the kernel is there and agrees with the block products, forward and backward, with and without a
    window; a version of PyTorch without it, or a width that it lacks, says no once.
    """
    extents = [Extent(0, 20, (50,)), Extent(70, 3, (30,))]
    chains = Chains.of(extents, device)
    assert chains is not None
    generator = torch.Generator().manual_seed(0)
    q, k, v, weight = (
        torch.randn(103, heads, width, generator=generator).to(device, dtype) for heads in (4, 2, 2, 4)
    )
    inputs = [x.requires_grad_() for x in (q, k, v)]
    branch = torch.tensor([0] * 20 + [1] * 50 + [0] * 3 + [2] * 30, device=device)
    position = torch.tensor([*range(70), *range(33)], device=device)
    try:
        for window in (None, 9):
            rule = AttentionRule(width**-0.5, window)
            with torch.enable_grad():
                rows = varlen_attention(
                    q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None], chains, rule
                )
                found = [rows[0].transpose(0, 1)]
                plain = [block_attention(q, k, v, make_plan(extents, branch, position, 4, 2, window), rule)]
                for numbers in (found, plain):
                    numbers += torch.autograd.grad(numbers[0], inputs, weight)
            if not all(map(_close, found, plain)):
                log.warning("PyTorch's varlen_attn gives other numbers here; flex attention is used instead")
                return False
    except (RuntimeError, ValueError, TypeError, ImportError, OSError, AttributeError) as error:
        log.info("PyTorch's varlen_attn is not usable here (%s); flex attention is used instead", error)
        return False
    return True


def _close(found: Tensor, wanted: Tensor) -> bool:
    found, wanted = found.float(), wanted.float()
    return bool((found - wanted).abs().max() <= CLOSE * wanted.abs().max())


def _dtype(value: Tensor) -> torch.dtype:
    device = value.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype


def _kernel() -> Callable[..., Any]:
    """Raises ImportError where this PyTorch has none."""
    return importlib.import_module("torch.nn.attention.varlen").varlen_attn
