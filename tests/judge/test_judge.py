"""The judge: orders, ties, log-probs, the cache, and what it is like as an instrument."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from published_records import published, rows
from simulated_judges import Rule, longest, pair, verdict
from tastemaker.data import read_records, write_records
from tastemaker.errors import TastemakerError
from tastemaker.feedback.judge import (
    Answers,
    Ask,
    Judge,
    Reply,
    accuracy,
    agreement_under_swap,
    instrument,
    kappa,
    load_template,
    majority,
)
from tastemaker.types import Comparison, Message

PAIRS = [pair("a", "bb", row="1"), pair("ccc", "d", row="2"), pair("ee", "ff", row="3")]


def test_both_orders_are_shown_and_verdicts_turned_back():
    judge = Rule(longest)
    opinions = Judge(judge).judge(PAIRS)
    assert [o.ranking for o in opinions] == [(1, 0), (0, 1), (0, 0)]
    assert [o.p for o in opinions] == [0.0, 1.0, 0.5]
    assert sorted(a.responses for a in judge.asked[:2]) == [("a", "bb"), ("bb", "a")]
    found = instrument(opinions)
    assert (found.pairs, found.answers, found.ties, found.unparsed) == (3, 6, 1, 0)
    assert found.swap.value == 1.0
    assert found.first.value == 0.5
    assert found.longer.value == 1.0


def test_a_judge_that_always_takes_the_first_says_nothing_by_both_orders():
    opinions = Judge(Rule(lambda ask: verdict(ask, "A"))).judge(PAIRS)
    assert [o.ranking for o in opinions] == [(0, 0)] * 3
    found = instrument(opinions)
    assert (found.first.value, found.swap.value) == (1.0, 0.0)


def test_a_drawn_order_is_kept_and_does_not_depend_on_the_company():
    many = [pair(f"a{i}", f"b{i}") for i in range(60)]
    first = Judge(Rule(lambda ask: verdict(ask, "A")), orders="random", seed=4).label(many)
    again = Judge(Rule(lambda ask: verdict(ask, "A")), orders="random", seed=4).label(many[::-1])[::-1]
    assert [c.shown_order for c in first] == [c.shown_order for c in again]
    assert 15 < sum(c.shown_order == (0, 1) for c in first) < 45
    for comparison in first:
        assert comparison.ranking == ((0, 1) if comparison.shown_order == (0, 1) else (1, 0))
    other = Judge(Rule(lambda ask: verdict(ask, "A")), orders="random", seed=5).label(many)
    assert [c.shown_order for c in first] != [c.shown_order for c in other]


class Likely:
    """Says A with a probability that is 0.9 for the first place and 0.6 for the response "good"."""

    name = "likely"

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for index, ask in enumerate(asks):
            assert ask.logps
            p = 0.9 if ask.responses[0] == "good" else 0.55
            yield index, Reply(logps={"A": math.log(p * 0.3), "B": math.log((1 - p) * 0.3)})


def test_verdicts_by_log_probs():
    judge = Judge(Likely(), "pairwise_choice", logps=True, mean=True)
    (opinion,) = judge.judge([pair("good", "bad")])
    assert opinion.p == pytest.approx((0.9 + 0.45) / 2)
    (label,) = judge.label([pair("good", "bad")])
    assert label.ranking == (0, 1)
    assert label.strength == pytest.approx(math.log(0.675 / 0.325))
    strict = Judge(Likely(), "pairwise_choice", logps=True).judge([pair("good", "bad")])
    assert strict[0].ranking == (0, 0)  # each order named another
    with pytest.raises(TastemakerError, match="pairs alone"):
        Judge(Likely(), "pointwise", logps=True)


def test_ratings_and_rankings_of_several():
    three = Comparison(prompt="p", responses=("a", "ccc", "bb"), ranking=(0, 0, 0))
    rated = Judge(Rule(longest), "pointwise").label([three])
    assert rated[0].ranking == (2, 0, 1)
    assert rated[0].strength == 2
    assert Judge(Rule(longest), "kwise").label([three])[0].ranking == (2, 0, 1)
    first = Rule(lambda ask: verdict(ask, "A > B > C"))
    judge = Judge(first, "kwise")
    assert judge.judge([three])[0].ranking == (0, 0, 0)  # the place decides, so both orders cancel
    assert Judge(Rule(longest)).scores(["p"], [["a", "ccc", "bb"]]) == [[0.0, 1.0, 0.5]]
    same = Rule(longest)  # equal responses tie unasked, and each is beaten or not by the others alike
    for template, asked in (("pairwise", 2), ("kwise", 2), ("pointwise", 2)):
        same.asked.clear()
        (found,) = Judge(same, template).scores(["p"], [["a", "cc", "a"]])
        assert found == ([0.25, 1.0, 0.25] if template != "pointwise" else [1.0, 2.0, 1.0])
        assert len(same.asked) == asked
    assert Judge(Rule(longest)).scores(["p", "q"], [["a", "a"], ["a"]]) == [[0.5, 0.5], [None]]
    with pytest.raises(TastemakerError, match="row 7: template pairwise takes two"):
        Judge(Rule(longest)).judge([replace(three, row="7")])


def test_labels_are_ordinary_preference_data(tmp_path: Path):
    prompt = (Message("user", "hello"),)
    records = [replace(p, prompt=prompt, ranking=(0, 0)) for p in PAIRS]
    labels = Judge(Rule(longest, name="me at home"), orders="random").label(records)
    write_records(tmp_path / "labels.jsonl", labels)
    back = read_records(tmp_path / "labels.jsonl", Comparison).records
    assert list(back) == labels
    assert {c.annotator for c in labels} == {"me at home"}
    assert all(c.when and c.source == "judge pairwise.v1" and c.shown_order is not None for c in labels)


def test_unparsed_verdicts_are_counted_and_leave_no_label():
    def shy(ask: Ask) -> str:
        return "I would rather not say." if "a" in ask.responses else longest(ask)

    judge = Judge(Rule(shy))
    opinions = judge.judge(PAIRS)
    assert [o.ranking for o in opinions] == [None, (0, 1), (0, 0)]
    assert instrument(opinions).unparsed == 2
    assert len(judge.label(PAIRS)) == 2


# ------------------------------------------------------------------------------------------ answers on disk


def test_nobody_is_asked_twice_after_a_break(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    whole = Judge(Rule(longest)).label(PAIRS)
    broken = Rule(longest, stops_after=3)
    with pytest.raises(TastemakerError, match=r"went away\. 3 answers are kept in .*goes on from there"):
        Judge(broken, answers=Answers(path)).judge(PAIRS)
    with open(path, "ab") as file:
        file.write(b'{"key": "cut off by a k')
    rest = Rule(longest)
    judge = Judge(rest, answers=Answers(path))
    resumed = judge.label(PAIRS)
    assert len(broken.asked) == 3
    assert len(rest.asked) == 3
    assert not {a.responses for a in broken.asked} & {a.responses for a in rest.asked}
    assert (judge.spent.asked, judge.spent.reused, judge.spent.cost) == (3, 3, 1.5)
    assert [c.ranking for c in resumed] == [c.ranking for c in whole]
    last = Rule(longest)
    assert Judge(last, answers=Answers(path)).label(PAIRS) == resumed
    assert last.asked == []
    assert len(path.read_text().splitlines()) == 6


def test_answers_belong_to_who_was_asked_what_and_how(tmp_path: Path):
    answers = Answers(tmp_path / "answers.jsonl")
    own = tmp_path / "own.yaml"
    own.write_text(
        Path(str(load_packaged("pairwise.v1"))).read_text().replace("three sentences", "two sentences")
    )
    turns = [
        Judge(Rule(longest), answers=answers),
        Judge(Rule(longest, name="another"), answers=answers),
        Judge(Rule(longest), seed=1, answers=answers),
        Judge(Rule(longest), load_template(own), answers=answers),
        Judge(Rule(longest), principle=lambda c: ("p1", "Be kind."), answers=answers),
        Judge(Rule(longest), principle=lambda c: ("p1", "Be brief."), answers=answers),  # the same id
    ]
    for judge in turns:
        judge.judge(PAIRS[:1])
        assert (judge.spent.asked, judge.spent.reused) == (2, 0)
    given = Judge(Rule(longest), orders="given", answers=answers)
    given.judge([PAIRS[0], pair("bb", "a")])
    assert given.spent.reused == 2  # both orders of a pair are two questions, each known


def load_packaged(name: str) -> Path:
    from importlib.resources import files

    return Path(str(files("tastemaker.feedback.judge") / "templates" / f"{name}.yaml"))


def test_a_damaged_line_is_named(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    Judge(Rule(longest), answers=Answers(path)).judge(PAIRS[:1])
    lines = path.read_text().splitlines()
    path.write_text(f"{lines[0]}\n{json.dumps({'key': 'x'})}\n{lines[1]}\n")
    with pytest.raises(TastemakerError, match=r"answers\.jsonl:2: is no answer of a judge"):
        Answers(path)


def test_templates_say_what_is_wrong_with_them(tmp_path: Path):
    with pytest.raises(TastemakerError, match="there are critique, kwise"):
        load_template("pairwyse")
    own = tmp_path / "own.yaml"
    own.write_text("name: x\ntask: pairwise\ntoast: 1\nuser: |\n  {{prompt}} {{respnses}}\n")
    with pytest.raises(TastemakerError, match=r"own\.yaml: line 3: toast: no such field"):
        load_template(own)
    own.write_text("name: x\ntask: pairwise\nuser: |\n  {{prompt}} {{respnses}}\n")
    with pytest.raises(TastemakerError) as caught:
        load_template(own)
    assert "line 3: user: {{respnses}} is none of" in str(caught.value)
    assert "needs {{responses}}" in str(caught.value)


def test_what_is_filled_in_is_not_filled_in_again():
    messages, tag = load_template("pairwise").ask("{{tag}}", ("{{responses}}", "{{prompt}}"), seed=0)
    user = messages[-1].content
    assert "| {{tag}}" in user
    assert "| {{responses}}" in user
    assert user.count(tag) == 7  # three fences and the line to end with


# --------------------------------------------------------------------------------------- published figures


def test_llmbar_agreements_come_out(shared_data: Path):
    runs = rows(shared_data, "llmbar_judge_decisions")
    found = published(shared_data)["llmbar"]
    checked = 0
    for run in runs:
        expected = found.get(f"{run['subset']}|{run['evaluator']}|{run['strategy']}")
        if expected is None:
            continue
        label = [int(x) - 1 for x in run["labels"]]
        a, b = ([winner_of(w) for w in run[f"winner_{o}_order"]] for o in ("original", "swapped"))
        assert 100 * accuracy([*a, *b], [*label, *label]).value == pytest.approx(expected["acc_pct"], abs=1e-9)
        swap = agreement_under_swap(a, b)
        undecided = sum(x == y and x is None for x, y in zip(a, b, strict=True))
        both = 100 * (swap.hits + undecided) / swap.n
        assert both == pytest.approx(expected["positional_agreement_pct"], abs=1e-9)
        # the authors put every winner but 1 into one class
        quirk = kappa([0 if w == 0 else 1 for w in a], [0 if w == 0 else 1 for w in b])
        assert quirk == pytest.approx(expected["kappa_agreement"], abs=1e-12)
        checked += 1
    assert checked > 150


def winner_of(said: str | int) -> int | None:
    return {"1": 0, "2": 1, "0": -1, "Tie": -1}.get(str(said))


def test_pandalm_agreements_come_out(shared_data: Path):
    pairs = rows(shared_data, "pandalm_human3")
    found = published(shared_data)["pandalm"]
    people = [[{0: -1, 1: 0, 2: 1}[row[f"annotator{k}"]] for row in pairs] for k in (1, 2, 3)]
    for (i, j), name in (((0, 1), "1-2"), ((0, 2), "1-3"), ((1, 2), "2-3")):
        assert round(kappa(people[i], people[j]), 2) == found["cohen_kappa_published"][name]
        assert round(kappa(people[i], people[j]), 4) == found["ours"]["cohen"][name]
    votes = [majority(v) for v in zip(*people, strict=True)]
    distribution = found["label_distribution_published"]
    assert {str(k): votes.count(v) for k, v in ((0, -1), (1, 0), (2, 1))} == distribution
    gpt = [winner_of(row["judge_gpt35"]) for row in pairs]
    panda = [winner_of(row["judge_pandalm7b"]) for row in pairs]
    against = found["ours"]["acc_vs_majority"]
    assert accuracy(gpt, votes).value == pytest.approx(against["gpt-3.5 (unparsed counted wrong)"], abs=1e-6)
    assert accuracy(panda, votes).value == pytest.approx(against["pandalm-7b"], abs=1e-6)
