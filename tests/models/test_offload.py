"""Frozen weights held elsewhere: the same numbers, in memory only while they are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tastemaker.errors import TastemakerError
from tastemaker.methods import METHODS
from tastemaker.models import LoraSettings, RoleModels, build_roles, tiny_model
from tastemaker.models.offload import Offloaded
from tastemaker.models.roles import base_of
from tastemaker.training import train
from tastemaker.types import Bundles, Tree

SMAPS = Path("/proc/self/smaps")
PAIRS = [
    {"prompt": f"what is {a} ?", "chosen": f"it is {a} .", "rejected": f"no {b} {b} idea ."}
    for a in ("a cat", "a dog", "the sky", "rain")
    for b in ("good", "bad", "old", "new")
]
TEXTS = [f"{p['prompt']} {p['chosen']} {p['rejected']}" for p in PAIRS]
COMMON: dict[str, Any] = dict(
    max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, num_samples=0, save_steps=100
)


def made(seed: int = 0) -> Any:
    return tiny_model(TEXTS, seed=seed, vocab_size=300, hidden=64, heads=2)


def trees() -> Bundles:
    ids = torch.randint(5, 100, (24,), generator=torch.Generator().manual_seed(0))
    return Bundles((Tree(prompt=ids[:8], responses=(ids[8:14], ids[14:]), ended=(True, True)),))


@pytest.fixture(scope="module")
def reward_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reward") / "run"
    return train(METHODS["reward"](), model=made(), data=PAIRS, out=out, **COMMON).folder


def roles(folder: Path | None, reward: Path, **options: Any) -> RoleModels:
    names: Any = ("policy", "reference", "reward")
    return build_roles(
        names, ("policy",), policy=made(), reward=reward, device="cpu", offload=folder, **options
    )


def resident(tensor: Tensor) -> int:
    """Bytes in memory of the mapping that `tensor` lies in."""
    found = None
    for line in SMAPS.read_text().splitlines():
        span = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if span:
            found = int(span[1], 16) <= tensor.data_ptr() < int(span[2], 16)
        elif found and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such mapping")


@pytest.mark.parametrize("frozen", ["auto", "bfloat16"])
def test_scores_are_the_same_to_the_bit(frozen: str, reward_run: Path, tmp_path: Path) -> None:
    kept = roles(None, reward_run, frozen_dtype=frozen)
    away = roles(tmp_path, reward_run, frozen_dtype=frozen)
    for _ in range(2):  # once more after they were away
        for role, field in (("reference", "logps"), ("reward", "rewards"), ("policy", "logps")):
            expected, found = (getattr(m.score(role, trees()), field) for m in (kept, away))  # pyright: ignore[reportArgumentType]
            assert torch.equal(expected, found)
    assert not list(tmp_path.iterdir())  # the file has no name that could be left behind
    assert all(away.weights_hash(r) == kept.weights_hash(r) for r in ("reference", "reward"))


@pytest.mark.skipif(not SMAPS.exists(), reason="what is resident is read from /proc")  # others do not tell
def test_on_a_cpu_they_are_in_memory_during_a_pass_and_not_behind_it(reward_run: Path, tmp_path: Path) -> None:
    away = roles(tmp_path, reward_run)
    model = away.slot("reference").backbone.model
    weight = max(model.parameters(), key=Tensor.numel)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    assert resident(weight) == 0
    with away.scope("reference"):
        away.score("reference", trees())
        assert resident(weight) > 0.5 * size
    assert resident(weight) == 0
    assert resident(max(away.slot("policy").backbone.model.parameters(), key=Tensor.numel)) > 0


def test_on_a_device_of_its_own_they_are_copied_for_a_pass() -> None:
    """The way of a device with memory of its own, which the host's memory stands for here."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight  # tied weights stay tied
    before = [p.detach().clone() for p in model.parameters()]
    held = Offloaded(model, torch.device("cpu"), None)
    waiting = [p.data_ptr() for p in model.parameters()]
    with held.here():
        with held.here():
            pass
        inside = [p.data_ptr() for p in model.parameters()]
        assert not set(inside) & set(waiting)
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert [p.data_ptr() for p in model.parameters()] == waiting
    assert model[1].weight is model[0].weight


def test_what_is_trained_moves_or_is_shared_stays(reward_run: Path, tmp_path: Path) -> None:
    def away(models: RoleModels) -> list[str]:
        return [r for r in models.roles if models._ready(r).offloaded is not None]  # pyright: ignore[reportPrivateUsage]

    assert away(roles(tmp_path, reward_run)) == ["reference", "reward"]
    assert away(roles(tmp_path, reward_run, moving_reference=0.5)) == ["reward"]
    shared = build_roles(
        ("policy", "reference"),
        ("policy",),
        policy=made(),
        lora=LoraSettings(r=2),
        device="cpu",
        offload=tmp_path,
    )
    assert away(shared) == []
    assert any("offload_frozen" in note for note in shared.notes)
    assert not any("offload_frozen" in note for note in roles(tmp_path, reward_run).notes)


@pytest.mark.parametrize("method", ["dpo", "ppo", "grpo"])
def test_a_run_ends_in_the_same_weights(method: str, reward_run: Path, tmp_path: Path) -> None:
    made_by = METHODS[method]
    online: dict[str, Any] = {} if method == "dpo" else {"response_length": 6}
    if method == "grpo":
        online |= {"beta": 0.1, "num_generations": 2}
    data = PAIRS if method == "dpo" else [{"prompt": p["prompt"]} for p in PAIRS]
    reward = {} if method == "dpo" else {"reward": reward_run}
    runs = [
        train(
            made_by(**online),
            model=made(1),
            data=data,
            out=tmp_path / str(off),
            offload_frozen=off,
            **reward,
            **COMMON,
        )
        for off in (False, True)
    ]
    assert runs[0].record.hashes == runs[1].record.hashes
    names = ("loss", "grad_norm", "objective/kl", "reward", "logps/chosen")
    first, second = ([{n: m.get(n) for n in names} for m in run.metrics()] for run in runs)
    assert first == second
    # it changes no number, so a run may be taken up again without it
    again = train(
        made_by(**online),
        model=made(1),
        data=data,
        out=tmp_path / "True",
        offload_frozen=False,
        **reward,
        **COMMON,
    )
    assert again.record.hashes == runs[0].record.hashes


def test_no_room_for_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = base_of(made()[0])
    with pytest.raises(TastemakerError, match=r"frozen weights .*offload_frozen"):
        Offloaded(model, torch.device("cpu"), tmp_path / "file" / "run")
