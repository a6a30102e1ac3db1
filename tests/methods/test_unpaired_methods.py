"""KTO and BCO: against their papers, with an estimate of the KL that depends on the whole batch alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.cases import batch_for, roles_for
from methods.test_invariances import moved, prepared
from references import unpaired as reference
from tastemaker.methods import BCO, KTO
from tastemaker.methods.unpaired import mismatched, rotation
from tastemaker.models import RoleModels
from tastemaker.types import Bundles, Scores, TastemakerError, Tree

SEED = 1
"""Of a batch whose reference point is above 0 once the policy has moved."""


def random(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_response(batch: Bundles, values: Tensor) -> list[float]:
    return [float(part.sum()) for part in values.split(batch.lengths.tolist())]


def scored(method: KTO | BCO, **columns: Tensor) -> tuple[Bundles, Tensor, list[float]]:
    """A batch with its columns, log-probabilities and log-ratios."""
    batch = batch_for(method)
    logps, ref = -random(len(batch.targets), 1).abs(), -random(len(batch.targets), 2).abs()
    batch = batch.with_tokens(reference_logps=ref).with_trees(**columns)
    policy, start = by_response(batch, logps), by_response(batch, ref)
    return batch, logps, [a - b for a, b in zip(policy, start, strict=True)]


def test_kto_is_the_papers_with_its_weights():
    method = KTO(beta=0.3, desirable_weight=0.8, undesirable_weight=1.7)
    batch, logps, ratios = scored(method, kl=torch.full((6,), 0.4, dtype=torch.float64))
    loss = method.loss(Scores(logps=logps), batch)
    total, unit = loss.terms["kto"]
    good = batch.response_columns["desirable"].tolist()
    expected = [reference.kto(x, y, 0.4, 0.3, 0.8, 1.7) for x, y in zip(ratios, good, strict=True)]
    assert unit == "responses"
    assert method.units(batch)["responses"] == 6
    assert float(total) == pytest.approx(sum(expected), rel=1e-12)
    chosen = loss.metrics["rewards/chosen"]
    assert float(chosen.total) == pytest.approx(sum(0.3 * x for x, y in zip(ratios, good, strict=True) if y))
    assert chosen.count == sum(good)
    assert float(loss.metrics["kl"].total) / loss.metrics["kl"].count == pytest.approx(0.4)


def test_apo_zero_unpaired_needs_no_reference_point():
    method = KTO(beta=0.3, loss_type="apo_zero_unpaired")
    batch, logps, ratios = scored(method)
    loss = method.loss(Scores(logps=logps), batch)
    good = batch.response_columns["desirable"].tolist()
    expected = [reference.apo_zero(x, y, 0.3) for x, y in zip(ratios, good, strict=True)]
    assert float(loss.terms["kto"][0]) == pytest.approx(sum(expected), rel=1e-12)
    assert "kl" not in loss.metrics


# ------------------------------------------------------------------------------- the reference point


def distinct(prompts: Sequence[int]) -> None:
    partners = rotation(prompts)
    given = [p for p in partners if p is not None]
    assert len(set(given)) == len(given), "a response is used twice"
    assert all(prompts[a] != prompts[b] for a, b in enumerate(partners) if b is not None)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 8])
def test_C8_responses_move_on_by_one_where_every_prompt_differs(size: int):
    assert rotation(range(size)) == [size - 1, *range(size - 1)]


def test_C8_no_response_meets_its_own_prompt():
    generator = torch.Generator().manual_seed(0)
    for size in range(1, 12):
        for _ in range(20):
            prompts = torch.randint(0, 5, (size,), generator=generator).tolist()
            distinct(prompts)
            largest = max(prompts.count(p) for p in prompts)
            missing = rotation(prompts).count(None)
            assert (missing == 0) == (2 * largest <= size), prompts
    assert rotation([7, 7, 7]) == [None] * 3
    assert rotation([7, 7, 7, 8]).count(None) == 2


def z0(batch: Bundles, models: RoleModels) -> float:
    """From its definition, one mismatched pair at a time."""
    ratios: list[float] = []
    trees = batch.trees
    for i, tree in enumerate(trees):
        other = trees[i - 1]
        alone = Bundles(trees=(Tree(prompt=tree.prompt, responses=other.responses, row=0),))
        policy, start = (models.score(role, alone).logps for role in ("policy", "reference"))
        assert policy is not None
        assert start is not None
        ratios.append(float((policy - start).sum()))
    return reference.reference_point(ratios)


def ready(method: KTO) -> tuple[Bundles, RoleModels]:
    """Prepared away from the start, so that the reference point is not 0."""
    models = roles_for(method)
    moved(method, models)
    return prepared(method, models, batch_for(method, seed=SEED)), models


def test_C8_the_reference_point_is_the_mean_over_mismatched_pairs():
    done, models = ready(KTO())
    kl = done.tree_columns["kl"]
    expected = z0(done, models)
    assert expected > 0.01
    assert torch.allclose(kl, torch.full_like(kl, expected), rtol=1e-9)


class Shared:
    """`reduce` for processes that are run one after the other: sums what each would send, round by round."""

    def __init__(self, processes: int) -> None:
        self.sent: list[list[Tensor]] = [[] for _ in range(processes)]
        self.totals: list[Tensor] = []

    def of(self, process: int) -> Any:
        rounds = iter(range(10))

        def reduce(values: Tensor) -> Tensor:
            k = next(rounds)
            if k < len(self.totals):
                return self.totals[k]
            self.sent[process].append(values.clone())
            raise _Wait

        return reduce

    def advance(self) -> None:
        self.totals.append(torch.stack([s[-1] for s in self.sent]).sum(0))


class _Wait(Exception):
    pass


def together(method: KTO, models: RoleModels, parts: Sequence[Bundles]) -> list[Bundles]:
    """What each process prepares, all of them taking part in every sum."""
    shared = Shared(len(parts))
    while True:
        done: list[Bundles] = []
        for process, part in enumerate(parts):
            try:
                done.append(method.prepare(models, part, shared.of(process)))
            except _Wait:
                continue
        if len(done) == len(parts):
            return done
        shared.advance()


def test_C8_the_reference_point_depends_on_the_whole_batch_alone():
    method = KTO()
    done, models = ready(method)
    batch = batch_for(method, seed=SEED)
    for shares in ([[0, 2, 5], [1, 3, 4]], [[5, 0, 3, 1, 2], [4]], [[1, 3], [], [0, 2, 4, 5]]):
        parts = together(method, models, [batch.take(s) for s in shares])
        for part in parts:
            kl = part.tree_columns["kl"]
            assert torch.allclose(kl, done.tree_columns["kl"][: len(kl)], rtol=1e-6)


def test_C8_the_reference_point_is_never_below_zero():
    method = KTO()

    class Fallen:
        device = torch.device("cpu")

        def score(self, role: str, batch: Bundles, **_: object) -> Scores:
            return Scores(logps=torch.full((len(batch.targets),), -2.0 if role == "policy" else -1.0))

    done = method.prepare(Fallen(), batch_for(method), lambda x: x)  # pyright: ignore[reportArgumentType]
    assert done.tree_columns["kl"].tolist() == [0.0] * 6


def test_C8_one_prompt_alone_takes_the_last_reference_point_or_is_refused():
    method = KTO()
    models = roles_for(method)
    lone = batch_for(method).take([0]).with_trees(position=torch.tensor([0]))
    with pytest.raises(TastemakerError, match="per_device_train_batch_size"):
        method.prepare(models, lone, lambda x: x)
    method.load_state({"kl": 0.25, "good": 1.0, "bad": 0.0, "told": 0.0})
    assert method.prepare(models, lone, lambda x: x).tree_columns["kl"].tolist() == [0.25]


def test_mismatched_responses_keep_their_masks_and_fit_the_model():
    trees = tuple(
        Tree(
            prompt=torch.arange(3 + i),
            responses=(torch.arange(10, 14 + i),),
            trained=(torch.arange(4 + i) % 2 == 0,) if i else None,
            row=i,
        )
        for i in range(3)
    )
    batch = Bundles(trees=trees, tree_columns={"position": torch.tensor([0, 1, 2])})
    found = mismatched(batch, lambda x: x)
    assert [t.prompt.tolist() for t in found.trees] == [t.prompt.tolist() for t in trees]
    assert [t.responses[0].tolist() for t in found.trees] == [trees[i].responses[0].tolist() for i in (2, 0, 1)]
    assert found.trained.tolist() == [
        True,
        False,
        True,
        False,
        True,
        False,
        *[True] * 4,
        *[True, False] * 2,
        True,
    ]
    short = mismatched(batch, lambda x: x, 6)
    assert [len(t.responses[0]) for t in short.trees] == [3, 2, 1]


# ------------------------------------------------------------------------------- settings and words


def test_precomputed_references_do_not_know_mismatched_responses():
    batch, _, _ = scored(KTO())
    with pytest.raises(TastemakerError, match="precompute_ref_log_probs"):
        KTO().prepare(roles_for(KTO()), batch, lambda x: x)
    method = KTO(loss_type="apo_zero_unpaired")
    assert method.prepare(roles_for(method), batch, lambda x: x) is batch


def test_bad_settings_are_refused():
    for wrong in ({"beta": 0.0}, {"desirable_weight": -1.0}, {"undesirable_weight": -0.1}):
        with pytest.raises(TastemakerError):
            KTO(**wrong)
    with pytest.raises(TastemakerError, match="apo_zero_unpaired"):
        KTO(loss_type="apo_zero")  # pyright: ignore[reportArgumentType]


def steps(method: KTO, good: int, bad: int) -> None:
    method.after_step({"counts/chosen": float(good), "counts/rejected": float(bad), "kl": 0.1})


def test_imbalanced_labels_are_told_once_with_a_weight_that_fits(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    method = KTO()
    for _ in range(6):
        steps(method, 2, 14)
    assert len(caplog.records) == 1
    assert "desirable_weight=7" in caplog.text
    caplog.clear()
    for balanced in (KTO(), KTO(desirable_weight=7.0)):
        for _ in range(30):
            steps(
                balanced,
                8 if balanced.desirable_weight == 1 else 2,
                8 if balanced.desirable_weight == 1 else 14,
            )
    assert not caplog.records
    many_good = KTO()
    for _ in range(6):
        steps(many_good, 14, 2)
    assert "undesirable_weight=5.25" in caplog.text  # 14 to 2 * 5.25 is 4 to 3


def test_state_survives_a_resume():
    method = KTO()
    steps(method, 14, 2)
    again = KTO()
    again.load_state(method.state())
    assert again == method
    assert again.state() == method.state()


def test_one_kind_of_label_alone_has_its_own_metrics_and_no_margin():
    method = KTO()
    batch, logps, _ = scored(method, kl=torch.zeros(6, dtype=torch.float64))
    good = batch.with_responses(desirable=torch.ones(6, dtype=torch.bool))
    loss = method.loss(Scores(logps=logps), good)
    assert math.isfinite(float(loss.terms["kto"][0]))
    assert loss.metrics["rewards/rejected"].count == 0
    assert method.after_step({"rewards/chosen": 1.0, "counts/chosen": 6.0, "counts/rejected": 0.0}) == {}
    both = {"rewards/chosen": 1.0, "rewards/rejected": 0.25, "counts/chosen": 3.0, "counts/rejected": 3.0}
    assert method.after_step(both) == {"rewards/margins": 0.75}


def test_weights_of_zero_take_a_label_out():
    method = KTO(undesirable_weight=0.0)
    batch, logps, _ = scored(method, kl=torch.zeros(6, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(
        method.loss(Scores(logps=logps.requires_grad_()), batch).terms["kto"][0], logps
    )
    moved_by = batch.sum_by_response(gradient.abs())
    assert torch.equal(moved_by > 0, batch.response_columns["desirable"])
    assert replace(method).undesirable_weight == 0.0


# ------------------------------------------------------------------------------- BCO


def test_bco_is_the_papers_with_its_shift_and_weights():
    method = BCO(beta=0.3, desirable_weight=0.8, undesirable_weight=1.7)
    method.load_state({"mean_good": 0.5, "mean_bad": -0.1})
    batch, logps, ratios = scored(method)
    ready = method.prepare(roles_for(method), batch, lambda x: x)
    loss = method.loss(Scores(logps=logps), ready)
    good = batch.response_columns["desirable"].tolist()
    expected = [(0.8 if y else 1.7) * reference.bco(x, y, 0.2, 0.3) for x, y in zip(ratios, good, strict=True)]
    assert float(loss.terms["bco"][0]) == pytest.approx(sum(expected), rel=1e-12)
    assert loss.terms["bco"][1] == "responses"
    right = sum((0.3 * x > 0.2) == y for x, y in zip(ratios, good, strict=True))
    assert float(loss.metrics["accuracy"].total) == right
    assert float(loss.metrics["delta"].total) / loss.metrics["delta"].count == pytest.approx(0.2)


def test_bcos_shift_is_the_middle_of_two_moving_averages():
    method = BCO(shift_decay=0.75)
    assert method.shift == 0.0
    method.after_step({"rewards/chosen": 2.0, "rewards/rejected": -1.0})
    method.after_step({"rewards/chosen": 2.0})  # a batch of good responses alone
    assert method.mean_good == pytest.approx(0.25 * 2.0 + 0.75 * 0.25 * 2.0)
    assert method.mean_bad == pytest.approx(0.25 * -1.0)
    assert method.shift == pytest.approx((0.875 - 0.25) / 2)
    again = BCO(shift_decay=0.75)
    again.load_state(method.state())
    assert again.shift == method.shift
    for wrong in (-0.1, 1.0):
        with pytest.raises(TastemakerError, match="shift_decay"):
            BCO(shift_decay=wrong)


def test_bco_takes_precomputed_references():
    batch, _, _ = scored(BCO())
    ready = BCO().prepare(roles_for(BCO()), batch, lambda x: x)
    assert ready.token_columns["reference_logps"] is batch.token_columns["reference_logps"]
