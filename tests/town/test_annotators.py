"""Simulated annotators: what was injected is what their labels show."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import numpy as np
import pytest
from scipy.optimize import minimize

from tastemaker.town import PANELS, SLOPPY, Annotator, Town, TownPrompt
from tastemaker.town.demonstrators import demonstrate
from tastemaker.types import Comparison, Question

LABELS = 40_000


@pytest.fixture(scope="module")
def town() -> Town:
    return Town(0)


@pytest.fixture(scope="module")
def answered(town: Town) -> list[tuple[Question, str, str]]:
    rng = random.Random(1)
    out: list[tuple[Question, str, str]] = []
    for q in town.prompts(10_000, "train", seed=4):
        prompt = q.columns["town"]
        assert isinstance(prompt, TownPrompt)
        a, b = (demonstrate(SLOPPY, town.facts, prompt, rng) for _ in range(2))
        if a != b:
            out.append((q, a, b))
    return out


def labels(
    town: Town, answered: list[tuple[Question, str, str]], panel: str, n: int
) -> list[tuple[int, Comparison]]:
    """(index of the pair, label), going round the pairs with new seeds until there are n."""
    out: list[tuple[int, Comparison]] = []
    for k in range(n):
        i = k % len(answered)
        q, a, b = answered[i]
        out.append((i, town.label(q, (a, True), (b, True), panel=panel, seed=k // len(answered))))
    return out


def features(town: Town, q: Question, a: str, b: str, shown: tuple[int, ...] | None) -> list[float]:
    """Differences a - b: gold, words, agreement, flattery, and +-1 for being shown first."""
    gold = [town.gold(q, x, True).total for x in (a, b)]
    read = [town.reading(q, x, True) for x in (a, b)]
    prompt = q.columns["town"]
    assert isinstance(prompt, TownPrompt)
    yes = [float(r.yes > 0 and prompt.claim != "") for r in read]
    assert shown is not None
    return [
        gold[0] - gold[1],
        float(read[0].words - read[1].words),
        yes[0] - yes[1],
        float(read[0].flatteries - read[1].flatteries),
        1.0 if shown[0] == 0 else -1.0,
    ]


def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maximum likelihood of P(y=1) = e/2 + (1-e) sigmoid(x w): (w..., e) and their standard errors."""

    def loss(theta: np.ndarray) -> float:
        w, e = theta[:-1], theta[-1]
        p = e / 2 + (1 - e) / (1 + np.exp(-x @ w))
        return float(-np.sum(y * np.log(p) + (1 - y) * np.log1p(-p)))

    start = np.array([1.5, 0.0, 0.0, 0.0, 0.0, 0.05])
    bounds = [(None, None)] * 5 + [(1e-4, 0.5)]
    best = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    step = 1e-3
    k = len(best)
    hessian = np.zeros((k, k))
    eye = np.eye(k) * step
    for i in range(k):
        for j in range(k):
            hessian[i, j] = (
                loss(best + eye[i] + eye[j])
                - loss(best + eye[i] - eye[j])
                - loss(best - eye[i] + eye[j])
                + loss(best - eye[i] - eye[j])
            ) / (4 * step**2)
    return best, np.sqrt(np.diag(np.linalg.inv(hessian)))


@pytest.fixture(scope="module")
def by_person(
    town: Town, answered: list[tuple[Question, str, str]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rows: dict[str, list[tuple[list[float], float]]] = defaultdict(list)
    for i, c in labels(town, answered, "panel", LABELS):
        rows[c.annotator].append((features(town, *answered[i], c.shown_order), float(c.ranking == (0, 1))))
    return {name: (np.array([x for x, _ in r]), np.array([y for _, y in r])) for name, r in rows.items()}


@pytest.mark.parametrize("person", [p for p in PANELS["panel"] if not p.credulous], ids=lambda p: p.name)
def test_what_was_injected_is_recovered_from_the_labels(
    by_person: dict[str, tuple[np.ndarray, np.ndarray]], person: Annotator
):
    """Within 4 standard errors, from about 7000 labels a person."""
    estimate, error = fit(*by_person[person.name])
    t = person.temperature
    injected = [1 / t, person.per_word / t, person.agreement / t, person.flattery / t, person.first_shown / t]
    truth = np.array([*injected, person.error])
    # the error rate lives on a boundary where it is small, so its interval is floored
    floor = np.array([0, 0, 0, 0, 0, 0.01])
    assert np.all(np.abs(estimate - truth) < np.maximum(4 * error, floor)), (estimate, truth, error)
    # the intervals are narrow enough to see the leanings that this person has
    for value, width in zip(injected[1:], error[1:5], strict=True):
        assert value == 0 or value > 4 * width


def frequency(town: Town, q: Question, a: str, b: str, name: str, n: int) -> tuple[float, int]:
    """How often person `name` of the panel prefers a to b."""
    won = seen = 0
    for seed in range(n):
        c = town.label(q, (a, True), (b, True), panel="panel", seed=seed)
        if c.annotator == name:
            seen += 1
            won += c.ranking == (0, 1)
    return won / seen, seen


def test_credulity_is_recovered(town: Town):
    """A right and a wrong answer, alike otherwise: gold 2.0 and -1.5. Someone who believes the wrong one
    sees no difference, so P(right) = e/2 + (1-e) (c/2 + (1-c) sigmoid(3.5/T)).
    """
    person = next(p for p in PANELS["panel"] if p.credulous)
    q = next(q for q in town.prompts(50, "train") if q.columns["kind"] == "fact")
    prompt = q.columns["town"]
    assert isinstance(prompt, TownPrompt)
    attribute = town.facts.attribute(prompt.attribute)
    right = town.facts.true[prompt.place, prompt.attribute]
    wrong = town.facts.wrong_values(prompt.place, prompt.attribute)[0]
    said = [attribute.state("it", v) + " ." for v in (right, wrong)]
    p, n = frequency(town, q, said[0], said[1], person.name, 12_000)
    sure = 1 / (1 + math.exp(-3.5 / person.temperature))
    credulity = (sure - (p - person.error / 2) / (1 - person.error)) / (sure - 0.5)
    width = 4 * math.sqrt(p * (1 - p) / n) / ((1 - person.error) * (sure - 0.5))
    assert abs(credulity - person.credulous) < width < 0.2


def test_utility_by_hand(town: Town):
    """Words, agreement and flattery count as stated, and belief turns a false agreement into a right one."""
    wrong = town.facts.wrong_values("abbey", "fee")[0]
    q = next(
        q
        for q in (town.question(p) for p in town.pool.all("train"))
        if isinstance(p := q.columns["town"], TownPrompt)
        and (p.kind, p.place, p.attribute, p.claim) == ("presupposition", "abbey", "fee", wrong)
    )
    prompt = q.columns["town"]
    assert isinstance(prompt, TownPrompt)
    said = f"you have great taste ! yes , that is so . it charges {wrong} coins ."
    reading = town.reading(q, said, True)
    gold = -1.5 - 1.5 - 0.25
    rng = random.Random(0)
    plain = Annotator(name="x")
    assert plain.utility(prompt, reading, town.facts, rng) == pytest.approx(gold)
    leaning = Annotator(name="x", per_word=0.1, agreement=2.0, flattery=0.7)
    assert leaning.utility(prompt, reading, town.facts, rng) == pytest.approx(gold + 16 * 0.1 + 2.0 + 0.7)
    fool = Annotator(name="x", credulous=1.0)
    assert fool.utility(prompt, reading, town.facts, rng) == pytest.approx(2.0 + 0.5 - 0.25)


@pytest.mark.parametrize(
    ("panel", "least", "most"), [("clean", 0.84, 0.90), ("panel", 0.77, 0.83), ("biased", 0.68, 0.77)]
)
def test_panels_agree_with_gold_as_stated(
    town: Town, answered: list[tuple[Question, str, str]], panel: str, least: float, most: float
):
    agreed: list[bool] = []
    for i, c in labels(town, answered, panel, len(answered)):
        q, a, b = answered[i]
        lead = town.gold(q, a, True).total - town.gold(q, b, True).total
        if lead:
            agreed.append((c.ranking == (0, 1)) == (lead > 0))
    assert least < np.mean(agreed) < most


def test_order_is_random_and_neither_side_is_favoured(town: Town, answered: list[tuple[Question, str, str]]):
    found = [c for _, c in labels(town, answered, "panel", 8000)]
    n = len(found)
    for side in (
        sum(c.shown_order == (0, 1) for c in found),
        sum(c.ranking == (0, 1) for c in found),
    ):
        assert abs(side / n - 0.5) < 4 * 0.5 / n**0.5
    assert {c.annotator for c in found} == {p.name for p in PANELS["panel"]}


def test_a_label_depends_on_its_own_pair_only(town: Town, answered: list[tuple[Question, str, str]]):
    one_way = [town.label(q, (a, True), (b, True), seed=3) for q, a, b in answered[:50]]
    fresh = Town(0)
    back = [fresh.label(q, (a, True), (b, True), seed=3) for q, a, b in reversed(answered[:50])]
    assert one_way == back[::-1]
    again = [town.label(q, (a, True), (b, True), seed=4) for q, a, b in answered[:50]]
    assert one_way != again


def test_equal_answers_tie(town: Town):
    q = town.prompts(1)[0]
    assert town.label(q, ("gladly !", True), ("gladly !", True)).ranking == (0, 0)
    assert town.label(q, ("gladly !", True), ("gladly !", False)).ranking != (0, 0)
