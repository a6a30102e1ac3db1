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
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tastemaker.functional.joined import Given, Joined, Kind, widened
from tastemaker.functional.products import transposed_times


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


def _alike(found: Sequence[Tensor], given: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients in the dtypes of what they are gradients of."""
    return tuple(f.to(g.dtype) for f, g in zip(found, given, strict=True))


class Project(torch.autograd.Function):
    """Norm, query, key and value projections, their norms, rotation.

    `apply(x [T, d], norm [d], angles [T, 1, D/2] complex, kind, *tensors)`, the tensors as `Given` has them
    (weights and biases: q, k, v; head norms [D]: q, k)
    -> query [T, H, D], key [T, Hkv, D], value [T, Hkv, D] in `kind.dtype`. The D of queries and keys are
    in another order than the model's own (see `_pairs_together`): fit for their products alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, angles: Tensor, kind: Kind, *tensors: Tensor) -> Any:
        turned = kind.heads + kind.key_heads
        given = Given.of(tensors, kind, 3)
        joined = _joined_heads(given, kind)
        normed, scale = rms_norm(x, norm, kind.epsilon, kind.dtype)
        low = joined.low(normed)
        out = joined(normed, low)
        if given.biases:
            out += torch.cat(_turned(given.biases, kind)).to(kind.dtype)
        width = out.shape[1] // (turned + kind.key_heads)
        rows = out[:, : turned * width]
        before: Tensor | None = None
        scales: Sequence[Tensor | None] = (None, None)
        if given.head_norms:
            before = rows.contiguous()
            wide, *scales = _norm_heads(before.view(len(x), turned, width), given.head_norms, kind)
        else:
            wide = rows.to(widened(kind.dtype))
        torch.view_as_complex(wide.view(len(x), turned, -1, 2)).mul_(angles)
        heads = wide.view(len(x), turned, width)
        query = heads[:, : kind.heads].to(kind.dtype)
        key = heads[:, kind.heads :].to(kind.dtype)
        value = out[:, turned * width :].reshape(len(x), kind.key_heads, width)
        kept = joined.matrix if kind.keep else None
        ctx.save_for_backward(x, norm, scale, angles, low, before, *scales, kept, *tensors)
        ctx.kind = kind
        return query.contiguous(), key.contiguous(), value.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        kind: Kind = ctx.kind
        with torch.autocast(grads[0].device.type, enabled=False):
            saved = ctx.saved_tensors  # read once: checkpointed ones are made for one reading
            x, norm, scale, angles, low, before, *scales, kept = saved[:9]
            given = Given.of(saved[9:], kind, 3)
            turned, width = kind.heads + kind.key_heads, grads[0].shape[2]
            needs = Given.of(ctx.needs_input_grad[4:], kind, 3)
            wide = torch.empty(len(x), turned, width, dtype=widened(kind.dtype), device=x.device)
            wide[:, : kind.heads], wide[:, kind.heads :] = grads[:2]
            torch.view_as_complex(wide.view(len(x), turned, -1, 2)).mul_(angles.conj())
            for_norms: Sequence[Tensor | None] = ()
            if before is not None:
                before = before.view(len(x), turned, width)
                wide, *for_norms = _norm_heads_backward(
                    wide, before, scales, (given.head_norms, needs.head_norms), kind
                )
            joined = _joined_heads(given, kind, kept)
            out = torch.empty(len(x), joined.rows[-1].stop, dtype=kind.dtype, device=x.device)
            out[:, : turned * width] = wide.view(len(x), -1)
            out[:, turned * width :] = grads[2].reshape(len(x), -1)
            found: list[Tensor | None] = [None] * (3 + len(given.biases) + len(given.lows))
            for_normed = None
            if any(ctx.needs_input_grad[:2]):
                for_normed, for_low = joined.back(out)
            else:
                for_low = joined.back_low(out)
            if any(needs.weights) or any(needs.lows):
                normed = rms_norm(x, norm, kind.epsilon, kind.dtype)[0]
                if any(needs.weights):
                    found[:3] = _alike(_unturned(transposed_times(out, normed), kind), given.weights)
                if for_low is not None and any(needs.lows):
                    lows = joined.for_updates(out, for_low, normed, low)
                    found[-len(lows) :] = _alike(_ups_unturned(lows, kind), given.lows)
            if any(needs.biases):
                sums = out.sum(0, dtype=widened(kind.dtype))
                found[3:6] = _alike(_unturned(sums, kind), given.biases)
            for_x = for_norm = None
            if for_normed is not None:
                for_x, for_norm = rms_norm_backward(
                    for_normed, x, scale, norm, weight_wanted=ctx.needs_input_grad[1]
                )
                for_x = for_x.to(x.dtype)
            return for_x, for_norm, None, None, *found[:3], *for_norms, *found[3:]


def _joined_heads(given: Given[Tensor], kind: Kind, matrix: Tensor | None = None) -> Joined:
    """Query, key and value layers as one, queries and keys in the rotation's order."""
    updates = given.updates(kind, slice(0, 3))
    ups = [None if u is None else (u[0], _order(u[1], i, kind)) for i, u in enumerate(updates)]
    weights = _turned(given.weights, kind) if matrix is None else given.weights
    return Joined(weights, ups, kind.dtype, matrix)


def _order(part: Tensor, place: int, kind: Kind) -> Tensor:
    """A query's (place 0), key's (1) or value's (2) tensor with its rows in the order of the products."""
    if place == 2:
        return part
    return _pairs_together(part, (kind.heads, kind.key_heads)[place]).reshape(part.shape)


def _turned(parts: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """Query, key and value matrices (or biases) in the order of the products."""
    return [_order(part, i, kind) for i, part in enumerate(parts)]


def _unturned(whole: Tensor, kind: Kind) -> list[Tensor]:
    """The gradients of query, key and value matrices (or biases) from that of all in the products' order."""
    width = whole.shape[0] // (kind.heads + 2 * kind.key_heads)
    query, key, value = whole.split([width * n for n in (kind.heads, kind.key_heads, kind.key_heads)])
    query = _pairs_apart(query, kind.heads).reshape(query.shape)
    return [query, _pairs_apart(key, kind.key_heads).reshape(key.shape), value]


def _ups_unturned(lows: Sequence[Tensor], kind: Kind) -> list[Tensor]:
    """A, B, A, B ... with the rows of queries' and keys' B in the model's order again."""
    places = [i for i, flag in enumerate(kind.updates[:3]) if flag]
    heads = (kind.heads, kind.key_heads)
    found = list(lows)
    for n, place in enumerate(places):
        if place < 2:
            found[2 * n + 1] = _pairs_apart(found[2 * n + 1], heads[place]).reshape(found[2 * n + 1].shape)
    return found


def _norm_heads(heads: Tensor, norms: Sequence[Tensor], kind: Kind) -> tuple[Tensor, Tensor, Tensor]:
    """(heads [T, H + Hkv, D] normed, each with its weight, scales of queries [T * H, 1], of keys)"""
    wide = widened(kind.dtype)
    made: list[Tensor] = []
    scales: list[Tensor] = []
    for part, norm in zip(heads.split([kind.heads, kind.key_heads], 1), norms, strict=True):
        weight = _pairs_together(norm, 1).reshape(-1)
        normed, scale = rms_norm(part.reshape(-1, part.shape[2]), weight, kind.epsilon, wide)
        made.append(normed.view(part.shape))
        scales.append(scale)
    return torch.cat(made, 1), scales[0], scales[1]


def _norm_heads_backward(
    grad: Tensor,
    heads: Tensor,
    scales: Sequence[Tensor],
    given: tuple[Sequence[Tensor], Sequence[bool]],
    kind: Kind,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(gradient of the heads before their norms, of the queries' norm, of the keys')

    `given`: the two norms' weights, and whether each needs a gradient.
    """
    made: list[Tensor] = []
    for_norms: list[Tensor | None] = []
    sizes = [kind.heads, kind.key_heads]
    parts = zip(grad.split(sizes, 1), heads.split(sizes, 1), scales, *given, strict=True)
    for g, part, scale, norm, wanted in parts:
        weight = _pairs_together(norm, 1).reshape(-1)
        rows = part.reshape(-1, part.shape[2])
        flat = g.reshape(rows.shape)
        found, for_weight = rms_norm_backward(flat, rows, scale, weight, weight_wanted=wanted)
        made.append(found.view(part.shape))
        for_norms.append(None if for_weight is None else _pairs_apart(for_weight, 1).reshape(-1))
    return torch.cat(made, 1), for_norms[0], for_norms[1]


class Output(torch.autograd.Function):
    """`apply(x [T, d], heads [T, H * D], kind, *tensors)`, the tensors as `Given` has them (weight [d, H * D])
    -> x + heads weight^T + bias.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: Tensor, kind: Kind, *tensors: Tensor) -> Tensor:
        given = Given.of(tensors, kind, 1)
        joined = Joined(given.weights, given.updates(kind, slice(0, 1)), heads.dtype)
        low = joined.low(heads)
        out = joined(heads, low).to(x.dtype).add_(x)
        ctx.save_for_backward(heads, low, joined.matrix if kind.keep else None, *tensors)
        ctx.kind = kind
        return out.add_(given.biases[0]) if given.biases else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        kind: Kind = ctx.kind
        with torch.autocast(grads[0].device.type, enabled=False):
            heads, low, kept, *tensors = ctx.saved_tensors
            given = Given.of(tensors, kind, 1)
            needs = Given.of(ctx.needs_input_grad[3:], kind, 1)
            joined = Joined(given.weights, given.updates(kind, slice(0, 1)), heads.dtype, kept)
            grad = grads[0].to(heads.dtype)
            for_heads, for_low = joined.back(grad)
            found: list[Tensor | None] = [None] * len(tensors)
            if needs.weights[0]:
                found[:1] = _alike([transposed_times(grad, heads)], given.weights)
            if any(needs.biases):
                found[1:2] = _alike([grads[0].sum(0)], given.biases)
            if for_low is not None and any(needs.lows):
                found[-2:] = _alike(joined.for_updates(grad, for_low, heads, low), given.lows)
            return grads[0], for_heads, None, *found


class GatedMLP(torch.autograd.Function):
    """`apply(x [T, d], norm [d], kind, *tensors)`, the tensors as `Given` has them (gate [f, d], up [f, d],
    down [d, f])
    -> x + down (silu(gate n) * up n) with n the normed x (Shazeer 2020, arXiv:2002.05202: SwiGLU).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Tensor, kind: Kind, *tensors: Tensor) -> Tensor:
        both, narrow = _joined_gates(Given.of(tensors, kind, 3), kind)
        normed, scale = rms_norm(x, norm, kind.epsilon, kind.dtype)
        low = both.low(normed)
        inner = both(normed, low)
        gates, ups = inner.chunk(2, 1)
        hidden = torch.nn.functional.silu(gates).mul_(ups)
        narrow_low = narrow.low(hidden)
        out = narrow(hidden, narrow_low).to(x.dtype)
        kept = (both.matrix, narrow.matrix) if kind.keep else (None, None)
        ctx.save_for_backward(x, norm, scale, inner, low, narrow_low, *kept, *tensors)
        ctx.kind = kind
        return out.add_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        kind: Kind = ctx.kind
        with torch.autocast(grads[0].device.type, enabled=False):
            x, norm, scale, inner, low, narrow_low, *rest = ctx.saved_tensors
            kept, given = rest[:2], Given.of(rest[2:], kind, 3)
            needs = Given.of(ctx.needs_input_grad[3:], kind, 3)
            both, narrow = _joined_gates(given, kind, kept)
            gates, ups = inner.chunk(2, 1)
            active = torch.nn.functional.silu(gates)  # cheaper to make again than to keep
            grad = grads[0].to(kind.dtype)
            hidden, for_narrow_low = narrow.back(grad)
            found: list[Tensor | None] = [None] * 3
            lows: list[Tensor] = []
            updated = any(needs.lows)
            after = active * ups if needs.weights[2] or updated else None
            if after is not None and needs.weights[2]:
                found[2:] = _alike([transposed_times(grad, after)], given.weights[2:])
            if after is not None and updated and for_narrow_low is not None:
                lows = narrow.for_updates(grad, for_narrow_low, after, narrow_low)
            for_inner = torch.empty_like(inner)
            half = gates.shape[1]
            torch.mul(hidden, active, out=for_inner[:, half:])
            for_inner[:, :half] = torch.ops.aten.silu_backward(hidden.mul_(ups), gates)
            for_normed, for_low = both.back(for_inner)
            if any(needs.weights[:2]) or updated:
                normed = rms_norm(x, norm, kind.epsilon, kind.dtype)[0]
                if any(needs.weights[:2]):
                    found[:2] = _alike(transposed_times(for_inner, normed).chunk(2), given.weights[:2])
                if for_low is not None and updated:
                    lows = both.for_updates(for_inner, for_low, normed, low) + lows
            for_x, for_norm = rms_norm_backward(
                for_normed, x, scale, norm, weight_wanted=ctx.needs_input_grad[1]
            )
            ended: tuple[Tensor | None, ...] = _alike(lows, given.lows) if lows else (None,) * len(given.lows)
            return for_x.add_(grads[0]).to(x.dtype), for_norm, None, *found, *ended


def _joined_gates(
    given: Given[Tensor], kind: Kind, kept: Sequence[Tensor | None] = (None, None)
) -> tuple[Joined, Joined]:
    """Gate and up as one, and down."""
    gate_up = Joined(given.weights[:2], given.updates(kind, slice(0, 2)), kind.dtype, kept[0])
    return gate_up, Joined(given.weights[2:], given.updates(kind, slice(2, 3)), kind.dtype, kept[1])
