"""The same layout through torch's flex attention: one fused kernel on CUDA, skipping tiles nobody sees.

torch has no backward of it on the CPU, where it serves as an independent oracle for the mask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput, AuxRequest, BlockMask
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention

from tastemaker.models.attention import AttentionRule
from tastemaker.models.blocks import Extent

TILE = 128
"""Rows and keys of a tile of the mask: flex's own default."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FlexMask:
    """A layout's block mask for one window."""

    blocks: BlockMask

    @staticmethod
    def of(extents: Sequence[Extent], branch: Tensor, position: Tensor, window: int | None) -> FlexMask:
        """Marks the tiles some row sees on the host, from the trees' extents and never from a T x T mask; the
        exact rule runs inside the kernel. `branch` and `position` [T] as in `TreeLayout`.
        """
        tokens = len(branch)
        tiles = _tiles(extents, position.to("cpu"), window)
        count = tiles.sum(-1, dtype=torch.int32)
        order = torch.argsort(tiles.int(), dim=-1, descending=True, stable=True).to(torch.int32)
        sizes = torch.tensor([e.prompt + sum(e.responses) for e in extents])
        tree = torch.repeat_interleave(torch.arange(len(extents)), sizes).to(branch.device)

        def sees(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            apart = position[query] - position[key]
            kin = (branch[key] == 0) | (branch[key] == branch[query])
            seen = (tree[query] == tree[key]) & kin & (apart >= 0)
            return seen if window is None else seen & (apart < window)

        blocks = BlockMask.from_kv_blocks(
            count[None, None].to(branch.device),
            order[None, None].to(branch.device),
            BLOCK_SIZE=TILE,
            mask_mod=sees,
            seq_lengths=(tokens, tokens),
        )
        return FlexMask(blocks)


def _tiles(extents: Sequence[Extent], position: Tensor, window: int | None) -> Tensor:
    """[tiles, tiles] bool: which tiles of keys each tile of rows needs."""
    n = -(-len(position) // TILE)
    tiles = torch.zeros(n, n, dtype=torch.bool)
    for e in extents:
        end = e.start + e.prompt
        prompt = slice(e.start // TILE, (end - 1) // TILE + 1)
        tiles[prompt, prompt] = True
        for length in e.responses:
            own = slice(end // TILE, (end + length - 1) // TILE + 1)
            tiles[own, prompt] = True
            tiles[own, own] = True
            end += length
    if window is not None:
        padded = torch.nn.functional.pad(position, (0, n * TILE - len(position)), value=int(position[-1]))
        by_tile = padded.view(n, TILE)
        tiles &= by_tile.amin(1)[:, None] - by_tile.amax(1)[None] < window
    return tiles.tril()


def flex_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: FlexMask, rule: AttentionRule, *, compiled: bool = True
) -> Tensor:
    """`query` [1, H, T, D], `key` [1, Hkv, T, D], `value` [1, Hkv, T, Dv] -> [1, H, T, Dv]."""
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    softcap = rule.softcap

    def bend(score: Tensor, _b: Tensor, _h: Tensor, _q: Tensor, _k: Tensor) -> Tensor:
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    run = _compiled() if compiled else torch_flex_attention
    result = run(
        query,
        key,
        value,
        score_mod=None if softcap is None else bend,
        block_mask=mask.blocks,
        scale=rule.scale,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=None if rule.sinks is None else AuxRequest(lse=True),
    )
    if rule.sinks is None:
        return cast("Tensor", result)
    out, aux = cast("tuple[Tensor, AuxOutput]", result)
    # softmax over scores and a sink = softmax over scores, times the share the sink leaves
    lse = cast("Tensor", aux.lse)
    share = torch.sigmoid(lse - rule.sinks.to(lse.dtype)[None, :, None])
    return out * share[..., None].to(out.dtype)


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(torch_flex_attention)


def flex_usable(query: Tensor, value: Tensor) -> bool:
    """Whether a fused kernel is to be used for tensors like these: on CUDA, where a small trial of it compiles,
    runs forward and backward, and gives finite numbers. Otherwise the block path computes the same.
    """
    if query.device.type != "cuda" or query.dtype == torch.float64:
        return False
    return _trial(query.device, value.dtype, query.shape[-1], value.shape[-1])


@cache
def _trial(device: torch.device, dtype: torch.dtype, width: int, value_width: int) -> bool:
    """Whether flex attention works here; a machine without a compiler, or a width it lacks, says no once."""
    extent = Extent(0, 100, (60,))
    branch = (torch.arange(160, device=device) >= 100).long()
    mask = FlexMask.of([extent], branch, torch.arange(160, device=device), None)
    q, k = (torch.randn(1, 2, 160, width, device=device, dtype=dtype, requires_grad=True) for _ in range(2))
    v = torch.randn(1, 2, 160, value_width, device=device, dtype=dtype, requires_grad=True)
    try:
        with torch.enable_grad():
            out = flex_attention(q, k, v, mask, AttentionRule(width**-0.5))
            grads = torch.autograd.grad(out.float().square().sum(), [q, k, v])
    except (RuntimeError, ValueError, ImportError, OSError) as error:
        # whatever keeps it from compiling (no compiler, no Triton, an unsupported width) comes as one of these
        log.warning("flex attention is not usable here (%s); attention runs as dense blocks instead", error)
        return False
    return all(bool(x.isfinite().all()) for x in (out, *grads))
