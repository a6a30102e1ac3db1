"""Float32 matrix products on a CPU, through oneDNN where it can be reached.

PyTorch gives float32 products to the BLAS it was built with, half-precision ones to oneDNN. On a machine that
is not Intel's that BLAS keeps to narrow vectors, and oneDNN is about twice as fast (2.3 times on Zen 5, 1.7
times for a weight's gradient, whose operands lie across). What reaches it is one of PyTorch's private
operations, so it is tried against the plain product before it is used; where it is absent or disagrees,
everything goes the plain way. Wider and narrower dtypes and other devices always do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

# oneDNN keeps a primitive with its scratch memory for every shape it has met, 1,024 of them by default, and
# token streams have many shapes: on the town this came to hundreds of MB. It reads the limit at its first use.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

CLOSE = 1e-5
"""Largest difference of the trial's products (of 48 standard normal pairs), against their largest number."""


def times_transposed(x: Tensor, weight: Tensor) -> Tensor:
    """`x` [n, k] times the transpose of `weight` [m, k] -> [n, m], as `x @ weight.t()`."""
    return _onednn()(x, weight) if quick(x, weight) else x @ weight.t()


def times(x: Tensor, weight: Tensor) -> Tensor:
    """`x` [n, m] times `weight` [m, k] -> [n, k], as `x @ weight`."""
    return _onednn()(x, weight.t()) if quick(x, weight) else x @ weight


def transposed_times(grad: Tensor, x: Tensor) -> Tensor:
    """The transpose of `grad` [n, m] times `x` [n, k] -> [m, k], as `grad.t() @ x`: a weight's gradient."""
    if not quick(grad, x):
        return grad.t() @ x
    if grad.shape[1] >= x.shape[1]:  # oneDNN copies its first operand where that lies across: the narrower one
        return _onednn()(x.t(), grad.t()).t().contiguous()
    return _onednn()(grad.t(), x.t())


def quick(x: Tensor, other: Tensor) -> bool:
    """Whether products of tensors like these avoid the BLAS."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or other.dtype != torch.float32 or not x.numel():
        return False
    return _trusted()


@cache
def _trusted() -> bool:
    """Whether oneDNN's product is there and gives the numbers of the plain one."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 48, generator=generator) for n in (33, 20))
    across = [t.t().contiguous().t() for t in (x, weight)]
    pairs = [(a[:, :k], b[:, :k]) for a in (x, across[0]) for b in (weight, across[1]) for k in (48, 40)]
    try:
        with torch.no_grad():
            return all(_close(_onednn()(a, b), a @ b.t()) for a, b in pairs)
    except (RuntimeError, TypeError, AttributeError):
        return False


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= CLOSE * wanted.abs().max())


def _onednn() -> Callable[[Tensor, Tensor], Tensor]:
    """x, other -> x other^T"""
    one: Any = torch.ops.mkldnn._linear_pointwise.default

    def product(x: Tensor, other: Tensor) -> Tensor:
        # for a part of a wider matrix oneDNN has but a way that is a thousand times slower
        if not (other.is_contiguous() or other.t().is_contiguous()):
            other = other.contiguous()
        return one(x, other, None, "none", [], "")

    return product
