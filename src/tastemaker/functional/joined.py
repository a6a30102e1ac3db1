"""Linear layers that read one input, and their low-rank updates, as one product.

A weight W may have a low-rank update B A (LoRA: Hu et al. 2021, arXiv:2106.09685), its scale in B. It is not
added to the weight, where half precision would lose it: with [x, A x] for the input and [W, B] for the weight
both are one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from tastemaker.functional.products import times, times_transposed, transposed_times

T = TypeVar("T")
S = TypeVar("S")


def widened(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class Kind(NamedTuple):
    """How a half is computed."""

    dtype: torch.dtype
    """Of the matrix products."""
    epsilon: float
    """Of the norm."""
    heads: int = 0
    key_heads: int = 0
    biased: bool = False
    """Whether there are biases: of queries, keys and values, or of the output."""
    head_norms: bool = False
    """Whether queries and keys are normed head by head before they are turned (with `epsilon`, too)."""
    updates: tuple[bool, ...] = ()
    """Which of the half's weights, in the order they are passed, have a low-rank update; none: ()."""
    keep: bool = True
    """Whether the weights' copies that the products read are kept for the backward or made again there."""


class Given(NamedTuple, Generic[T]):
    """The tensors of a half, sorted: what `apply` is given behind its `kind`, in this order."""

    weights: tuple[T, ...]
    head_norms: tuple[T, ...]
    biases: tuple[T, ...]
    lows: tuple[T, ...]
    """A [r, in], B [out, r], A, B, ... of the weights that have an update."""

    @staticmethod
    def of(tensors: Sequence[S], kind: Kind, weights: int) -> Given[S]:
        ends = [weights, 2 * kind.head_norms, weights * kind.biased, 2 * sum(kind.updates)]
        stops = list(accumulate(ends))
        cut = (tuple(tensors[stop - n : stop]) for n, stop in zip(ends, stops, strict=True))
        return Given(*cut)

    def updates(self, kind: Kind, which: slice) -> list[tuple[T, T] | None]:
        """(A, B) of the weights `which`, None where there is no update."""
        pairs = iter(zip(self.lows[::2], self.lows[1::2], strict=True))
        flags = kind.updates or (False,) * len(self.weights)
        return [next(pairs) if flag else None for flag in flags][which]


class Joined:
    """Linear layers that read one input, and their updates, as one product."""

    def __init__(
        self,
        weights: Sequence[Tensor],
        updates: Sequence[tuple[Tensor, Tensor] | None],
        dtype: torch.dtype,
        matrix: Tensor | None = None,
    ) -> None:
        """`matrix`: what an equal one had made before."""
        self.inner = weights[0].shape[1]
        self.rows = _spans([len(w) for w in weights])
        self.columns = _spans([0 if u is None else len(u[0]) for u in updates])
        self.down: Tensor | None = None
        """All A [R, in]"""
        found = [u for u in updates if u is not None]
        if found:
            self.down = torch.cat([down for down, _ in found]).to(dtype)
        self.matrix = self._made(weights, updates, dtype) if matrix is None else matrix
        """[out, in + R]: the weights, and behind each the B of its own update."""

    def _made(
        self, weights: Sequence[Tensor], updates: Sequence[tuple[Tensor, Tensor] | None], dtype: torch.dtype
    ) -> Tensor:
        if len(weights) == 1 and self.down is None:
            return weights[0].to(dtype)
        width = self.inner + self.columns[-1].stop
        make = torch.empty if self.down is None else torch.zeros
        matrix = make(self.rows[-1].stop, width, dtype=dtype, device=weights[0].device)
        for weight, update, rows, columns in zip(weights, updates, self.rows, self.columns, strict=True):
            matrix[rows, : self.inner] = weight
            if update is not None:
                matrix[rows, self.inner + columns.start : self.inner + columns.stop] = update[1]
        return matrix

    def low(self, x: Tensor) -> Tensor | None:
        """A x [T, R]"""
        return None if self.down is None else times_transposed(x, self.down)

    def __call__(self, x: Tensor, low: Tensor | None) -> Tensor:
        """[T, out] of the input x [T, in] and `low(x)`."""
        return times_transposed(x if low is None else torch.cat([x, low], 1), self.matrix)

    def back(self, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradients of x and of A x from that of the outputs."""
        both = times(grad, self.matrix)
        if self.down is None:
            return both, None
        for_low = both[:, self.inner :].contiguous()
        return times(for_low, self.down).add_(both[:, : self.inner]), for_low

    def back_low(self, grad: Tensor) -> Tensor | None:
        """The gradient of A x alone."""
        return None if self.down is None else times(grad, self.matrix[:, self.inner :])

    def for_updates(self, grad: Tensor, for_low: Tensor, x: Tensor, low: Tensor) -> list[Tensor]:
        """The gradients of every A and B, in the order of `Given.lows`."""
        downs = transposed_times(for_low, x)
        found: list[Tensor] = []
        for rows, columns in zip(self.rows, self.columns, strict=True):
            if columns.stop > columns.start:
                found += [downs[columns], transposed_times(grad[:, rows], low[:, columns])]
        return found


def _spans(sizes: Sequence[int]) -> list[slice]:
    return [slice(stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True)]
