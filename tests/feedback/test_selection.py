"""What to label next: doubt and difference are measured as defined, labels are never looked at, the queue heeds
it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sqlalchemy import func, select

from tastemaker.errors import TastemakerError
from tastemaker.feedback import ledger
from tastemaker.feedback.asking_next import leads_of, rank_items
from tastemaker.feedback.assign import Nothing, next_assignment, rank_queue
from tastemaker.feedback.groups import groups_of, set_group
from tastemaker.feedback.items import Written, add_item, person_named
from tastemaker.feedback.judging import record, submit
from tastemaker.feedback.projects import ProjectSettings, create_project, project_named
from tastemaker.feedback.quality import quality, weights
from tastemaker.feedback.selection import read_pairs, select_pairs
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Item, Queued, Ranking
from tastemaker.functional.querying import ensemble_disagreement, informative_order, pair_uncertainty
from tastemaker.models import build_roles, tiny_model
from tastemaker.types import Comparison

WORDS = "say yes no maybe never 0 1 2 3 4 5 6 7 8 9"


def judge(head: str = "ensemble", seed: int = 0):
    """A reward model that nobody trained."""
    heads = 3 if head == "ensemble" else 1
    models = build_roles(
        ("reward",), ("reward",), policy=tiny_model([WORDS], seed=seed), head=head, heads=heads
    )
    if head == "token":  # starts at zero, where nothing can be told apart
        torch.nn.init.normal_(
            models.slot("reward").head.bilinear, generator=torch.Generator().manual_seed(seed)
        )
    return models


def pool(n: int) -> list[Comparison]:
    return [
        Comparison(prompt=f"say {i}", responses=(f"yes {i} {i % 3}", f"no {i % 5} maybe"), row=f"r{i}")
        for i in range(n)
    ]


def test_uncertainty_and_disagreement_are_what_they_say() -> None:
    leads = [0.0, 2.0, -1.3]
    for found, lead in zip(pair_uncertainty(torch.tensor(leads)).tolist(), leads, strict=True):
        p = 1 / (1 + math.exp(-lead))
        assert found == pytest.approx(p * (1 - p))

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    ps = [1 / (1 + math.exp(-x)) for x in (2.0, -1.0)]
    wanted = entropy(sum(ps) / 2) - sum(map(entropy, ps)) / 2
    found = ensemble_disagreement(torch.tensor([[2.0, -1.0], [1.0, 1.0], [0.0, 0.0], [60.0, -60.0]]))
    assert found[0] == pytest.approx(wanted)
    assert found[1:3].tolist() == pytest.approx([0, 0], abs=1e-12), "a coin that all agree on teaches nothing"
    assert found[3] == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="two heads"):
        ensemble_disagreement(torch.zeros(4, 1))


def test_order_is_greedy_in_the_determinant() -> None:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=drawn, dtype=torch.float64)
    worth = torch.rand(12, generator=drawn, dtype=torch.float64)
    seen, seen_worth = torch.randn(4, 3, generator=drawn).double(), torch.rand(4, generator=drawn).double()
    found = informative_order(worth, x, 5, seen=seen, seen_worth=seen_worth).tolist()
    known = torch.eye(3).double() * float((worth[:, None] * x**2).mean()) + seen.T @ (
        seen * seen_worth[:, None]
    )
    for place in range(5):
        gains = {
            i: float(torch.logdet(known + worth[i] * torch.outer(x[i], x[i])))
            for i in range(12)
            if i not in found[:place]
        }
        assert found[place] == max(gains, key=gains.get)
        known = known + worth[found[place]] * torch.outer(x[found[place]], x[found[place]])


def test_a_pair_like_one_that_is_taken_comes_late() -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    x = torch.stack([one, one, one, other])
    order = informative_order(torch.tensor([0.25, 0.25, 0.25, 0.1]), x, 9).tolist()
    assert order[:2] == [0, 3]
    assert sorted(order) == [0, 1, 2, 3]
    assert informative_order(
        torch.tensor([0.25, 0.2]), torch.stack([one, other]), 1, seen=one[None]
    ).tolist() == [1]


def test_scale_and_sign_of_features_change_nothing() -> None:
    drawn = torch.Generator().manual_seed(1)
    x, worth = torch.randn(20, 4, generator=drawn), torch.rand(20, generator=drawn)
    before = informative_order(worth, x, 8).tolist()
    assert informative_order(worth, -300 * x, 8).tolist() == before
    assert informative_order(7 * worth, x, 8).tolist() == before


@pytest.mark.parametrize(
    ("head", "rule"), [("ensemble", "disagreement"), ("last", "uncertainty"), ("token", "uncertainty")]
)
def test_selection_never_sees_a_label(head: str, rule: str) -> None:
    models, pairs = judge(head), pool(30)
    chosen = select_pairs(models, pairs, 8, labelled=pairs[:5], rule=rule)
    assert len(set(chosen)) == 8
    turned = [replace(p, ranking=(1, 0), weight=0.3, annotator="eve") for p in pairs]
    assert select_pairs(models, turned, 8, labelled=turned[:5], rule=rule) == chosen
    swapped = [replace(p, responses=p.responses[::-1]) for p in pairs]
    assert select_pairs(models, swapped, 8, labelled=swapped[:5], rule=rule) == chosen, (
        "nor by which comes first"
    )


def test_features_are_what_the_head_reads() -> None:
    models, pairs = judge("ensemble"), pool(6)
    found = read_pairs(models, pairs)
    head = models.slot("reward").head
    assert torch.allclose(found.features @ head.weight.double().T, found.leads, atol=1e-5)
    assert found.leads.shape == (6, 3)
    alike = replace(pairs[2], responses=("yes", "yes"))
    assert read_pairs(models, [*pairs[:2], alike, pairs[3]]).rows == (0, 1, 3), "equal responses make no pair"


def test_what_cannot_be_selected_is_refused_in_words() -> None:
    with pytest.raises(TastemakerError, match="--ensemble"):
        select_pairs(judge("last"), pool(4), 2, rule="disagreement")
    three = Comparison(prompt="say", responses=("yes", "no", "maybe"), ranking=(0, 1, 2), row="x")
    with pytest.raises(TastemakerError, match="row x: has 3"):
        select_pairs(judge(), [three], 1)


# ------------------------------------------------------------------------------------ in the store


@pytest.fixture
def labels(tmp_path: Path):
    """A store on SQLite of 12 pairs."""
    opened = Store.open(tmp_path / "labels.db")
    settings = ProjectSettings()
    with opened.writing() as writer:
        project = create_project(writer, "taste", settings)
        for pair in pool(12):
            add_item(
                writer,
                project,
                settings,
                pair.prompt,
                [Written(content=r) for r in pair.responses],
                name=pair.row,
            )
    yield opened
    opened.close()


def lent(store: Store, who: str) -> list[int]:
    """Items as they come to one person."""
    order: list[int] = []
    while True:
        with store.writing() as writer:
            person = person_named(writer, who)
            given = next_assignment(writer, project_named(writer.session, "taste").id, person.id)
            if isinstance(given, Nothing):
                return order
            order.append(given.item_id)
            submit(writer, given.id, person.id, key=f"{who} {given.item_id:06}", answer={"preferred": 0})


def test_the_queue_heeds_the_latest_ranking_and_keeps_all(labels: Store) -> None:
    with labels.writing() as writer:
        project = project_named(writer.session, "taste")
        rank_queue(writer, project.id, [3, 9, 5], "runs/one")
        rank_queue(writer, project.id, [7, 2], "runs/two", {"rule": "uncertainty"})
        with pytest.raises(TastemakerError, match="99"):
            rank_queue(writer, project.id, [99], "runs/two")
        with pytest.raises(TastemakerError, match="twice"):
            rank_queue(writer, project.id, [1, 1], "runs/two")
    assert lent(labels, "ann") == [7, 2, 1, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    with labels.reading() as session:
        kept = list(session.scalars(select(Ranking).order_by(Ranking.id)))
        assert [(r.by, r.items) for r in kept] == [("runs/one", [3, 9, 5]), ("runs/two", [7, 2])]
        assert ledger.problems(session) == []
        session.connection().exec_driver_sql("UPDATE rankings SET items = '[1]' WHERE id = 1")
        assert any("rankings 1" in line for line in ledger.problems(session))


def test_ranking_takes_what_nobody_labelled(labels: Store) -> None:
    with labels.writing() as writer:
        for item in writer.session.scalars(select(Item).where(Item.id <= 4)):
            record(writer, item, person_named(writer, "ann"), {"preferred": 1}, key=f"ann-key-{item.id}")
    models = judge()
    made = rank_items(labels, "taste", models, "runs/rm", count=5)
    assert made.rule == "disagreement"
    assert made.waiting == 8
    assert len(made.items) == 5
    assert not set(made.items) & {1, 2, 3, 4}
    assert lent(labels, "bob")[:5] == list(made.items)
    with labels.reading() as session:
        kept = session.scalars(select(Ranking)).one()
        assert kept.details["weights"] == models.weights_hash("reward")
        assert session.scalar(select(func.count()).select_from(Queued).where(Queued.priority > 0)) == 5
    with pytest.raises(TastemakerError, match="nothing to rank"):
        rank_items(labels, "taste", models, "runs/rm")


def test_scores_weigh_annotators_of_one_label_an_item(labels: Store) -> None:
    models = judge()
    leads = leads_of(labels, "taste", models)
    assert set(leads) == set(range(1, 13))
    with labels.writing() as writer:
        for item in writer.session.scalars(select(Item)):
            who = "good" if item.id % 2 else "bad"
            better = int(leads[item.id] < 0)
            preferred = better if who == "good" else 1 - better
            record(writer, item, person_named(writer, who), {"preferred": preferred}, key=f"key-{item.id:05}")
    with labels.reading() as session:
        project = project_named(session, "taste")
        found = weights(session, project, model="bradley_terry", leads=leads)
        assert found["good"] > 0.6
        assert found["bad"] == 0
        people = {p["name"]: p for p in quality(session, project, leads)["people"]}
        assert (
            people["good"]["discernment"]["accuracy"]["low"] > people["bad"]["discernment"]["accuracy"]["high"]
        )
        with pytest.raises(ValueError, match="two votes"):
            weights(session, project, model="bradley_terry")
        with pytest.raises(ValueError, match="no use"):
            weights(session, project, leads=leads)


# ------------------------------------------------------------------------------------ whose taste


def test_groups_and_kappas_on_the_quality_page(labels: Store) -> None:
    """Four people in two groups of opposite taste, who agree within."""
    with labels.writing() as writer:
        for item in writer.session.scalars(select(Item)):
            for who, choice in (("ann", 0), ("abe", int(item.id == 1)), ("zoe", 1), ("zed", 1), ("eve", 0)):
                answer = {"preferred": (choice + item.id) % 2}
                record(writer, item, person_named(writer, who), answer, key=f"{who}-key-{item.id:04}")
        for who, group in (
            ("ann", "old"),
            ("ann", "experts"),
            ("abe", "experts"),
            ("zoe", "crowd"),
            ("zed", "crowd"),
        ):
            set_group(writer, who, group)
        set_group(writer, "eve", "crowd")
        set_group(writer, "eve", "")
        with pytest.raises(TastemakerError, match="nobody of that name"):
            set_group(writer, "who", "crowd")
    with labels.reading() as session:
        assert groups_of(session) == {"ann": "experts", "abe": "experts", "zoe": "crowd", "zed": "crowd"}
        told = quality(session, project_named(session, "taste"))
    groups = {g["group"]: g for g in told["groups"]["groups"]}
    assert [groups[g]["labels"] for g in ("experts", "crowd")] == [24, 24]
    assert groups["crowd"]["alpha"]["value"] == pytest.approx(1)
    assert groups["experts"]["alpha"]["value"] > 0.7
    assert told["groups"]["contested_items"] == 11
    # within: crowd always and experts 11 of 12 times, 1/2 each; across: only where abe went with them, 2 of 4
    assert told["groups"]["gap"]["value"] == pytest.approx((11 * 1 + (0.5 - 0.5)) / 12)
    assert told["groups"]["gap"]["low"] > 0.6
    agreement = told["agreement"]
    assert agreement["fleiss"]["items"] == 12
    assert agreement["fleiss"]["ratings"] == 5
    pairs = {tuple(p["people"]): p for p in agreement["pairs"]}
    assert pairs["ann", "eve"]["value"] == pytest.approx(1)
    assert pairs["ann", "zoe"]["value"] == pytest.approx(-1)
    assert agreement["cohen"]["low"] <= agreement["cohen"]["value"] <= agreement["cohen"]["high"]
    assert {p["group"] for p in told["people"]} == {"experts", "crowd", ""}
