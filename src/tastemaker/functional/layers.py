"""The two halves of a pre-norm transformer layer as single autograd steps.

What a layer does between its matrix products (norm, rotation, gate, residual) costs a CPU as much as the
products when every operation makes a new tensor. Here projections that read the same input are one product,
low precision is entered once, and the backward is written by hand: it keeps the residual stream and what the
products need, and makes the rest again.

Dtypes: products run in `Kind.dtype`, everything between them in float32 or wider, the residual stream in the
dtype it came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tastemaker.functional.products import times, times_transposed, transposed_times


class Kind(NamedTuple):
    """How a half is computed."""

    dtype: torch.dtype
    """Of the matrix products."""
    epsilon: float
    """Of the norm."""
    heads: int = 0
    key_heads: int = 0


def widened(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def rotation(cos: Tensor, sin: Tensor) -> Tensor:
    """[T, 1, D/2] complex: e^(i angle) of tables [T, D] whose halves are equal (the usual rotary layout)."""
    half = cos.shape[-1] // 2
    wide = widened(cos.dtype)
    return torch.complex(cos[:, :half].to(wide), sin[:, :half].to(wide))[:, None]


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(x / sqrt(mean x^2 + epsilon) * weight in `dtype` [T, d], 1 / sqrt(..) [T, 1])."""
    wide = x.to(widened(x.dtype))
    scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = scale.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (wide * scale).mul_(weight).to(dtype), scale


def rms_norm_backward(
    grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, *, weight_wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """(gradient of x [T, d] in the wide dtype, of the weight [d] | None) from that of the normed rows."""
    wide = scale.dtype
    unit = x.to(wide) * scale
    g = grad.to(wide)
    for_weight = (g * unit).sum(0).to(weight.dtype) if weight_wanted else None
    g = g * weight
    along = torch.linalg.vecdot(g, unit)[:, None].div_(x.shape[-1])
    g.addcmul_(unit, along, value=-1)
    return g.mul_(scale), for_weight


def _pairs_together(weight: Tensor, heads: int) -> Tensor:
    """[heads * D, ...] with each head's two halves interleaved, so that the pairs a rotation turns lie side by
    side. Queries and keys take the same order, so their products do not change.
    """
    return weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2)


def _pairs_apart(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `_pairs_together`."""
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).transpose(1, 2)


class Project(torch.autograd.Function):
    """Norm, query, key and value projections, rotation.

    `apply(x [T, d], norm [d], angles [T, 1, D/2] complex, kind, weights (q, k, v), biases (q, k, v) or ())`
    -> query [T, H, D], key [T, Hkv, D], value [T, Hkv, D] in `kind.dtype`. The D of queries and keys are
    in another order than the model's own (see `_pairs_together`): fit for their products alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, angles: Tensor, kind: Kind, *weights: Tensor) -> Any:
        turned = kind.heads + kind.key_heads
        matrix = _packed(weights[:3], kind).to(kind.dtype)
        normed, scale = rms_norm(x, norm, kind.epsilon, kind.dtype)
        out = times_transposed(normed, matrix)
        if len(weights) > 3:
            out += _packed(weights[3:], kind).to(kind.dtype)
        width = out.shape[1] // (turned + kind.key_heads)
        wide = out[:, : turned * width].to(widened(kind.dtype)).view(len(x), turned, -1, 2)
        torch.view_as_complex(wide).mul_(angles)
        heads = wide.view(len(x), turned, width)
        query = heads[:, : kind.heads].to(kind.dtype)
        key = heads[:, kind.heads :].to(kind.dtype)
        value = out[:, turned * width :].reshape(len(x), kind.key_heads, width)
        ctx.save_for_backward(x, norm, scale, angles, matrix)
        ctx.kind, ctx.biases = kind, len(weights) > 3
        ctx.weight_dtype = next(iter(weights)).dtype
        return query.contiguous(), key.contiguous(), value.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        kind: Kind = ctx.kind
        with torch.autocast(grads[0].device.type, enabled=False):
            x, norm, scale, angles, matrix = ctx.saved_tensors
            turned, width = kind.heads + kind.key_heads, grads[0].shape[2]
            wide = torch.cat([g.to(widened(kind.dtype)) for g in grads[:2]], 1)
            torch.view_as_complex(wide.view(len(x), turned, -1, 2)).mul_(angles.conj())
            out = torch.empty(len(x), matrix.shape[0], dtype=kind.dtype, device=x.device)
            out[:, : turned * width] = wide.view(len(x), -1)
            out[:, turned * width :] = grads[2].reshape(len(x), -1)
            needs = ctx.needs_input_grad
            for_weights: tuple[Tensor | None, ...] = (None,) * (len(needs) - 4)
            if any(needs[4:]):
                normed = rms_norm(x, norm, kind.epsilon, kind.dtype)[0]
                for_weights = _unpacked(transposed_times(out, normed), kind, ctx.weight_dtype)
                if ctx.biases:
                    sums = out.sum(0, dtype=widened(kind.dtype))
                    for_weights += _unpacked(sums, kind, ctx.weight_dtype)
            for_x, for_norm = rms_norm_backward(times(out, matrix), x, scale, norm, weight_wanted=needs[1])
            return for_x.to(x.dtype), for_norm, None, None, *for_weights


def _packed(parts: Sequence[Tensor], kind: Kind) -> Tensor:
    """Query, key and value matrices (or biases) as one, queries and keys in the rotation's order."""
    query, key, value = parts
    turned = _pairs_together(query, kind.heads), _pairs_together(key, kind.key_heads)
    return torch.cat([*(t.reshape(p.shape) for t, p in zip(turned, parts, strict=False)), value])


def _unpacked(whole: Tensor, kind: Kind, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The gradients of query, key and value matrices from that of `_packed`."""
    width = whole.shape[0] // (kind.heads + 2 * kind.key_heads)
    query, key, value = whole.split([width * n for n in (kind.heads, kind.key_heads, kind.key_heads)])
    found = [_pairs_apart(query, kind.heads), _pairs_apart(key, kind.key_heads)]
    shaped = [m.to(dtype).reshape(part.shape) for m, part in zip(found, (query, key), strict=True)]
    return shaped[0], shaped[1], value.to(dtype)


class Output(torch.autograd.Function):
    """`apply(x [T, d], heads [T, H * D], weight [d, H * D], bias [d] | None)` -> x + heads weight^T + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        matrix = weight.to(heads.dtype)
        ctx.save_for_backward(heads, matrix)
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        out = times_transposed(heads, matrix).to(x.dtype).add_(x)
        return out if bias is None else out.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.autocast(grads[0].device.type, enabled=False):
            heads, matrix = ctx.saved_tensors
            grad = grads[0].to(heads.dtype)
            needs = ctx.needs_input_grad
            for_weight = transposed_times(grad, heads).to(ctx.dtypes[0]) if needs[2] else None
            for_bias = grads[0].sum(0).to(ctx.dtypes[1]) if needs[3] else None
            return grads[0], times(grad, matrix), for_weight, for_bias


class GatedMLP(torch.autograd.Function):
    """`apply(x [T, d], norm [d], kind, gate [f, d], up [f, d], down [d, f])`
    -> x + down (silu(gate n) * up n) with n the normed x (Shazeer 2020, arXiv:2002.05202: SwiGLU).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Tensor, kind: Kind, gate: Tensor, up: Tensor, down: Tensor
    ) -> Tensor:
        both = torch.cat([gate, up]).to(kind.dtype)
        narrow = down.to(kind.dtype)
        normed, scale = rms_norm(x, norm, kind.epsilon, kind.dtype)
        inner = times_transposed(normed, both)
        gates, ups = inner.chunk(2, 1)
        active = torch.nn.functional.silu(gates)
        out = times_transposed(active * ups, narrow).to(x.dtype)
        ctx.save_for_backward(x, norm, scale, both, narrow, inner, active)
        ctx.kind, ctx.weight_dtype = kind, gate.dtype
        return out.add_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        kind: Kind = ctx.kind
        with torch.autocast(grads[0].device.type, enabled=False):
            x, norm, scale, both, narrow, inner, active = ctx.saved_tensors
            gates, ups = inner.chunk(2, 1)
            grad = grads[0].to(kind.dtype)
            needs = ctx.needs_input_grad
            hidden = times(grad, narrow)
            for_down = transposed_times(grad, active * ups).to(ctx.weight_dtype) if needs[5] else None
            for_inner = torch.empty_like(inner)
            half = gates.shape[1]
            torch.mul(hidden, active, out=for_inner[:, half:])
            for_inner[:, :half] = torch.ops.aten.silu_backward(hidden.mul_(ups), gates)
            for_gate = for_up = None
            if needs[3] or needs[4]:
                normed = rms_norm(x, norm, kind.epsilon, kind.dtype)[0]
                for_gate, for_up = transposed_times(for_inner, normed).to(ctx.weight_dtype).chunk(2)
            for_x, for_norm = rms_norm_backward(times(for_inner, both), x, scale, norm, weight_wanted=needs[1])
            return for_x.add_(grads[0]).to(x.dtype), for_norm, None, for_gate, for_up, for_down
