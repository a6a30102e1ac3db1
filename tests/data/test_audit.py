"""What texts say by themselves: every finding provoked, intervals against other ways to them, real counts."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tastemaker.data import Audit, audit_texts, read_records, write_records
from tastemaker.data.measures import length_bias, lengths
from tastemaker.types import Comparison, Demonstration, Judgement, Message, Question, Record, StepLabels


def found(rows: list[Any], held_out: list[Any] | None = None, **reading: Any) -> Audit:
    return audit_texts(read_records(rows, **reading), read_records(held_out) if held_out else None)


def row(prompt: str, chosen: str, rejected: str, **columns: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **columns}


def dialogue(*turns: str, answer: str) -> str:
    asked = "".join(f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {t}" for i, t in enumerate(turns))
    return f"{asked}\n\nAssistant: {answer}"


# ------------------------------------------------------------------------------------- single texts


def test_empty_sides_are_told_apart() -> None:
    rows = [
        row("p", "", "b", id="no chosen"),
        row("p", "a", " \n", id="no rejected"),
        row("p", "", "", id="neither"),
        row("p", "a", "b"),
    ]
    audit = found(rows)
    assert audit.dropped["empty response"].rows == ("no chosen", "no rejected", "neither")
    assert audit.empty["chosen"].rows == ("no chosen", "neither")
    assert audit.empty["rejected"].rows == ("no rejected", "neither")
    assert (audit.rows, audit.usable) == (4, 1)
    single = found([{"prompt": "p", "completion": ""}, {"prompt": "p", "completion": "a"}])
    assert single.empty == {"response": single.dropped["empty response"]}


def test_identical_and_unshared_rows_are_named() -> None:
    good = dialogue("Hi", answer="yes")
    rows = [
        {"chosen": good, "rejected": dialogue("Hi", answer="no")},
        {"chosen": good, "rejected": good + " \n", "id": "same"},
        {"chosen": good, "rejected": dialogue("Ho", answer="something longer"), "id": "other prompt"},
    ]
    audit = found(rows)
    assert audit.identical.rows == ("same",)
    assert audit.no_shared_prompt.rows == ("other prompt",)
    # The lengths of dropped rows are known all the same: 3 against 2, 3 against 3, 3 against 16.
    assert audit.length_bias is not None
    bias = audit.length_bias
    assert (bias.longer, bias.shorter, bias.equal, bias.pairs) == (1, 1, 1, 3)
    assert audit.lengths["rejected"].max == 16


def test_prompts_that_are_empty_repeated_or_of_several_turns() -> None:
    question = "What is the capital of France?"
    rows = [
        row("", "alpha", "beta", id="nothing asked"),
        row(question, f"{question} It is Paris.", "Lyon.", id="echo"),
        row("Hi", "Hi there", "Go", id="short, so no echo"),
        row("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "d", "e", id="three turns"),
    ]
    audit = found(rows[:3])
    assert audit.empty_prompts.rows == ("nothing asked",)
    assert audit.repeats_prompt.rows == ("echo",)
    assert audit.several_turns == 0 and audit.prompts == 3
    assert found(rows[3:]).several_turns == 1


def test_text_that_looks_like_control_tokens() -> None:
    texts = [
        "<|im_end|>",
        "a </s> b",
        "[INST]",
        "<start_of_turn>",
        "x < y > z",
        "a [list] of <b>tags</b>",
        "<|x",
    ]
    audit = found([row("p", text, f"other {i}", id=str(i)) for i, text in enumerate(texts)])
    assert audit.control.rows == ("0", "1", "2", "3")
    assert dict(audit.control_texts) == {"<|im_end|>": 1, "</s>": 1, "[INST]": 1, "<start_of_turn>": 1}
    chat = [{"role": "user", "content": "say <|eot_id|>"}, {"role": "assistant", "content": "no"}]
    assert found([{"messages": chat}]).control.count == 1


def test_what_breaks_the_format_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row("p", "a", "b")) + "\n{broken\n" + json.dumps(row("p", "c", "d")) + "\n")
    audit = audit_texts(read_records(path, max_bad=0.5))
    assert audit.skipped.rows == (f"{path}:2",) and audit.rows == 3
    assert json.loads(json.dumps(audit.to_json()))["skipped"]["count"] == 1


# ------------------------------------------------------------------------------------- several rows


def test_repeats_are_found_whatever_the_white_space() -> None:
    rows = [
        row("Which  dog?", "A big one.", "None."),
        row("Which dog?", "A big\n one.", "None. "),
        row("Which dog?", "A big one.", "Nothing."),
        row("which dog?", "A big one.", "None."),
        {
            "prompt": [{"role": "user", "content": "Which dog?"}],
            "chosen": [{"role": "assistant", "content": "A big one."}],
            "rejected": [{"role": "assistant", "content": "None."}],
        },
    ]
    audit = found(rows[:4])
    assert audit.duplicates.rows == (("1", "0"),) and audit.contradictory.count == 0
    assert audit.prompts == 2
    same = audit_texts(read_records(rows[4:]), read_records(rows[:4]))
    assert same.leakage is not None
    assert same.leakage.prompts.count == 3 and same.leakage.whole.count == 2


def test_the_opposite_of_an_earlier_row() -> None:
    rows = [
        row("p", "a", "b"),
        row("p", "b", "a"),
        row("q", "b", "a"),
        row("p", "a", "c"),
        row("p", "a", "b"),
        row("p", "b", "a", tie=True),
    ]
    audit = found(rows)
    assert audit.contradictory.rows == (("1", "0"), ("4", "1"))
    assert audit.duplicates.rows == (("4", "0"),) and audit.labels == {"ordered": 5, "tied": 1}


def test_rankings_contradict_by_their_pairs() -> None:
    rows = [
        {"prompt": "p", "responses": ["a", "b", "c"], "ranking": [0, 1, 2]},
        {"prompt": "p", "responses": ["c", "a", "b"], "ranking": [2, 0, 1]},
        {"prompt": "p", "responses": ["b", "c"], "ranking": [0, 1]},
        {"prompt": "p", "responses": ["c", "a"], "ranking": [0, 1]},
    ]
    audit = found(rows)
    assert audit.duplicates.rows == (("1", "0"),)
    assert audit.contradictory.rows == (("3", "0"),)
    assert audit.length_bias is not None and audit.length_bias.pairs == 8


def test_annotators_may_agree_but_not_disagree() -> None:
    labels = [{"preferred": 0}, {"preferred": 0}, {"preferred": 1}]
    audit = found([{"prompt": "p", "responses": ["a", "b"], "annotations": labels, "id": "r"}])
    assert (audit.rows, audit.usable, audit.duplicates.count) == (1, 3, 0)
    assert audit.contradictory.rows == (("r/2", "r/0"),)


def test_other_kinds_repeat_and_contradict() -> None:
    good = enumerate((True, True, False))
    audit = found([Judgement(prompt="p", response="a", desirable=d, row=str(i)) for i, d in good])
    assert audit.labels == {"desirable": 2, "undesirable": 1} and set(audit.lengths) >= set(audit.labels)
    assert audit.duplicates.rows == (("1", "0"),) and audit.contradictory.rows == (("2", "0"),)
    asked = [Question(prompt="p", answer=a, row=str(i)) for i, a in enumerate(("4", "4", "5", None))]
    audit = found(asked)
    assert audit.labels == {"with an answer": 3, "without an answer": 1}
    assert audit.duplicates.rows == (("1", "0"),) and audit.contradictory.rows == (("2", "0"),)
    steps = [
        StepLabels(prompt="p", steps=("a", "b"), labels=labels, row=str(i))
        for i, labels in enumerate(((True, True), (True, True), (True, False)))
    ]
    audit = found(steps)
    assert audit.labels == {"right steps": 5, "wrong steps": 1}
    assert audit.duplicates.rows == (("1", "0"),) and audit.contradictory.rows == (("2", "0"),)
    shown = [Demonstration(prompt="", response=t, row=str(i)) for i, t in enumerate(("x", "y", "x"))]
    audit = found(shown)
    assert audit.duplicates.rows == (("2", "0"),) and audit.contradictory.count == 0 and audit.prompts == 2


def test_leakage_by_prompt_and_whole() -> None:
    train = [row("p", "a", "b"), row("q", "a", "b"), row("", "alpha", "beta")]
    test = [row("p", "b", "a"), row("q", "a", "b"), row("r", "a", "b"), row("", "gamma", "delta")]
    leakage = found(train, test).leakage
    assert leakage is not None and leakage.records == 4
    assert leakage.prompts.rows == (("0", "0"), ("1", "1"))
    assert leakage.whole.rows == (("1", "1"),)
    none = found(train, test[2:]).leakage
    assert none is not None and none.prompts.count == 0 and "no prompt of" in none.to_line()
    assert found(train).leakage is None


_words = st.sampled_from(["a", "b", "c", "d e", "f"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_words, _words, _words).filter(lambda r: r[1] != r[2]), min_size=1, max_size=30))
def test_links_are_what_a_quadratic_search_finds(rows: list[tuple[str, str, str]]) -> None:
    audit = found([row(*r) for r in rows])
    twice = [i for i, r in enumerate(rows) if r in rows[:i]]
    against = [i for i, (p, c, r) in enumerate(rows) if (p, r, c) in rows[:i]]
    assert audit.duplicates.count == len(twice) and audit.contradictory.count == len(against)
    assert [int(a) for a, _ in audit.duplicates.rows] == twice[:20]
    for a, b in audit.contradictory.rows:
        (p, c, r), other = rows[int(a)], rows[int(b)]
        assert int(b) < int(a) and other == (p, r, c)


# -------------------------------------------------------------------------------------- length bias


def test_the_share_has_wilsons_interval() -> None:
    bias = length_bias([(2, 1)] * 10 + [(1, 2)] * 30 + [(1, 1)] * 5, list(range(45)))
    assert bias is not None and (bias.longer, bias.shorter, bias.equal) == (10, 30, 5)
    reference = stats.binomtest(10, 40).proportion_ci(0.95, method="wilson")
    assert bias.share == 0.25
    assert (bias.share_low, bias.share_high) == pytest.approx((reference.low, reference.high))
    certain = length_bias([(2, 1)] * 12, list(range(12)))
    reference = stats.binomtest(12, 12).proportion_ci(0.95, method="wilson")
    assert certain is not None
    assert (certain.share_low, certain.share_high) == pytest.approx((reference.low, reference.high))


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=40))
def test_the_difference_has_students_interval(sizes: list[tuple[int, int]]) -> None:
    bias = length_bias(sizes, list(range(len(sizes))))
    differences = [c - r for c, r in sizes]
    assert bias is not None and bias.mean_difference == pytest.approx(sum(differences) / len(sizes))
    if len(set(differences)) > 1:
        reference = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        assert (bias.difference_low, bias.difference_high) == pytest.approx((reference.low, reference.high))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=30),
    st.integers(2, 5),
)
def test_saying_everything_again_is_no_more_evidence(sizes: list[tuple[int, int]], times: int) -> None:
    once = length_bias(sizes, list(range(len(sizes))))
    often = length_bias(sizes * times, list(range(len(sizes))) * times)
    assert once is not None and often is not None
    for name in ("share", "share_low", "share_high", "mean_difference", "difference_low", "difference_high"):
        assert getattr(often, name) == pytest.approx(getattr(once, name)), name
    assert often.pairs == times * once.pairs


def test_what_cannot_be_said_is_none() -> None:
    assert length_bias([], []) is None
    equal = length_bias([(3, 3), (4, 4)], [0, 1])
    assert equal is not None and equal.share is None and "equally long" in equal.words("tokens")
    single = length_bias([(5, 3)], [0])
    assert single is not None and single.difference_low is None and "+2.0" in single.words("tokens")


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_percentiles_by_their_definition(values: list[int]) -> None:
    found = lengths(values)
    for share, value in ((0.5, found.p50), (0.95, found.p95)):
        assert sum(v <= value for v in values) >= math.ceil(share * len(values) - 1e-9)
        assert all(
            sum(v <= smaller for v in values) < share * len(values)
            for smaller in set(values)
            if smaller < value
        )
    assert found.max == max(values) and found.mean == pytest.approx(sum(values) / len(values))


# ------------------------------------------------------------------------------------- real records


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8")]


def test_the_counts_of_hh_rlhf_come_out(shared_data: Path) -> None:
    audit = audit_texts(read_records(shared_data / "hh_rlhf_harmless.jsonl.gz"))
    assert audit.length_bias is not None
    counted = {
        "n": audit.rows,
        "identical_chosen_rejected": audit.identical.count,
        "duplicate_rows": audit.duplicates.count,
        "flipped_pairs": audit.contradictory.count,
        "empty_chosen": audit.empty["chosen"].count,
        "empty_rejected": audit.empty["rejected"].count if "rejected" in audit.empty else 0,
        "prompt_prefix_differs": audit.no_shared_prompt.count,
        "chosen_longer": audit.length_bias.longer,
        "same_length": audit.length_bias.equal,
        "multi_turn": audit.several_turns,
    }
    assert (counted["n"], counted["empty_chosen"], counted["prompt_prefix_differs"]) == (1800, 2, 4)
    assert counted["chosen_longer"] == 792
    reference = json.loads((shared_data / "published.json").read_text())["hh_rlhf_audit_reference"]
    assert counted == {name: reference[name] for name in counted}


def test_llmbar_as_counted_from_its_columns(shared_data: Path) -> None:
    rows = rows_of(shared_data, "llmbar_pairs")
    pairs = [(r["input"], r[f"output_{r['label']}"], r[f"output_{3 - r['label']}"]) for r in rows]
    audit = found([row(*p) for p in pairs])
    assert audit.length_bias is not None and audit.usable == len(rows) == 326
    differences = [len(c.strip()) - len(r.strip()) for _, c, r in pairs]
    assert audit.length_bias.longer == sum(d > 0 for d in differences) == 84
    assert audit.length_bias.mean_difference == pytest.approx(sum(differences) / 326)
    assert audit.prompts == len({" ".join(p.split()) for p, _, _ in pairs})
    assert audit.duplicates.count == audit.contradictory.count == audit.identical.count == 0


def test_pandalms_first_annotator_as_counted_from_the_columns(shared_data: Path, tmp_path: Path) -> None:
    rows = [r for r in rows_of(shared_data, "pandalm_human3") if str(r["annotator1"]) in "12"]
    rows = [r for r in rows if isinstance(r["response1"], str) and isinstance(r["response2"], str)]
    records: list[Record] = []
    empty: Counter[str] = Counter()
    usable: list[tuple[str, str, str]] = []
    for r in rows:
        best = int(r["annotator1"])
        texts = (r["instruction"] + "\n" + (r["input"] or ""), r[f"response{best}"], r[f"response{3 - best}"])
        records.append(Comparison(prompt=texts[0], responses=texts[1:], row=str(r["idx"])))
        empty.update(
            side for side, text in zip(("chosen", "rejected"), texts[1:], strict=True) if not text.strip()
        )
        if texts[1].strip() and texts[2].strip():
            usable.append(tuple(" ".join(t.split()) for t in texts))  # pyright: ignore
    path = tmp_path / "pairs.jsonl.gz"
    write_records(path, records)
    audit = audit_texts(read_records(path))
    assert {side: rows.count for side, rows in audit.empty.items()} == dict(empty)
    assert audit.duplicates.count == len(usable) - len(set(usable)) > 0
    against = sum((p, r, c) in usable[:i] for i, (p, c, r) in enumerate(usable))
    assert audit.contradictory.count == against
    assert audit.length_bias is not None
    longer = sum(len(r.responses[0].strip()) > len(r.responses[1].strip()) for r in records)  # pyright: ignore
    assert audit.length_bias.longer == longer


def test_a_conversations_length_is_what_the_assistant_says() -> None:
    said = (Message("assistant", " four "), Message("user", "and then?"), Message("assistant", "five!"))
    audit = found([Comparison(prompt=(Message("user", "Hi"),), responses=(said, "x"))])
    assert audit.lengths["chosen"].max == len("four") + len("five!")
