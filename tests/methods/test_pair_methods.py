"""DPO's loss types and switches, SimPO, CPO and ORPO: against their papers, in any cut, refused when wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.cases import batch_for, roles_for
from methods.test_invariances import assert_same, gradients, moved, prepared
from references import dpo_family, pairwise
from tastemaker.config import dump, method_and_settings
from tastemaker.methods import CPO, DPO, ORPO, SimPO
from tastemaker.methods.pair_losses import LOSSES
from tastemaker.types import Bundles, Method, Scores, TastemakerError
from worlds import Table, pair, pairs_batch

S = {"label_smoothing": 0.1}
VARIANTS: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "cdpo": S,
    "sigmoid_norm": {"loss_type": "sigmoid_norm", "beta": 5.0},
    "robust": {"loss_type": "robust", **S},
    "hinge": {"loss_type": "hinge"},
    "ipo": {"loss_type": "ipo"},
    "ipo_norm": {"loss_type": "ipo_norm"},
    "exo_pair": {"loss_type": "exo_pair", "label_smoothing": 1e-3},
    "nca_pair": {"loss_type": "nca_pair"},
    "bco_pair": {"loss_type": "bco_pair"},
    "sppo_hard": {"loss_type": "sppo_hard"},
    "apo_zero": {"loss_type": "apo_zero"},
    "apo_down": {"loss_type": "apo_down"},
    "discopop": {"loss_type": "discopop", "discopop_tau": 0.2},
    "rao_kupper": {"loss_type": "rao_kupper"},
    "davidson": {"loss_type": "davidson", "tie_nu": 0.5},
    "forward_kl": {"f_divergence_type": "forward_kl"},
    "js_divergence": {"f_divergence_type": "js_divergence", "loss_type": "ipo"},
    "alpha_divergence": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
    "ld_dpo": {"ld_alpha": 0.4},
    "ld_apo": {"ld_alpha": 0.4, "loss_type": "apo_zero"},
    "r_dpo": {"length_penalty": 0.05},
    "dpop": {"dpop_lambda": 2.0},
    "odpo": {"margin_offset": 1.5},
    "odpo_ties": {"margin_offset": 1.5, "loss_type": "rao_kupper", "ld_alpha": 0.5, "length_penalty": 0.1},
}
COUPLED: dict[str, dict[str, Any]] = {
    "aot": {"loss_type": "aot", **S},
    "aot_unpaired": {"loss_type": "aot_unpaired", "ld_alpha": 0.5},
}
MIXED: dict[str, dict[str, Any]] = {
    "wpo": {"use_weighting": True},
    "strengths": {"strength_weights": True},
    "sft": {"loss_type": "sft"},
    "rpo": {"rpo_alpha": 0.5},
    "mpo": {"loss_type": ("sigmoid", "bco_pair", "sft"), "loss_weights": (0.8, 0.2, 1.0)},
    "everything": {"loss_type": "sigmoid,sft", "ld_alpha": 0.5, "dpop_lambda": 1.0, "use_weighting": True},
}
SWITCHES_OF_REFERENCE = {
    "label_smoothing": "smoothing",
    "f_divergence_type": "divergence",
    "f_alpha_divergence_coef": "coefficient",
    "discopop_tau": "tau",
}


def random(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tied(batch: Bundles) -> Bundles:
    """The last tree, of three responses, with a tie for second; and one pair that is a tie altogether."""
    rank = batch.response_columns["rank"].clone()
    rank[-1] = rank[-2]
    rank[1] = rank[0]
    return batch.with_responses(rank=rank)


def scored(method: DPO) -> tuple[Scores, Bundles]:
    batch = tied(batch_for(method)) if method.knows_ties else batch_for(method)
    n = len(batch.targets)
    policy, reference = -random(n, 1).abs(), -random(n, 2).abs()
    return Scores(logps=policy), batch.with_tokens(reference_logps=reference)


def by_response(batch: Bundles, values: Tensor) -> list[list[float]]:
    return [part.tolist() for part in values.split(batch.lengths.tolist())]


def ranked_pairs(batch: Bundles) -> list[tuple[int, int, bool]]:
    """(better, worse, tied), found by looking at every two responses of a tree."""
    rank, tree = batch.response_columns["rank"].tolist(), batch.tree.tolist()
    found: list[tuple[int, int, bool]] = []
    for i in range(len(rank)):
        for j in range(len(rank)):
            if tree[i] == tree[j] and (rank[i] < rank[j] or (rank[i] == rank[j] and i < j)):
                found.append((i, j, rank[i] == rank[j]))
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_C6_the_loss_type_asked_for_is_the_papers(name: str):
    method = DPO(**{"beta": 0.3, **VARIANTS[name]})
    scores, batch = scored(method)
    assert scores.logps is not None
    total, unit = method.loss(scores, batch).terms["dpo"]
    pi = by_response(batch, scores.logps)
    ref = by_response(batch, batch.token_columns["reference_logps"])
    margin, tree = batch.tree_columns["margin"].tolist(), batch.tree.tolist()
    given = {theirs: getattr(method, ours) for ours, theirs in SWITCHES_OF_REFERENCE.items()}
    given |= {n: getattr(method, n) for n in ("beta", "ld_alpha", "length_penalty", "dpop_lambda")}
    if method.losses[0] == "davidson":
        given["nu"] = method.tie_nu
    pairs = [p for p in ranked_pairs(batch) if method.knows_ties or not p[2]]
    expected = sum(
        dpo_family.pair_loss(
            method.losses[0],
            pi[w],
            pi[v],
            ref[w],
            ref[v],
            offset=method.margin_offset * margin[tree[w]],
            tied=tie,
            **given,
        )
        for w, v, tie in pairs
    )
    assert unit == "pairs"
    assert method.units(batch)["pairs"] == len(pairs) == (8 if not method.knows_ties else 5 + 3)
    assert float(total) == pytest.approx(expected, rel=1e-10)


def test_C6_every_loss_type_gives_another_value():
    values: dict[str, float] = {}
    for name, loss in LOSSES.items():
        method = DPO(loss_type=name, label_smoothing=0.1 if loss.takes("label_smoothing") else 0.0)
        scores, batch = scored(DPO())
        if loss.reads in ("aot", "aot_unpaired"):
            assert scores.logps is not None
            compared = method._compare(batch, scores.logps)
            batch = method._coupled(batch, compared, loss.reads, lambda x: x)
        values[name] = sum(float(total) for total, _ in method.loss(scores, batch).terms.values())
    assert len({round(v, 9) for v in values.values()}) == len(LOSSES)


def test_trls_loss_types_are_all_here():
    trl = "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down"
    assert set(trl.split()) | {"discopop", "sft", "sigmoid_norm"} <= set(LOSSES)


@pytest.mark.parametrize("name", [*VARIANTS, *COUPLED, *MIXED])
def test_C1_cut_ordered_and_shared_in_any_way_it_is_one_update(name: str):
    options = {**VARIANTS, **COUPLED, **MIXED}[name]
    method = DPO(**{"beta": 0.3, **options})
    models = roles_for(method)
    moved(method, models)
    batch = tied(batch_for(method)) if method.knows_ties else batch_for(method)
    ready = prepared(method, models, batch)
    whole = gradients(method, models, ready)
    assert_same(whole, gradients(method, models, ready, 40))
    other = prepared(method, models, batch.take([3, 0, 5, 1, 4, 2]))
    assert_same(whole, gradients(method, models, other, 30))


@pytest.mark.parametrize("name", ["ld_dpo", "wpo", "rpo", "mpo", "sigmoid_norm", "aot_unpaired"])
def test_A10_tokens_that_are_not_trained_change_nothing(name: str):
    method = DPO(**{**VARIANTS, **COUPLED, **MIXED}[name])
    models, batch = roles_for(method), batch_for(method)
    trees = tuple(
        replace(t, trained=tuple(torch.arange(len(r)) % 2 == 0 for r in t.responses)) for t in batch.trees
    )
    ready = prepared(method, models, replace(batch, trees=trees))
    moved(method, models)
    spoiled = {n: c.where(ready.trained, torch.full_like(c, math.nan)) for n, c in ready.token_columns.items()}
    assert_same(gradients(method, models, ready), gradients(method, models, ready.with_tokens(**spoiled)))


# ------------------------------------------------------------------------------------ AOT


def together(batch: Bundles, method: DPO, models: Any, shares: list[list[int]]) -> list[Bundles]:
    """What each process prepares of its share; the sums over processes are made by hand."""
    results: list[Bundles | None] = [None] * len(shares)
    sums: list[Tensor] = []
    while any(r is None for r in results):
        asked: list[Tensor] = []
        for i, share in enumerate(shares):
            done = iter(sums)

            def reduce(values: Tensor, done: Any = done, asked: list[Tensor] = asked) -> Tensor:
                known = next(done, None)
                if known is None:
                    asked.append(values)
                    raise StopIteration
                return known

            try:
                results[i] = method.prepare(models, batch.take(share), reduce)
            except StopIteration:
                results[i] = None
        if asked:
            sums.append(torch.stack(asked).sum(0))
    return [r for r in results if r is not None]


@pytest.mark.parametrize("name", COUPLED)
def test_C2_aot_sorts_over_all_processes(name: str):
    method = DPO(beta=0.3, **COUPLED[name])
    models = roles_for(method)
    moved(method, models)
    batch = batch_for(method)
    whole = prepared(method, models, batch)
    shares = [[4, 0, 2], [], [1, 5, 3]]
    columns = [c for c in whole.response_columns if c.startswith("aot")]
    assert columns
    for share, part in zip(shares, together(batch, method, models, shares), strict=True):
        for column in columns:
            expected = whole.take(share).response_columns[column]
            found = part.response_columns[column]  # as wide as the share's largest tree
            torch.testing.assert_close(found, expected[:, : found.shape[1]], check_dtype=False)


@pytest.mark.parametrize("kind", ["aot", "aot_unpaired"])
def test_aot_couples_equal_ranks_of_the_whole_batch(kind: str):
    method = DPO(loss_type=kind, beta=0.3, label_smoothing=0.2)
    scores, batch = scored(method)
    assert scores.logps is not None
    compared = method._compare(batch, scores.logps)
    ready = method._coupled(batch, compared, kind, lambda x: x)
    pi = [sum(x) for x in by_response(batch, scores.logps)]
    ref = [sum(x) for x in by_response(batch, batch.token_columns["reference_logps"])]
    pairs = [(w, v) for w, v, _ in ranked_pairs(batch)]
    if kind == "aot":
        ours, theirs = [pi[w] - pi[v] for w, v in pairs], [ref[w] - ref[v] for w, v in pairs]
    else:
        ours, theirs = ([pi[p[side]] - ref[p[side]] for p in pairs] for side in (0, 1))
    differences = [a - b for a, b in zip(sorted(ours), sorted(theirs), strict=True)]
    logps = scores.logps.clone().requires_grad_()
    total, _ = method.loss(Scores(logps=logps), ready).terms["dpo"]
    assert float(total.detach()) == pytest.approx(dpo_family.aot(differences, 0.3, 0.2), rel=1e-10)

    def direct(values: Tensor) -> Tensor:
        """The same with the sorting inside, as one whole."""
        now = method._compare(batch, values)
        one, two = now.logratios
        if kind == "aot":
            one = now.chosen - now.rejected
            two = now.reference_chosen - now.reference_rejected
        return LOSSES[kind].formula(one.sort().values - two.sort().values, beta=0.3, label_smoothing=0.2).sum()

    again = scores.logps.clone().requires_grad_()
    (expected,) = torch.autograd.grad(direct(again), again)
    (found,) = torch.autograd.grad(total, logps)
    torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------------------------ weights and likelihood


def test_wpo_weighs_by_the_policys_probability_against_its_own_choice():
    """One-token responses: the weight of each is p(y) / sum_v p(v)^2, detached."""
    logits = torch.tensor([[0.5, -0.3, 1.0], [0.0, 0.8, -0.6]], dtype=torch.float64)
    table = Table(torch.zeros_like(logits))
    with torch.no_grad():
        table.logits.copy_(logits)
    method = DPO(use_weighting=True, beta=0.5)
    batch = method.prepare(table, pairs_batch([pair(0, 0, 1), pair(1, 2, 1)]), lambda x: x)
    p = logits.softmax(-1).tolist()
    expected = 0.0
    for c, w, v in ((0, 0, 1), (1, 2, 1)):
        expect = math.prod(p[c][y] / sum(x * x for x in p[c]) for y in (w, v))
        expected += expect * pairwise.dpo(math.log(p[c][w]), math.log(p[c][v]), -math.log(3), -math.log(3), 0.5)
    scores = table.score("policy", batch)
    assert scores.logps is not None
    logps = scores.logps.requires_grad_()
    total, _ = method.loss(Scores(logps=logps), batch).terms["dpo"]
    assert float(total.detach()) == pytest.approx(expected, rel=1e-10)
    plain, _ = DPO(beta=0.5).loss(Scores(logps=logps), batch).terms["dpo"]
    (weighed,), (bare,) = torch.autograd.grad(total, logps), torch.autograd.grad(plain, logps)
    first = math.prod(p[0][y] / sum(x * x for x in p[0]) for y in (0, 1))
    assert float(weighed[0]) == pytest.approx(first * float(bare[0]))  # weights carry no gradient


def test_C15_strengths_weigh_and_a_weight_of_0_has_no_gradient():
    method = DPO(strength_weights=True)
    scores, batch = scored(method)
    batch = batch.with_trees(margin=torch.tensor([0.0, 1.0, 2.0, 0.5, 1.0, 0.0], dtype=torch.float64))
    assert scores.logps is not None
    logps = scores.logps.requires_grad_()
    total, _ = method.loss(Scores(logps=logps), batch).terms["dpo"]
    plain, _ = DPO().loss(Scores(logps=logps), batch).terms["dpo"]
    (weighed,), (bare,) = torch.autograd.grad(total, logps), torch.autograd.grad(plain, logps)
    factor = batch.tree_columns["margin"][batch.tree[batch.response]]
    torch.testing.assert_close(weighed, factor * bare)
    assert int((weighed == 0).sum()) >= int((factor == 0).sum()) > 0


def test_strengths_that_the_data_lack_are_asked_for():
    for options in ({"strength_weights": True}, {"margin_offset": 1.0}):
        method = DPO(**options)  # pyright: ignore[reportArgumentType]
        batch = pairs_batch([pair(0, 0, 1)])
        with pytest.raises(TastemakerError, match="margin or strength"):
            method.prepare(Table(torch.zeros(1, 2)), batch, lambda x: x)
    method = DPO(strength_weights=True)
    negative = pairs_batch([pair(0, 0, 1)]).with_trees(margin=torch.tensor([-1.0]))
    with pytest.raises(TastemakerError, match="below 0"):
        method.prepare(Table(torch.zeros(1, 2)), negative, lambda x: x)


def test_likelihood_terms_are_of_the_best_responses_alone():
    method = DPO(loss_type=("sigmoid", "sft"), loss_weights=(1.0, 0.7), rpo_alpha=0.5)
    scores, batch = scored(method)
    assert scores.logps is not None
    loss = method.loss(scores, batch)
    best = [part for k, part in enumerate(by_response(batch, scores.logps)) if k % 2 == 0 and k < 12]
    tokens = sum(len(part) for part in best)
    assert len(best) == 6 == method.units(batch)["responses"]
    assert method.units(batch)["tokens"] == tokens
    sft, unit = loss.terms["sft"]
    assert (unit, float(sft)) == ("tokens", pytest.approx(-0.7 * sum(map(sum, best))))
    rpo, unit = loss.terms["rpo"]
    assert unit == "responses"
    assert float(rpo) == pytest.approx(-0.5 * sum(sum(part) / len(part) for part in best))
    nll = loss.metrics["nll_loss"]
    assert float(nll.total) / nll.count == pytest.approx(-sum(map(sum, best)) / tokens)


def test_C15_a_tree_of_ties_has_no_best_response_and_only_tie_losses_learn_from_it():
    batch = batch_for(DPO()).take([0, 1])
    batch = batch.with_responses(rank=torch.zeros(4, dtype=torch.int64))
    assert DPO(loss_type="davidson").units(batch)["pairs"] == 2
    assert DPO().units(batch)["pairs"] == 0
    assert DPO().units(batch)["responses"] == 0


# ------------------------------------------------------------------------------------ without a reference


def test_C9_simpo_divides_by_length_and_dpo_does_not():
    method = SimPO(beta=2.0, simpo_gamma=0.7)
    scores, batch = scored(DPO())
    assert scores.logps is not None
    total, _ = method.loss(scores, batch).terms["simpo"]
    mean = [sum(x) / len(x) for x in by_response(batch, scores.logps)]
    expected = sum(pairwise.simpo(mean[w], mean[v], 2.0, 0.7) for w, v, _ in ranked_pairs(batch))
    assert float(total) == pytest.approx(expected, rel=1e-10)
    cpo = CPO(loss_type="simpo", beta=2.0, simpo_gamma=0.7, cpo_alpha=0.0).loss(scores, batch).terms
    assert list(cpo) == ["cpo"]
    assert float(cpo["cpo"][0]) == pytest.approx(expected, rel=1e-10)
    shaped, _ = SimPO(alpha=0.3, simpo_gamma=0.0).loss(scores, batch).terms["simpo"]
    reward = [pairwise.alphapo_reward(x, 0.3) for x in mean]
    expected = sum(pairwise.simpo(reward[w], reward[v], 2.0, 0.0) for w, v, _ in ranked_pairs(batch))
    assert float(shaped) == pytest.approx(expected, rel=1e-10)


def test_cpo_is_dpo_with_a_uniform_reference_and_likelihood():
    method = CPO(beta=0.2, cpo_alpha=0.6)
    scores, batch = scored(DPO())
    assert scores.logps is not None
    loss = method.loss(scores, batch)
    sums = [sum(x) for x in by_response(batch, scores.logps)]
    pairs = ranked_pairs(batch)
    expected = sum(pairwise.dpo(sums[w], sums[v], 0.0, 0.0, 0.2) for w, v, _ in pairs)
    assert float(loss.terms["cpo"][0]) == pytest.approx(expected, rel=1e-10)
    best = sum(sums[k] for k in range(0, 12, 2))
    assert float(loss.terms["nll"][0]) == pytest.approx(-0.6 * best)
    for kind in ("hinge", "ipo"):
        total, _ = CPO(beta=0.2, loss_type=kind).loss(scores, batch).terms["cpo"]
        expected = sum(getattr(pairwise, kind)(sums[w], sums[v], 0.2) for w, v, _ in pairs)
        assert float(total) == pytest.approx(expected, rel=1e-10)


def test_orpo_is_likelihood_and_the_odds_ratio_of_means():
    method = ORPO(beta=0.4)
    scores, batch = scored(DPO())
    assert scores.logps is not None
    loss = method.loss(scores, batch)
    mean = [sum(x) / len(x) for x in by_response(batch, scores.logps)]
    odds = [pairwise.log_odds_ratio(mean[w], mean[v]) for w, v, _ in ranked_pairs(batch)]
    expected = 0.4 * sum(math.log1p(math.exp(-x)) for x in odds)
    assert float(loss.terms["odds_ratio"][0]) == pytest.approx(expected, rel=1e-10)
    assert float(loss.metrics["log_odds_chosen"].total) == pytest.approx(sum(odds))
    assert loss.terms["nll"][1] == "tokens"
    names = {"nll_loss", "log_odds_ratio", "rewards/margins", "logps/chosen", "lengths/rejected"}
    assert names <= loss.metrics.keys()


# ------------------------------------------------------------------------------------ what is refused

WRONG: list[tuple[type[Method], dict[str, Any], str]] = [
    (DPO, {"loss_type": "sigmod"}, "did you mean sigmoid"),
    (DPO, {"loss_type": "sigmoid,hing"}, "did you mean hinge"),
    (DPO, {"loss_type": ()}, "loss_type is empty"),
    (DPO, {"loss_type": "sft,sft"}, "at most once"),
    (DPO, {"loss_type": "ipo", "label_smoothing": 0.1}, "label_smoothing has no effect with loss_type ipo"),
    (DPO, {"loss_type": "exo_pair"}, "1e-3"),
    (DPO, {"loss_type": "robust", "label_smoothing": 0.5}, r"\[0, 0.5\)"),
    (DPO, {"label_smoothing": -0.1}, r"\[0, 0.5\)"),
    (DPO, {"loss_weights": (1.0, 2.0)}, "2 numbers for 1 loss type"),
    (DPO, {"loss_type": "sigmoid,sft", "loss_weights": (1.0, -1.0)}, "negative"),
    (DPO, {"loss_type": "apo_zero", "f_divergence_type": "forward_kl"}, "f_divergence_type does not go with"),
    (DPO, {"loss_type": "aot", "use_weighting": True}, "use_weighting does not go with"),
    (DPO, {"loss_type": "sft", "ld_alpha": 0.5}, "ld_alpha does not go with"),
    (DPO, {"loss_type": "sigmoid_norm", "length_penalty": 0.1}, "length_penalty does not go with"),
    (DPO, {"ld_alpha": 1.5}, r"\[0, 1\]"),
    (DPO, {"tie_nu": 2.0}, "tie_nu has no effect"),
    (DPO, {"tie_nu": 1.0, "loss_type": "rao_kupper"}, "above 1"),
    (DPO, {"loss_type": "davidson", "strength_weights": True}, "ties"),
    (DPO, {"discopop_tau": 0.1}, "discopop_tau has no effect"),
    (DPO, {"f_alpha_divergence_coef": 0.9}, "without f_divergence_type=alpha_divergence"),
    (DPO, {"ref_model_sync_steps": 8}, "without sync_ref_model"),
    (DPO, {"sync_ref_model": True, "ref_model_mixup_alpha": 0.0}, r"\(0, 1\]"),
    (DPO, {"dpop_lambda": 1.0, "f_divergence_type": "js_divergence"}, "reverse_kl"),
    (SimPO, {"beta": 0.0}, "beta"),
    (SimPO, {"simpo_gamma": -1.0}, "simpo_gamma"),
    (SimPO, {"label_smoothing": 0.5}, "label_smoothing"),
    (CPO, {"loss_type": "simp"}, "did you mean simpo"),
    (CPO, {"loss_type": "hinge", "label_smoothing": 0.1}, "no effect"),
    (CPO, {"simpo_gamma": 1.0}, "no effect"),
    (CPO, {"cpo_alpha": -1.0}, "negative"),
    (ORPO, {"beta": -0.1}, "beta"),
]


@pytest.mark.parametrize("cls, options, message", WRONG, ids=lambda x: str(x)[:50])
def test_what_makes_no_sense_is_refused(cls: type[Method], options: dict[str, Any], message: str):
    with pytest.raises(TastemakerError, match=message):
        cls(**options)


@pytest.mark.parametrize("name", [*VARIANTS, *COUPLED, *MIXED])
def test_settings_survive_a_record(name: str):
    method = DPO(**{**VARIANTS, **COUPLED, **MIXED}[name])
    again, _ = method_and_settings(DPO, dump(method))
    assert again == method
