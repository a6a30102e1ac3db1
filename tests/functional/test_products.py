"""Products by whichever way against the same products in float64."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tastemaker.functional import products

CLOSE = 1e-5


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def far(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.fixture
def fresh() -> Iterator[None]:
    """The trial is made anew, and again afterwards."""
    products._trusted.cache_clear()  # pyright: ignore[reportPrivateUsage]
    yield
    products._trusted.cache_clear()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "wide", "narrow"), [(70, 33, 20), (64, 20, 33), (1, 5, 7), (3, 1, 1)])
@pytest.mark.parametrize("part", [False, True], ids=["whole", "columns"])
def test_all_three_products(dtype: torch.dtype, rows: int, wide: int, narrow: int, part: bool) -> None:
    more = 3 if part else 0
    x = draw(rows, narrow + more, seed=1, dtype=dtype)[:, :narrow]
    grad = draw(rows, wide + more, seed=2, dtype=dtype)[:, :wide]
    weight = draw(wide, narrow + more, seed=3, dtype=dtype)[:, :narrow]
    assert far(products.times_transposed(x, weight), x.double() @ weight.double().t()) < CLOSE
    assert far(products.times(grad, weight), grad.double() @ weight.double()) < CLOSE
    assert far(products.transposed_times(grad, x), grad.double().t() @ x.double()) < CLOSE


def test_without_rows_there_is_nothing_to_add() -> None:
    none, weight = torch.zeros(0, 4), torch.ones(3, 4)
    assert products.times_transposed(none, weight).shape == (0, 3)
    assert products.times(torch.zeros(0, 3), weight).shape == (0, 4)
    assert torch.equal(products.transposed_times(torch.zeros(0, 3), none), torch.zeros(3, 4))


def test_only_float32_on_a_cpu_leaves_the_plain_way() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        assert not products.quick(torch.ones(2, 2, dtype=dtype), torch.ones(2, 2, dtype=dtype))
    assert not products.quick(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.float64))
    assert not products.quick(torch.ones(2, 2, device="meta"), torch.ones(2, 2, device="meta"))


@pytest.mark.usefixtures("fresh")
def test_an_operation_that_is_absent_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    x, weight = draw(6, 4, seed=1), draw(5, 4, seed=2)
    assert not products.quick(x, weight)
    assert torch.equal(products.times_transposed(x, weight), x @ weight.t())
    assert torch.equal(products.times(draw(6, 5, seed=3), weight), draw(6, 5, seed=3) @ weight)
    assert torch.equal(products.transposed_times(x, draw(6, 5, seed=3)), x.t() @ draw(6, 5, seed=3))


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("off", ["numbers", "views", "signature"])
def test_an_operation_that_disagrees_is_not_used(monkeypatch: pytest.MonkeyPatch, off: str) -> None:
    def wrong(x: Tensor, weight: Tensor, *_rest: object) -> Tensor:
        if off == "signature":
            raise TypeError("another number of arguments")
        if off == "numbers":
            return (x @ weight.t()) * 1.001
        return (
            x @ torch.as_strided(weight, weight.shape, (weight.shape[1], 1)).t()
        )  # takes every view for whole

    operation = SimpleNamespace(_linear_pointwise=SimpleNamespace(default=wrong))
    monkeypatch.setattr(torch.ops, "mkldnn", operation)
    x, weight = draw(6, 4, seed=1), draw(5, 4, seed=2)
    assert not products.quick(x, weight)
    assert torch.equal(products.times_transposed(x, weight), x @ weight.t())
