"""The halves of a layer against the same formulas written out and differentiated by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tastemaker.functional.joined import Kind
from tastemaker.functional.layers import GatedMLP, Output, Project, rotation

T, D, HEADS, KEY_HEADS, WIDTH, INNER = 11, 12, 4, 2, 6, 20
EPSILON = 1e-5


def draw(*shapes: tuple[int, ...], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]


def gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
    """Of a random weighing of all outputs."""
    weights = draw(*(o.shape for o in outputs), seed=seed)
    total = torch.stack([(o.double() * w).sum() for o, w in zip(outputs, weights, strict=True)]).sum()
    return torch.autograd.grad(total, inputs)


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[T, heads, D] as transformers' Llama turns it."""
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention: what it gives must not depend on the order of a head's coordinates."""
    key, value = (x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / WIDTH**0.5
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value).reshape(T, -1)


def layer(biased: bool, seed: int) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """x, norm, q, k, v, o[, their biases], and rotary tables."""
    shapes = [
        (T, D),
        (D,),
        (HEADS * WIDTH, D),
        (KEY_HEADS * WIDTH, D),
        (KEY_HEADS * WIDTH, D),
        (D, HEADS * WIDTH),
    ]
    if biased:
        shapes += [(HEADS * WIDTH,), (KEY_HEADS * WIDTH,), (KEY_HEADS * WIDTH,), (D,)]
    inputs = [x.requires_grad_() for x in draw(*shapes, seed=seed)]
    angle = torch.outer(torch.arange(T).double(), torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64))
    angle = torch.cat([angle, angle], -1)
    return inputs, (angle.cos(), angle.sin())


def updates(seed: int, *shapes: tuple[int, int] | None) -> list[tuple[Tensor, Tensor] | None]:
    """A [r, in] and B [out, r] of every weight [out, in] that has an update; ranks differ."""
    found: list[tuple[Tensor, Tensor] | None] = []
    for i, shape in enumerate(shapes):
        if shape is not None:
            down, up = draw((2 + i, shape[1]), (shape[0], 2 + i), seed=seed + i)
            found.append((down.requires_grad_(), up.requires_grad_()))
        else:
            found.append(None)
    return found


def added(weight: Tensor, update: tuple[Tensor, Tensor] | None) -> Tensor:
    return weight if update is None else weight + update[1] @ update[0]


def flat(found: Sequence[tuple[Tensor, Tensor] | None]) -> list[Tensor]:
    return [t for pair in found if pair is not None for t in pair]


def flags(found: Sequence[tuple[Tensor, Tensor] | None]) -> tuple[bool, ...]:
    return tuple(pair is not None for pair in found)


WITH = ["", "q", "kv", "qkv"]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("head_norms", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("updated", WITH)
def test_attention_half(biased: bool, head_norms: bool, updated: str, keep: bool) -> None:
    (x, norm, *weights, o), (cos, sin) = layer(False, 1)
    biases = layer(True, 1)[0][6:] if biased else []
    head_weights = [t.requires_grad_() for t in draw((WIDTH,), (WIDTH,), seed=9)] if head_norms else []
    shapes = [(len(w), D) if name in updated else None for name, w in zip("qkv", weights, strict=True)]
    low = updates(20, *shapes)
    low_o = updates(30, (D, HEADS * WIDTH) if updated else None)
    h = normed(x, norm)
    parts = [h @ added(w, u).t() for w, u in zip(weights, low, strict=True)]
    parts = [p + b for p, b in zip(parts, biases[:3], strict=True)] if biased else parts
    query, key, value = (p.view(T, -1, WIDTH) for p in parts)
    if head_norms:
        query, key = normed(query, head_weights[0]), normed(key, head_weights[1])
    wanted = x + attended(rotated(query, cos, sin), rotated(key, cos, sin), value) @ added(o, low_o[0]).t()
    wanted = wanted + biases[3] if biased else wanted
    kind = Kind(torch.float64, EPSILON, HEADS, KEY_HEADS, biased, head_norms, flags(low), keep)
    given = (*weights, *head_weights, *biases[:3], *flat(low))
    heads = attended(*Project.apply(x, norm, rotation(cos, sin), kind, *given))
    kind = Kind(torch.float64, EPSILON, biased=biased, updates=flags(low_o), keep=keep)
    found = Output.apply(x, heads, kind, o, *biases[3:], *flat(low_o))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    inputs = [x, norm, *given, o, *biases[3:], *flat(low_o)]
    for mine, theirs in zip(gradients([found], inputs, 2), gradients([wanted], inputs, 2), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("half", ["attention", "mlp"])
def test_frozen_weights_with_updates(half: str) -> None:
    """The updates' gradients are right where nothing else has any, the input included (the first layer)."""
    if half == "attention":
        (x, norm, *weights, _), (cos, sin) = layer(False, 1)
        low = updates(20, *((len(w), D) for w in weights))
    else:
        x, norm, *weights = mlp(3)
        low = updates(20, *((len(w), w.shape[1]) for w in weights))
    x, norm, *weights = (t.detach() for t in (x, norm, *weights))
    kind = Kind(torch.float64, EPSILON, HEADS, KEY_HEADS, updates=flags(low))
    if half == "attention":
        found = Project.apply(x, norm, rotation(cos, sin), kind, *weights, *flat(low))
        parts = [normed(x, norm) @ added(w, u).t() for w, u in zip(weights, low, strict=True)]
        query, key, value = (p.view(T, -1, WIDTH) for p in parts)
        wanted = [attended(rotated(query, cos, sin), rotated(key, cos, sin), value)]
        found = [attended(*found)]
    else:
        found = [GatedMLP.apply(x, norm, kind, *weights, *flat(low))]
        wanted = [plain_mlp(x, norm, *(added(w, u) for w, u in zip(weights, low, strict=True)))]
    for mine, theirs in zip(gradients(found, flat(low), 5), gradients(wanted, flat(low), 5), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def mlp(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shapes = ((T, D), (D,), (INNER, D), (INNER, D), (D, INNER))
    return [x.to(dtype).requires_grad_() for x in draw(*shapes, seed=seed)]


def plain_mlp(x: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    h = normed(x, norm)
    return x + (F.silu(h @ gate.t()) * (h @ up.t())) @ down.t()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("updated", ["", "g", "ud", "d", "gud"])
def test_gated_mlp(updated: str, keep: bool) -> None:
    x, norm, *weights = mlp(3)
    shapes = [tuple(w.shape) if name in updated else None for name, w in zip("gud", weights, strict=True)]
    low = updates(20, *shapes)
    kind = Kind(torch.float64, EPSILON, updates=flags(low), keep=keep)
    found = GatedMLP.apply(x, norm, kind, *weights, *flat(low))
    wanted = plain_mlp(x, norm, *(added(w, u) for w, u in zip(weights, low, strict=True)))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    inputs = [x, norm, *weights, *flat(low)]
    for mine, theirs in zip(gradients([found], inputs, 4), gradients([wanted], inputs, 4), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_float32_is_exact_to_rounding_and_bfloat16_no_worse_than_autocast() -> None:
    inputs = mlp(5, torch.float32)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    truth = gradients([plain_mlp(*exact)], exact, 6)

    def error(found: Sequence[Tensor]) -> float:
        return max(float((f.double() - t).norm() / t.norm()) for f, t in zip(found, truth, strict=True))

    x, norm, *weights = inputs
    ours = {
        dtype: error(gradients([GatedMLP.apply(x, norm, Kind(dtype, EPSILON), *weights)], inputs, 6))
        for dtype in (torch.float32, torch.bfloat16)
    }
    with torch.autocast("cpu", torch.bfloat16):
        plain = plain_mlp(*inputs)
    assert ours[torch.float32] < 1e-5
    assert ours[torch.bfloat16] < 1.2 * error(gradients([plain], inputs, 6))


def test_frozen_weights_take_no_gradient_but_pass_it_on() -> None:
    x, norm, *weights = mlp(7)
    found = GatedMLP.apply(x, norm.detach(), Kind(torch.float64, EPSILON), *(w.detach() for w in weights))
    wanted = plain_mlp(x, norm.detach(), *(w.detach() for w in weights))
    torch.testing.assert_close(gradients([found], [x], 8)[0], gradients([wanted], [x], 8)[0])
