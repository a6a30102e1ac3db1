"""The town's texts: determinism, disjoint splits, a complete vocabulary, answers that parse."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest

from tastemaker.town import (
    IDEAL,
    KINDS,
    SLOPPY,
    SPECIAL_WORDS,
    SPLITS,
    STRATA,
    Corpus,
    ModelSize,
    Stage,
    Town,
    TownSpec,
    render,
)
from tastemaker.town.demonstrators import Demonstrator, demonstrate
from tastemaker.town.parser import split_sentences
from tastemaker.town.prompts import TownPrompt
from tastemaker.types import Demonstration, Message, Question, TastemakerError


@pytest.fixture(scope="module")
def town() -> Town:
    return Town(0)


FIXED = "eaac02f85c0b5fd90cc6967fc80f8045b2012fe77b09e55ed1f3b96f247ee805"


def text_of(record: Demonstration) -> str:
    assert isinstance(record.response, str)
    return record.response


def digest(town: Town) -> str:
    lines = [text_of(d) for d in town.documents(200, seed=3)]
    for demo in town.demonstrations(200, seed=4):
        assert isinstance(demo.prompt, tuple)
        lines.append(render(demo.prompt) + " | " + text_of(demo))
    lines += [town_prompt(q).text for s in SPLITS for q in town.prompts(100, s, seed=5)]
    demos = town.demonstrations(400, seed=6)
    questions = town.prompts(200, "train", seed=6)
    for q, a, b in zip(questions, demos[:200], demos[200:], strict=True):
        comparison = town.label(q, (text_of(a), True), (text_of(b), True), seed=7)
        lines.append(str(town.gold(q, text_of(a), True).parts))
        lines.append(f"{comparison.ranking} {comparison.annotator} {comparison.shown_order}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def town_prompt(question: Question) -> TownPrompt:
    prompt = question.columns["town"]
    assert isinstance(prompt, TownPrompt)
    return prompt


def test_same_seed_same_town_other_seed_other_town():
    assert digest(Town(0)) == digest(Town(0))
    assert digest(Town(0)) != digest(Town(1))
    assert Town(0).facts.true != Town(1).facts.true


def test_the_town_is_the_one_that_was_fixed():
    """Texts, gold, noise and biases were settled before any arm was tuned. A change of this digest means
    another world, in which figures from before mean nothing.
    """
    assert digest(Town(0, TownSpec(places=6, attributes=4, values=5))) == FIXED


def test_what_was_drawn_before_does_not_matter(town: Town):
    fresh = Town(0)
    town.documents(17, seed=1)
    town.prompts(5, "test")
    assert town.demonstrations(30, seed=2) == fresh.demonstrations(30, seed=2)
    assert town.documents(10, seed=9) == fresh.documents(30, seed=9)[:10]


def test_seeds_give_different_samples(town: Town):
    assert town.documents(20, seed=0) != town.documents(20, seed=1)
    assert town.prompts(20, "train", seed=0) != town.prompts(20, "train", seed=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_splits_share_no_prompt_text(seed: int):
    town = Town(seed)
    texts = {split: {p.text for p in town.pool.all(split)} for split in SPLITS}
    assert not texts["train"] & texts["tuning"]
    assert not texts["train"] & texts["test"]
    assert not texts["tuning"] & texts["test"]
    assert all(len(t) > 500 for t in texts.values())


def test_samples_stay_within_their_split_and_documents_within_train(town: Town):
    held_out = {p.text for split in ("tuning", "test") for p in town.pool.all(split)}
    for split in SPLITS:
        pool = {p.text for p in town.pool.all(split)}
        assert {town_prompt(q).text for q in town.prompts(800, split)} <= pool
    chats = [text_of(d) for d in town.documents(3000) if "<bot>" in text_of(d)]
    assert len(chats) > 1000
    assert not any(c.rsplit(" <bot> ", 1)[0] + " <bot>" in held_out for c in chats)
    for demo in town.demonstrations(1000):
        assert isinstance(demo.prompt, tuple)
        assert render(demo.prompt) + " <bot>" not in held_out


def test_kinds_come_in_their_shares(town: Town):
    n = 6000
    found = Counter(q.columns["kind"] for q in town.prompts(n, "train", seed=11))
    assert set(found) == set(KINDS)
    for kind in KINDS:
        share = sum(v for k, v in STRATA.items() if k.split("/")[0] == kind)
        assert abs(found[kind] / n - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_prompts_of_a_kind_do_not_repeat_before_all_have_come(town: Town):
    unsafe = [town_prompt(q).text for q in town.prompts(1000, "train") if q.columns["kind"] == "unsafe"]
    assert len(unsafe) == len(set(unsafe)) > 100


@pytest.mark.parametrize("who", [SLOPPY, IDEAL])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_demonstrated_sentence_is_recognised(who: Demonstrator, seed: int):
    town = Town(seed)
    rng = random.Random(0)
    for q in town.prompts(4000, "train", seed=2):
        answer = demonstrate(who, town.facts, town_prompt(q), rng)
        assert town.reading(q, answer, True).malformed == 0, answer


def test_vocabulary_covers_everything_that_is_said(town: Town):
    known = set(town.vocabulary()) | set(SPECIAL_WORDS)
    said: set[str] = set()
    for d in town.documents(8000, seed=21):
        said.update(text_of(d).split())
    for who in (SLOPPY, IDEAL):
        for d in town.demonstrations(3000, seed=22, who=who):
            said.update(text_of(d).split())
    for split in SPLITS:
        for q in town.prompts(3000, split, seed=23):
            said.update(town_prompt(q).text.split())
    assert said <= known
    assert len(known - said - set(SPECIAL_WORDS)) <= 3  # nothing listed that nobody says


def test_vocabulary_is_sorted_unique_and_without_marks(town: Town):
    words = town.vocabulary()
    assert words == sorted(set(words)) == Town(0).vocabulary()
    assert not set(words) & set(SPECIAL_WORDS)
    assert len(words) < 200


def test_lengths_fit_the_model(town: Town):
    prompts = [len(p.text.split()) for split in SPLITS for p in town.pool.all(split)]
    assert max(prompts) <= 34
    for who in (SLOPPY, IDEAL):
        assert max(len(text_of(d).split()) for d in town.demonstrations(4000, who=who)) < 48
    assert max(len(text_of(d).split()) for d in town.documents(4000)) < 100


def test_ideal_answers_are_worth_far_more_than_sloppy_ones(town: Town):
    questions = town.prompts(2000, "train", seed=1)
    rng = random.Random(5)

    def mean(who: Demonstrator) -> float:
        golds = [town.gold(q, demonstrate(who, town.facts, town_prompt(q), rng), True).total for q in questions]
        return sum(golds) / len(golds)

    sloppy, ideal = mean(SLOPPY), mean(IDEAL)
    assert ideal > sloppy + 2
    assert ideal > 2.2
    assert -0.6 < sloppy < 0.2


def test_the_reference_answer_of_every_question_is_good(town: Town):
    for q in town.prompts(300, "test"):
        assert q.answer is not None
        assert town.gold(q, q.answer, True).total >= 1.5


def test_sentences_are_cut_at_their_ends():
    assert split_sentences("gladly ! it opens at 9 . and then") == ["gladly !", "it opens at 9 .", "and then"]
    assert split_sentences("") == []


def test_chat_form():
    turns = (Message("user", "a ?"), Message("assistant", "b ."), Message("user", "c ?"))
    assert render(turns) == "<user> a ? <bot> b . <eos> <user> c ?"


def test_wrong_names_are_told(town: Town):
    with pytest.raises(TastemakerError, match="no split 'validation'"):
        town.prompts(1, "validation")
    with pytest.raises(TastemakerError, match="no panel 'experts'"):
        town.label(town.prompts(1)[0], ("a", True), ("b", True), panel="experts")
    with pytest.raises(TastemakerError, match="hold no TownPrompt"):
        town.gold(Question(prompt="hello"), "gladly !", True)
    with pytest.raises(TastemakerError, match=r"TownSpec\.places is 40"):
        TownSpec(places=40)
    with pytest.raises(TastemakerError, match=r"TownSpec\.panel"):
        TownSpec(panel="nobody")


def test_spec_hash_follows_every_setting():
    base = TownSpec()
    assert base.hash() == TownSpec().hash()
    others = [
        TownSpec(places=base.places + 1),
        TownSpec(values=3),
        TownSpec(panel="clean"),
        TownSpec(corpus=Corpus(notes=0.3)),
        TownSpec(model=ModelSize(layers=3)),
        TownSpec(reward=Stage(examples=10, epochs=1, batch=32, learning_rate=5e-4)),
        TownSpec(max_new_tokens=40),
    ]
    assert len({s.hash() for s in [base, *others]}) == len(others) + 1


def test_smaller_towns_work():
    town = Town(3, TownSpec(places=3, attributes=3, values=3))
    assert len(town.facts.true) == 9
    assert len(town.prompts(500, "tuning")) == 500
    assert len(town.documents(50)) == 50
