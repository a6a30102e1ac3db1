"""What is said of annotators: published figures, and failings that were put in are found again."""

from __future__ import annotations

import math
import random

import pytest
from sqlalchemy import select

from tastemaker.feedback.annotators import dawid_skene, leanings, noise_of, weight_of
from tastemaker.feedback.items import Written, add_item, person_named
from tastemaker.feedback.judging import record, suggest
from tastemaker.feedback.projects import ProjectSettings, create_project, project_named
from tastemaker.feedback.quality import quality, weights
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Item


def labelled(accuracies: dict[str, float], items: int, seed: int = 0) -> tuple[list, dict[int, str]]:
    rng = random.Random(seed)
    truth = {i: rng.choice("01") for i in range(items)}
    other = {"0": "1", "1": "0"}
    said = [
        (i, who, truth[i] if rng.random() < accuracy else other[truth[i]])
        for i in range(items)
        for who, accuracy in accuracies.items()
    ]
    return said, truth


def test_dawid_skene_finds_the_accuracies_that_were_put_in() -> None:
    known = {"ann": 0.95, "bob": 0.8, "eve": 0.7, "zoe": 0.5, "max": 0.85}
    said, truth = labelled(known, 1500)
    found = dawid_skene(said)
    for who, accuracy in known.items():
        assert found.accuracy[who] == pytest.approx(accuracy, abs=0.035), who
    right = sum(max(found.answers[i], key=found.answers[i].get) == truth[i] for i in truth) / len(truth)
    votes = {i: [c for j, _, c in said if j == i] for i in range(300)}
    majority = sum(max(set(v), key=v.count) == truth[i] for i, v in votes.items()) / 300
    assert right > majority > 0.85


def test_dawid_skene_turns_one_who_always_errs_round() -> None:
    said, _ = labelled({"ann": 0.9, "bob": 0.9, "eve": 0.9, "not": 0.1}, 400)
    found = dawid_skene(said)
    assert found.accuracy["not"] == pytest.approx(0.1, abs=0.05)
    assert weight_of(found.accuracy["not"]) == 0


def test_weights_and_noise() -> None:
    assert [weight_of(a) for a in (1.0, 0.75, 0.5, 0.2)] == [1.0, 0.5, 0.0, 0.0]
    assert weight_of(2 / 3, categories=3) == pytest.approx(0.5)
    assert noise_of({"ann": 0.9, "bob": 0.7}, {"ann": 1, "bob": 3}) == pytest.approx((0.1 + 0.9) / 4)
    assert math.isnan(noise_of({}, {}))


def test_leanings_that_were_put_in_lie_in_their_intervals() -> None:
    """Of 24 intervals of 95 %, 1.2 miss on average; more than 4 would once in two thousand such tests."""
    position, per_word, temperature, slips = 0.6, 0.08, 0.7, 0.1
    missed, lapses = 0, []
    for seed in range(8):
        rng = random.Random(seed)
        chosen, quality_of, length = [], [], []
        for _ in range(3000):
            dq, dl = rng.gauss(0, 1.2), rng.randrange(-12, 13)
            lead = (dq + per_word * dl + position) / temperature
            chosen.append(rng.random() < (1 - slips) / (1 + math.exp(-lead)) + slips / 2)
            quality_of.append(dq)
            length.append(dl)
        found = leanings(chosen, quality_of, length)
        lapses.append(found.lapses.value)
        truths = ((found.position, position), (found.length, per_word), (found.quality, 1.0))
        missed += sum(not e.low < truth / temperature < e.high for e, truth in truths)
        assert all(e.high - e.low < 2.2 * truth / temperature for e, truth in truths), (
            "wide enough to be useless"
        )
        assert found.in_units_of_quality() == pytest.approx((position, per_word), rel=0.35)
    assert missed <= 4
    assert sum(lapses) / len(lapses) == pytest.approx(slips, abs=0.02)


def test_no_leaning_is_found_where_there_is_none() -> None:
    rng = random.Random(3)
    quality_of = [rng.gauss(0, 1) for _ in range(800)]
    chosen = [rng.random() < 1 / (1 + math.exp(-2 * q)) for q in quality_of]
    found = leanings(chosen, quality_of, [rng.randrange(-9, 10) for _ in quality_of])
    assert found.position.low < 0 < found.position.high and found.length.low < 0 < found.length.high


def test_too_little_says_nothing() -> None:
    with pytest.raises(ValueError, match="20 choices"):
        leanings([True] * 10, [0.0] * 10, [0.0] * 10)
    with pytest.raises(ValueError, match="both outcomes"):
        leanings([True] * 30, [0.0] * 30, [0.0] * 30)


# ------------------------------------------------------------------------------------ of a project


def world(store: Store) -> None:
    """40 pairs (the second longer), 5 test items; ann is right, len takes the longer, bob the first shown."""
    settings = ProjectSettings(overlap=3, minimum_seconds=2.0)
    rng = random.Random(0)
    with store.writing() as writer:
        project = create_project(writer, "taste", settings)
        people = {name: person_named(writer, name) for name in ("ann", "len", "bob")}
        judge = person_named(writer, "judge", "judge")
        for i in range(45):
            gold = {"preferred": 0} if i >= 40 else None
            sides = [Written(content=f"short {i}"), Written(content=f"a much longer answer {i}")]
            item, _ = add_item(writer, project, settings, f"p {i}", sides, gold=gold, name=f"row {i}")
            suggest(writer, item, judge, {"preferred": 0}, model="small")
            for name, person in people.items():
                order = rng.choice([(0, 1), (1, 0)])
                preferred = {"ann": 0, "len": 1, "bob": order[0]}[name]
                seconds = 1.0 if name == "bob" else 9.0
                say = {"key": f"{name}-key-{i:04}", "shown_order": order, "seconds": seconds}
                record(writer, item, person, {"preferred": preferred}, **say)
        item = writer.session.scalar(select(Item))
        record(writer, item, people["ann"], {"preferred": 0}, key="ann-again-0", purpose="repeat")


def test_quality_of_a_project_tells_habits_apart(store: Store) -> None:
    world(store)
    with store.reading() as session:
        told = quality(session, project_named(session, "taste"))
    people = {p["name"]: p for p in told["people"]}
    assert told["labels"] == 120 and told["items"] == 40
    assert people["ann"]["gold"]["value"] == 1 and people["len"]["gold"]["value"] == 0
    assert people["len"]["longer"]["value"] == 1 and people["ann"]["longer"]["value"] == 0
    assert people["bob"]["first_shown"]["value"] == 1 and people["bob"]["hasty"] == 1
    assert people["ann"]["first_shown"]["low"] < 0.5 < people["ann"]["first_shown"]["high"]
    assert people["ann"]["self"] == {
        "value": 1,
        "low": pytest.approx(0.2065, abs=1e-3),
        "high": pytest.approx(1),
        "n": 1,
    }
    agreement = told["agreement"]
    assert agreement["raw"]["value"] == pytest.approx(1 / 3) and agreement["items"] == 40
    assert agreement["alpha"]["low"] <= agreement["alpha"]["value"] <= agreement["alpha"]["high"] < 0.1
    assert len(told["disputed"]) == 40 and told["judges"][0]["items"] == 45


def test_weights_need_items_of_several_people(store: Store) -> None:
    world(store)
    with store.reading() as session:
        found = weights(session, project_named(session, "taste"))
        assert set(found) == {"ann", "len", "bob"} and all(0 <= w <= 1 for w in found.values())
    with store.writing() as writer:
        create_project(writer, "alone")
    with store.reading() as session, pytest.raises(ValueError, match="two people"):
        weights(session, project_named(session, "alone"))
