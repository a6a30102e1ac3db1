"""The reference's log-probabilities: asked once, and again only where something they depend on has changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tastemaker.training import precompute
from tastemaker.training.distributed import World

LENGTHS = (2, 1, 3, 1, 2)


class Data:
    """Trees of one response each, numbered."""

    def __init__(self, sha256: str = "tokens"):
        self.sha256 = sha256
        self.trees = [SimpleNamespace(response_tokens=n) for n in LENGTHS]

    def batch(self, rows: range) -> Any:
        found = SimpleNamespace(rows=list(rows))
        found.to = lambda _: found
        return found


class Models:
    """Row i's tokens have log-probability -i; notes which rows it was asked about."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, weights: str = "weights"):
        self.weights = weights
        self.asked: list[int] = []

    def weights_hash(self, role: str) -> str:
        return self.weights

    def score(self, role: str, batch: Any) -> Any:
        self.asked += batch.rows
        logps = torch.cat([torch.full((LENGTHS[i],), -float(i)) for i in batch.rows])
        return SimpleNamespace(logps=logps)


class Meeting:
    """Worlds of several threads that wait for each other as processes do."""

    def __init__(self, size: int):
        self.items: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=20)

    def world(self, rank: int) -> World:
        met = self

        class Here(World):
            def gather(self, item: Any) -> list[Any]:
                met.items[self.rank] = item
                met.barrier.wait()
                found = list(met.items)
                met.barrier.wait()
                return found

        return Here(rank, len(self.items))


def ask(models: Models, folder: Path, data: Data | None = None, world: World | None = None) -> list[Tensor]:
    known = cast(Any, models), cast(Any, data or Data()), folder, world or World()
    return precompute.reference_logps(*known)


def together(folders: list[Path]) -> list[tuple[list[int], list[Tensor]]]:
    """What each of two processes asked about, and what it was given."""
    meeting, found = Meeting(len(folders)), dict[int, tuple[list[int], list[Tensor]]]()

    def work(rank: int) -> None:
        models = Models()
        found[rank] = models.asked, ask(models, folders[rank], world=meeting.world(rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(folders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(len(folders))]


def expected(found: list[Tensor]) -> bool:
    return [t.tolist() for t in found] == [[-float(i)] * n for i, n in enumerate(LENGTHS)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precompute, "CHUNK", 2)


def test_asked_once(tmp_path: Path):
    first, second = Models(), Models()
    assert expected(ask(first, tmp_path))
    assert expected(ask(second, tmp_path))
    assert (first.asked, second.asked) == ([0, 1, 2, 3, 4], [])


@pytest.mark.parametrize(
    "change",
    [
        lambda models, data: setattr(models, "weights", "others"),
        lambda models, data: setattr(models, "dtype", torch.bfloat16),
        lambda models, data: setattr(data, "sha256", "others"),
    ],
    ids=["weights", "dtype", "tokens"],
)
def test_asked_again_where_it_would_say_something_else(change: Callable[[Models, Data], None], tmp_path: Path):
    ask(Models(), tmp_path)
    models, data = Models(), Data()
    change(models, data)
    ask(models, tmp_path, data)
    assert models.asked == [0, 1, 2, 3, 4]


def test_two_processes_ask_about_each_row_once(tmp_path: Path):
    (one, first), (two, second) = together([tmp_path, tmp_path])
    assert (one, two) == ([0, 1, 4], [2, 3])
    assert expected(first)
    assert expected(second)
    again = together([tmp_path, tmp_path])
    assert [asked for asked, _ in again] == [[], []]


def test_where_one_process_has_no_cache_all_ask_again_and_none_waits_in_vain(tmp_path: Path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    ask(Models(), tmp_path / "here")
    (one, first), (two, second) = together([tmp_path / "here", tmp_path / "there"])
    assert (one, two) == ([0, 1, 4], [2, 3])
    assert expected(first)
    assert expected(second)
