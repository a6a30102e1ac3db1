"""Trees to streams and rows, token by token."""

from __future__ import annotations

import pytest
import torch

from tastemaker.models.layout import restoring, rows, stream
from tastemaker.types import Bundles, TastemakerError, Tree

CPU = torch.device("cpu")


def t(*ids: int) -> torch.Tensor:
    return torch.tensor(ids)


BATCH = Bundles((Tree(t(10, 11, 12), (t(20, 21), t(30))), Tree(t(13), (t(40, 41, 42),))))


def test_B3_shift_is_right() -> None:
    laid = stream(BATCH, CPU)
    assert laid.ids.tolist() == [[10, 11, 12, 20, 21, 30, 13, 40, 41, 42]]
    assert laid.positions.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2, 3]]
    # the states that predict 20, 21 | 30 | 40, 41, 42 lie on 12, 20 | 12 | 13, 40, 41
    assert laid.source.tolist() == [2, 3, 2, 6, 7, 8]
    assert laid.at.tolist() == [3, 4, 5, 7, 8, 9]
    assert laid.targets.tolist() == [20, 21, 30, 40, 41, 42]
    assert laid.response.tolist() == [0, 0, 1, 2, 2, 2]
    assert laid.last.tolist() == [4, 5, 9]
    assert laid.tree is not None
    assert laid.tree.branch.tolist() == [0, 0, 0, 1, 1, 2, 0, 3, 3, 3]


def test_rows_are_right_padded_and_index_the_same_tokens() -> None:
    laid = rows(BATCH, CPU)
    assert laid.ids.tolist() == [[10, 11, 12, 20, 21], [10, 11, 12, 30, 30], [13, 40, 41, 42, 42]]
    assert laid.positions.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert laid.tree is None
    flat = laid.ids.reshape(-1)
    assert flat[laid.at].tolist() == laid.targets.tolist() == [20, 21, 30, 40, 41, 42]
    assert flat[laid.source].tolist() == [12, 20, 12, 13, 40, 41]
    assert flat[laid.last].tolist() == [21, 30, 42]
    assert laid.last.tolist() == [4, 8, 13]
    assert laid.response.tolist() == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("lay", [stream, rows])
def test_chosen_responses_alone_are_laid_out(lay: type[stream]) -> None:
    laid = lay(BATCH, CPU, [1, 2])
    flat = laid.ids.reshape(-1)
    assert flat[laid.at].tolist() == [30, 40, 41, 42]
    assert flat[laid.source].tolist() == [12, 13, 40, 41]
    only_second_tree = lay(BATCH, CPU, [2])
    assert only_second_tree.ids.tolist() == [[13, 40, 41, 42]]


def test_groups_are_put_back_in_order() -> None:
    groups = [[1], [0, 2]]
    tokens, responses = restoring(groups, [2, 1, 3])
    parts = torch.cat([lay.targets for lay in (stream(BATCH, CPU, g) for g in groups)])
    assert parts[tokens].tolist() == [20, 21, 30, 40, 41, 42]
    assert torch.tensor([1, 0, 2])[responses].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (Tree(t(), (t(1),), row=7), r"data row 7.*empty prompt.*BOS"),
        (Tree(t(1), (), row=8), r"data row 8.*no responses"),
        (Tree(t(1), (t(2), t()), row=9), r"data row 9.*empty response"),
    ],
)
@pytest.mark.parametrize("lay", [stream, rows])
def test_trees_without_context_or_response_are_refused(lay: type[stream], tree: Tree, message: str) -> None:
    with pytest.raises(TastemakerError, match=message):
        lay(Bundles((BATCH.trees[0], tree)), CPU)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(TastemakerError, match="no trees"):
        stream(Bundles(()), CPU)


def test_windows_as_long_as_the_longest_row_are_no_windows() -> None:
    laid = stream(BATCH, CPU)
    assert laid.tree is not None
    assert laid.tree.reach == 5
    x = torch.randn(1, 2, 10, 4)
    for window in (None, 5, 4096):
        laid.tree.attend(torch.nn.Identity(), x, x, x, sliding_window=window)
    assert len(laid.tree._plans) == 1
