"""What was put into the town's simulated annotators (noise, sides, length) is found in their labels again.

Every figure has an interval of 95 %; how many of them miss the truth is counted over seeds, and shares are
stated.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import pytest

from tastemaker.feedback.annotators import dawid_skene, leanings
from tastemaker.feedback.discernment import Vote, bradley_terry_annotators
from tastemaker.town import SLOPPY, Annotator, Town, TownPrompt
from tastemaker.town.demonstrators import demonstrate
from tastemaker.town.parser import Reading

PEOPLE = (
    Annotator(name="careful", temperature=0.4, error=0.02),
    Annotator(name="hasty", temperature=1.0, error=0.1, first_shown=0.5),
    Annotator(name="chatty", temperature=0.6, error=0.04, per_word=0.08),
    Annotator(name="steady", temperature=0.6, error=0.04),
    Annotator(name="coin", temperature=8.0, error=0.3),
)
WITHOUT_LENGTH = tuple(person for person in PEOPLE if not person.per_word)
"""A taste for length cannot be told from quality by labels alone."""


@dataclass(frozen=True)
class Pair:
    prompt: TownPrompt
    sides: tuple[Reading, Reading]
    gold: tuple[float, float]


@pytest.fixture(scope="module")
def town() -> Town:
    return Town(0)


@pytest.fixture(scope="module")
def pairs(town: Town) -> list[Pair]:
    """Answers of a sloppy crowd, in twos."""
    rng, found = random.Random(5), []
    for question in town.prompts(2400, "train", seed=9):
        prompt = question.columns["town"]
        assert isinstance(prompt, TownPrompt)
        texts = [demonstrate(SLOPPY, town.facts, prompt, rng) for _ in range(2)]
        if texts[0] != texts[1]:
            sides = tuple(town.reading(question, t, True) for t in texts)
            found.append(Pair(prompt, sides, tuple(town.gold(question, t, True).total for t in texts)))
    return found


def choice(town: Town, person: Annotator, pair: Pair, rng: random.Random) -> tuple[int, bool]:
    """(which place of the two was shown first, whether it won)."""
    first = rng.randrange(2)
    worth = [person.utility(pair.prompt, side, town.facts, rng) for side in pair.sides]
    return first, person.prefers_first(worth[first], worth[1 - first], rng)


def right(person: Annotator, pairs: list[Pair]) -> float:
    """How often this person prefers what is better, by their own formula, over both orders."""
    rates = []
    for pair in pairs:
        lead, words = pair.gold[0] - pair.gold[1], pair.sides[0].words - pair.sides[1].words
        sign = 1 if lead > 0 else -1
        for side in (1, -1) if lead else ():
            own = sign * (lead + person.per_word * words) + side * person.first_shown
            p = 1 / (1 + math.exp(-own / person.temperature))
            rates.append((1 - person.error) * p + person.error / 2)
    return float(np.mean(rates))


def test_noise_sides_and_length_lie_in_their_intervals(town: Town, pairs: list[Pair]) -> None:
    """4 leanings of 3 people over 6 seeds: of 72 intervals of 95 % some 4 miss; more than 9 would by chance
    once in two hundred such tests.
    """
    missed = total = 0
    for seed in range(6):
        for person in PEOPLE[:3]:
            rng = random.Random(f"{seed} {person.name}")
            won, lead, longer = [], [], []
            for pair in pairs:
                first, first_wins = choice(town, person, pair, rng)
                won.append(first_wins)
                lead.append(pair.gold[first] - pair.gold[1 - first])
                longer.append(pair.sides[first].words - pair.sides[1 - first].words)
            found = leanings(won, lead, longer)
            t = person.temperature
            for told, put_in in (
                (found.quality, 1 / t),
                (found.position, person.first_shown / t),
                (found.length, person.per_word / t),
                (found.lapses, person.error),
            ):
                total += 1
                missed += not told.low <= put_in <= told.high
            assert found.lapses.high - found.lapses.low < 0.2
            assert found.position.high - found.position.low < 1.0, "wide enough to be useless"
            assert found.length.high - found.length.low < 0.2
    assert total == 72
    assert missed <= 9


def votes(
    town: Town, pairs: list[Pair], overlap: int, seed: int, people: tuple[Annotator, ...] = PEOPLE
) -> list[Vote]:
    rng, found = random.Random(seed), []
    for i, pair in enumerate(pairs):
        for person in rng.sample(people, overlap):
            first, first_wins = choice(town, person, pair, rng)
            zero = (first == 0) == first_wins
            found.append(Vote(i, person.name, float(zero), first == 0))
    return found


def test_reliabilities_are_found_without_any_truth(town: Town, pairs: list[Pair]) -> None:
    """900 pairs, three labels each. The model's leads are normal, the town's are not (a quarter of its pairs
    are nearly equal): accuracies come out up to 8 points high, all alike, and people in their order.
    """
    own = pairs[:900]
    truth = {person.name: right(person, own) for person in WITHOUT_LENGTH}
    off = []
    for seed in range(5):
        found = bradley_terry_annotators(votes(town, own, 3, seed, WITHOUT_LENGTH))
        for name, told in found.people.items():
            off.append(told.accuracy.value - truth[name])
        ranked = sorted(found.people, key=lambda n: -found.people[n].accuracy.value)
        assert ranked[0] in ("careful", "steady")
        assert ranked[-1] == "coin"
        hasty = found.people["hasty"].position
        assert hasty.low > 0, "the one who leans to the first shown"
        assert hasty.high > 0.45
        assert found.people["careful"].position.low < 0 < found.people["careful"].position.high
    assert max(map(abs, off)) < 0.12
    assert sum(off) / len(off) == pytest.approx(0.04, abs=0.04)


def test_scores_make_one_label_an_item_enough(town: Town, pairs: list[Pair]) -> None:
    leads = {i: pair.gold[0] - pair.gold[1] for i, pair in enumerate(pairs)}
    truth = {person.name: right(person, pairs) for person in PEOPLE}
    missed = 0
    for seed in range(6):
        found = bradley_terry_annotators(votes(town, pairs, 1, seed), leads)
        for name, told in found.people.items():
            missed += not told.accuracy.low <= truth[name] <= told.accuracy.high
            assert told.accuracy.high - told.accuracy.low < 0.12
    assert missed <= 4, "of 30 intervals of 95 %"
    with pytest.raises(ValueError, match="two votes"):
        bradley_terry_annotators(votes(town, pairs, 1, 0))


def simulated(
    seed: int, items: int, overlap: int, panel: dict[str, tuple[float, float]]
) -> tuple[list[Vote], np.ndarray]:
    """Votes drawn from the model itself."""
    rng = np.random.default_rng(seed)
    lead = rng.normal(size=items)
    found = []
    for i in range(items):
        for who in rng.choice(list(panel), overlap, replace=False):
            b, g = panel[str(who)]
            first = bool(rng.random() < 0.5)
            p = 1 / (1 + math.exp(-(b * lead[i] + (g if first else -g))))
            found.append(Vote(i, str(who), float(rng.random() < p), first))
    return found, lead


PANEL = {"ann": (3.0, 0.0), "bob": (1.5, 0.5), "eve": (0.7, -0.4), "zoe": (4.0, 0.0), "coin": (0.0, 0.0)}


def test_the_model_finds_itself_at_the_stated_rate() -> None:
    """Of 100 intervals of sharpness and of position some 5 miss; more than 11 would once in a hundred tests."""
    missed = {"sharpness": 0, "position": 0}
    for seed in range(20):
        given, _ = simulated(seed, 300, 3, PANEL)
        for who, told in bradley_terry_annotators(given).people.items():
            for name, put_in in zip(missed, PANEL[who], strict=True):
                interval = getattr(told, name)
                missed[name] += not interval.low <= put_in <= interval.high
    assert max(missed.values()) <= 11


def test_hard_items_are_told_from_careless_people() -> None:
    """Everybody is as sharp, half of the items are nearly equal: who met those is not thought that much less
    of.
    """
    rng = np.random.default_rng(0)
    given, labels = [], []
    for i in range(600):
        hard = i % 2 == 0
        lead = float(rng.normal()) * (0.15 if hard else 1.4)
        for who in ("met hard ones" if hard else "met easy ones", *(f"other {k}" for k in range(9))):
            first = float(rng.random() < 1 / (1 + math.exp(-3 * lead)))
            given.append(Vote(i, str(who), first))
            labels.append((i, str(who), str(int(first))))
    people = bradley_terry_annotators(given).people
    ours = people["met easy ones"].accuracy.value - people["met hard ones"].accuracy.value
    crowd = dawid_skene(labels).accuracy
    assert abs(ours) < 0.75 * abs(crowd["met easy ones"] - crowd["met hard ones"])


def test_consensus_weighs_the_sharp_more() -> None:
    given, lead = simulated(1, 500, 3, PANEL)
    found = bradley_terry_annotators(given)
    ours = [(found.answers[i] > 0.5) == (lead[i] > 0) for i in range(500)]
    votes_of = [[v.score for v in given if v.item == i] for i in range(500)]
    crowd = [(sum(v) / len(v) > 0.5) == (lead[i] > 0) for i, v in enumerate(votes_of)]
    assert sum(ours) > sum(crowd) + 10


def test_ties_and_those_who_err_on_purpose() -> None:
    given, _ = simulated(
        2, 300, 3, {"ann": (3.0, 0.0), "bob": (3.0, 0.0), "not": (-3.0, 0.0), "zoe": (3.0, 0.0)}
    )
    people = bradley_terry_annotators(given).people
    assert people["not"].accuracy.high < 0.3
    assert people["ann"].accuracy.low > 0.7
    tied = [v._replace(score=0.5) for v in given]
    assert abs(bradley_terry_annotators(tied).people["ann"].sharpness.value) < 1.0
    with pytest.raises(ValueError, match="scores from 0 to 1"):
        bradley_terry_annotators([Vote(0, "ann", 2.0)])
    with pytest.raises(ValueError, match="not all 0"):
        bradley_terry_annotators(given, dict.fromkeys(range(300), 0.0))
