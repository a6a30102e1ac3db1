"""The audit of a preference set: every finding provoked, counts against brute force, real records."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker.data import read_records
from tastemaker.data.audit import Part, PreferenceAudit, audit_preferences, held_against, read_groups, read_part
from tastemaker.data.audit.parts import other_splits
from tastemaker.data.rows import RawTable
from tastemaker.data.sources import rows_in_memory
from tastemaker.errors import TastemakerError
from tastemaker.functional.agreement import category_counts, krippendorff_alpha

LONG = "The quick brown fox jumps over the lazy dog while seven wizards quietly judge my vow of silence today."


def part(rows: list[dict[str, Any]] | RawTable, **reading: Any) -> Part:
    return read_part(rows_in_memory(rows) if isinstance(rows, list) else rows, **reading)


def audit(rows: list[dict[str, Any]], test: list[dict[str, Any]] | None = None, **how: Any) -> PreferenceAudit:
    columns = how.get("columns", ())
    return audit_preferences([part(rows, columns=columns)], [part(test)] if test else [], **how)


def pair(prompt: str, chosen: str, rejected: str, **columns: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **columns}


def lines(found: PreferenceAudit, name: str) -> list[int]:
    return [hit.place.line for hit in found[name].hits]


# ---------------------------------------------------------------------------------------- where rows stand


def test_rows_are_named_by_file_line_and_id(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    rows = [pair("p", "a", "b", id="first"), pair("q", "", "b", id="hollow"), pair("r", "a", "b")]
    one.write_text("\n".join(json.dumps(r) for r in rows[:2]) + "\n{broken\n" + json.dumps(rows[2]) + "\n")
    two.write_text("\n" + json.dumps(pair("p", "a", "b")) + "\n" + json.dumps(pair("r", "b", "a")) + "\n")
    found = audit_preferences([read_part(one, max_bad=0.5), read_part(two)])
    (empty,) = found["empty"].hits
    assert str(empty.place) == f"{one}:2 (hollow)" and empty.detail == "chosen"
    assert [str(h.place) for h in found["unreadable"].hits] == [f"{one}:3"]
    (again,) = found["duplicates"].hits
    assert (str(again.place), str(again.other)) == (f"{two}:2", f"{one}:1 (first)")
    (against,) = found["contradictory"].hits
    assert (str(against.place), str(against.other)) == (f"{two}:3", f"{one}:4")
    assert found["empty"].sentence() == "1 of 6 rows (16.7%) has an empty response: chosen 1."


def test_records_of_different_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TastemakerError, match="audit them apart"):
        audit([pair("p", "a", "b")], [{"prompt": "p", "completion": "a"}])


# ------------------------------------------------------------------------------------------- preferences


def test_who_says_the_opposite_decides_what_it_is() -> None:
    rows = [
        pair("p", "a", "b", annotator="ann"),
        pair("p", "b", "a", annotator="bob"),
        pair("p", "b", "a", annotator="ann"),
        pair("p", "a", "b", annotator="eve"),
        pair("q", "a", "b"),
        pair("q", "b", "a"),
    ]
    found = audit(rows)
    assert lines(found, "contradictory") == [2, 5] and lines(found, "disputed") == [1, 3]
    assert found["duplicates"].count == 0, "annotators who agree repeat nothing"
    assert found["disputed"].kind.weight == "told"


def test_annotators_of_one_row_disagree_and_resemble_nothing() -> None:
    labels = [{"preferred": 0}, {"preferred": 0}, {"preferred": 1}]
    rows = [{"prompt": LONG, "responses": [LONG + " Yes.", LONG[::-1]], "annotations": labels}]
    found = audit(rows)
    assert (found["disputed"].count, found["contradictory"].count) == (1, 0)
    assert (found["near_duplicates"].count, found["duplicates"].count) == (0, 0)
    assert found.facts["people"]["units_with_several"] == 1 and found.facts["people"]["people"] == 0


def test_rings_over_rows_and_by_one_annotator_alone() -> None:
    ring = [pair("p", "a", "b"), pair("p", "b", "c"), pair("p", "c", "a"), pair("q", "a", "b")]
    found = audit(ring)
    assert (found["cycles"].count, found["cycles"].of, found["cycles"].unit) == (1, 2, "prompts")
    assert sorted(lines(found, "cycles")) == [0, 1, 2] and found["contradictory"].count == 0
    # two against one: by majority there is no ring, but ann alone makes one
    named = [{**row, "annotator": "ann"} for row in ring]
    others = [pair("p", "a", "c", annotator=who) for who in ("bob", "eve")]
    alone = audit([*named, *others])["cycles"]
    assert alone.count == 1 and "by ann alone" in alone.hits[0].detail
    assert audit([*ring[:2], pair("p", "a", "c")])["cycles"].count == 0
    assert audit([ring[0], ring[1], {**ring[2], "objective": "tone"}])["cycles"].count == 0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=12))
def test_a_ring_is_told_where_no_order_satisfies_the_majority(edges: list[tuple[str, str]]) -> None:
    edges = [(a, b) for a, b in edges if a != b] or [("a", "b")]
    counts = Counter(edges)
    majority = [(a, b) for a, b in counts if counts[a, b] > counts[b, a]]
    possible = any(all(order.index(a) < order.index(b) for a, b in majority) for order in permutations("abcd"))
    found = audit([pair("p", a, b) for a, b in edges])["cycles"]
    assert (found.count == 0) == possible
    told = [edges[h.place.line] for h in found.hits]
    assert all(told[i][1] == told[(i + 1) % len(told)][0] for i in range(len(told)) if len(told) == 3)


# ------------------------------------------------------------------------------------------------ leakage


def test_leakage_to_the_letter_and_nearly() -> None:
    train = [pair(LONG, "a", "b"), pair("short one", "a", "b"), pair("", "alpha", "beta")]
    test = [
        pair(LONG, "b", "a"),
        pair("short  one", "a", "b"),
        pair(LONG.upper().replace(".", "!"), "x", "y"),
        pair(LONG.replace("seven", "five"), "x", "y"),
        pair("something else entirely, about other matters", "x", "y"),
        pair("", "gamma", "delta"),
    ]
    found = audit(train, test)
    assert lines(found, "leaked") == [0, 1] and [h.detail for h in found["leaked"].hits] == [
        "",
        "the whole record",
    ]
    # one word of nineteen changed: 14 of 20 triples are shared
    assert lines(found, "near_leaked") == [2] and lines(audit(train, test, similarity=0.7), "near_leaked") == [
        2,
        3,
    ]
    assert found["leaked"].of == found["near_leaked"].of == 6
    with pytest.raises(KeyError):
        audit(train)["leaked"]


def test_splits_of_one_file_are_held_apart() -> None:
    rows = [
        pair("p", "a", "b", split="train"),
        pair("q", "a", "b", split="train"),
        pair("p", "b", "a", split="test"),
        pair("s", "b", "a", split="test"),
        pair("s", "c", "d", split="test"),
    ]
    found = audit(rows)
    assert lines(found, "leaked") == [2] and found["leaked"].of == 3
    assert found["contradictory"].count == 1
    with pytest.raises(KeyError):
        audit([pair("p", "a", "b", split="train"), pair("p", "b", "a", split="train")])["leaked"]


def test_other_splits_of_a_saved_folder(tmp_path: Path) -> None:
    import datasets

    sides = {name: datasets.Dataset.from_list([pair("p", name, "b")]) for name in ("train", "test", "dev")}
    datasets.DatasetDict(sides).save_to_disk(str(tmp_path / "set"))
    assert sorted(other_splits(tmp_path / "set")) == ["dev", "test"]
    assert other_splits(tmp_path) == [] and other_splits([pair("p", "a", "b")]) == []


# ------------------------------------------------------------------------------------------------- texts


def test_sides_that_are_nearly_the_same() -> None:
    near = LONG.replace("today", "tomorrow")
    rows = [
        pair("p", "Yes, I do!", "yes i do"),
        pair("p", LONG, near),
        pair("p", "Yes.", "No."),
        pair("p", "4", "5"),
        pair("p", "我今天去学校上课", "我今天去学校上学"),
    ]
    found = audit(rows)
    assert lines(found, "alike") == [0, 1] and found["alike"].hits[0].detail == "the same words"
    assert found["alike"].hits[1].detail == "89% of word triples in common", "16 of 18"
    assert lines(audit(rows, similarity=0.5), "alike") == [0, 1, 4], "unspaced scripts are read by character"


def test_near_copies_need_near_prompts_and_near_responses() -> None:
    other = "A completely different answer that has no three words in a row with any of the others around it."
    rows = [
        pair(LONG, LONG + " one", other),
        pair(LONG + " please", LONG + " one", other),
        pair(
            LONG, "Something that was never said before in this place.", "Nor was this one here, as it seems."
        ),
        pair("What about another question here, please?", LONG + " one", other),
    ]
    found = audit(rows)
    assert lines(found, "near_duplicates") == [1] and found["near_duplicates"].hits[0].other is not None
    assert found["near_duplicates"].hits[0].other.line == 0
    assert found.facts["coverage"]["near_prompts"] == 1 and found.facts["coverage"]["prompts"] == 3


def test_other_texts_worth_a_look() -> None:
    english = "What is the best way to learn how to swim if you are afraid of the water and of the others?"
    german = (
        "Das ist nicht so einfach, aber wenn du es mit einem Freund machst und dich nicht schämst, geht es."
    )
    rows = [
        pair(english, "It is best to do that with a friend who can swim and is not afraid of it.", german),
        pair("Сколько это стоит в магазине?", "It costs three euros.", "Это стоит три евро."),
        pair("p", "caf\u00c3\u00a9", "caf\ufffd"),
        pair("p", "Say </s> now", "It is fine."),
        pair(english, f"{english} I would go with a friend.", "No."),
        pair("p", "This answer is half русский и немного длиннее чтобы было.", "Short."),
        pair("p", "A friend & a foe", "R&D"),
    ]
    found = audit(rows)
    assert lines(found, "language") == [0, 1] and found["language"].hits[0].detail == (
        "prompt in English, rejected in German"
    )
    assert lines(found, "damaged") == [2, 2] and lines(found, "control") == [3] and lines(found, "echo") == [4]
    assert lines(found, "mixed") == [5]
    assert found.facts["scripts"]["prompt"] == {"Latin": 2, "Cyrillic": 1}


# ------------------------------------------------------------------------------------------------- habits


def test_habits_of_the_chosen_side() -> None:
    rows = [pair(f"p{i}", "- one\n- two", "one two") for i in range(8)]
    rows += [pair(f"q{i}", "plain text", "**bold** text", shown_order=[1, 0]) for i in range(4)]
    bias = {b["name"]: b for b in audit(rows).facts["bias"]}
    assert (bias["a list"]["more"], bias["a list"]["less"], bias["a list"]["share"]) == (8, 0, 1.0)
    assert (bias["bold text"]["more"], bias["bold text"]["less"], bias["bold text"]["responses"]) == (0, 4, 4)
    assert (bias["shown first"]["more"], bias["shown first"]["less"]) == (0, 4)
    assert (bias["longer"]["more"], bias["longer"]["less"]) == (8, 4)
    assert 0 < bias["a list"]["low"] < 1


# ------------------------------------------------------------------------------------------------- people


def votes(people: dict[str, str], answers: dict[str, list[int]]) -> list[dict[str, Any]]:
    """Rows of what each annotator said of item 0, 1, ...: 0 for "a", 1 for "b"."""
    return [
        pair(f"p{i}", "ab"[said], "ab"[1 - said], annotator=who, camp=people[who], id=f"{who}{i}")
        for who, given_ in answers.items()
        for i, said in enumerate(given_)
    ]


def test_groups_that_differ_are_told_from_groups_that_do_not() -> None:
    people = {f"w{i}": "west" for i in range(6)} | {f"e{i}": "east" for i in range(6)}
    apart = votes(people, {who: [0 if camp == "west" else 1] * 8 for who, camp in people.items()})
    (found,) = audit(apart, columns=("camp",)).facts["groups"]
    assert (found["within"], found["across"]) == (1.0, 0.0) and found["p"] < 0.02
    (between,) = found["between"]
    assert (between["opposed"], between["pairs"], between["label_pairs"]) == (8, 8, 8 * 36)
    assert [g["people"] for g in found["groups"]] == [6, 6]
    mixed = votes(people, {who: [(k + n) % 2 for k in range(8)] for n, who in enumerate(people)})
    (found,) = audit(mixed, columns=("camp",)).facts["groups"]
    assert found["p"] > 0.2
    file_told = audit_preferences([part(mixed)], groups={w: {"camp": c} for w, c in people.items()})
    assert file_told.facts["groups"] == [found]


def test_groups_that_nobody_belongs_to_are_refused(tmp_path: Path) -> None:
    rows = [pair("p", "a", "b", annotator="ann")]
    with pytest.raises(TastemakerError, match="no usable row has the column age"):
        audit(rows, columns=("age",))
    with pytest.raises(TastemakerError, match="none of its annotators"):
        audit(rows, groups={"zoe": {"age": "30"}})
    path = tmp_path / "people.csv"
    path.write_text("annotator,age\nann,30\nann,31\n")
    with pytest.raises(TastemakerError, match=r"people.csv:3.*ann stands in an earlier row"):
        read_groups(path)
    path.write_text("annotator,age\nann,30\nbob,\n")
    assert read_groups(path) == {"ann": {"age": "30"}, "bob": {}}


# ------------------------------------------------------------------------------------------------- limits


def test_limits_hold_shares_and_strict_sets_those_that_nobody_doubts() -> None:
    rows = [pair("p", "a", "b"), pair("p", "a", "b"), pair("q", "a", ""), pair("r", LONG, LONG + " x")]
    found = audit(rows).findings
    held = held_against(found, {"max_alike": 0.5, "max_duplicates": 0.4}, strict=True)
    assert {name for name, h in held.items() if h.broken} == {"max_dropped"}
    assert held["max_dropped"].share == 0.25 and held["max_duplicates"].share == pytest.approx(1 / 3)
    assert held["max_alike"].allowed == 0.5 and held["max_cut_off"].allowed is None
    assert "max_leaked" not in held
    assert not any(h.broken for h in held_against(found, {}, strict=False).values())


# ------------------------------------------------------------------------------------------- real records


def records_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8")]


def test_the_counts_of_hh_rlhf_come_out(shared_data: Path) -> None:
    found = audit_preferences([read_part(shared_data / "hh_rlhf_harmless.jsonl.gz")])
    facts = found.facts
    (longer,) = [b for b in facts["bias"] if b["name"] == "longer"]
    counted = {
        "n": facts["rows"],
        "identical_chosen_rejected": found["identical"].count,
        "duplicate_rows": found["duplicates"].count,
        "flipped_pairs": found["contradictory"].count,
        "empty_chosen": sum(h.detail == "chosen" for h in found["empty"].hits),
        "empty_rejected": sum(h.detail == "rejected" for h in found["empty"].hits),
        "prompt_prefix_differs": found["no_shared_prompt"].count,
        "chosen_longer": longer["more"],
        "same_length": longer["equal"],
        "multi_turn": facts["coverage"]["several_turns"],
    }
    assert (counted["empty_chosen"], counted["prompt_prefix_differs"], counted["chosen_longer"]) == (2, 4, 792)
    reference = json.loads((shared_data / "published.json").read_text())["hh_rlhf_audit_reference"]
    assert counted == {name: reference[name] for name in counted}
    cut = Counter(h.detail.split()[0] for h in found["cut_off"].hits)
    assert cut["chosen"] > 2 * cut["rejected"]


def test_pandalms_annotators_agree_as_counted_from_the_columns(shared_data: Path) -> None:
    source = records_of(shared_data, "pandalm_human3")
    ranks = {0: [0, 0], 1: [0, 1], 2: [1, 0]}
    rows = [
        {
            "prompt": f"{r['instruction']}\n{r['input'] or ''}",
            "responses": [str(r["response1"]), str(r["response2"])],
            "annotations": [
                {"annotator": f"annotator{k}", "ranking": ranks[int(r[f"annotator{k}"])]} for k in (1, 2, 3)
            ],
        }
        for r in source
        if str(r["response1"]).split() != str(r["response2"]).split()
        and str(r["response1"]).strip()
        and str(r["response2"]).strip()
    ]
    # Items whose texts stand there once have three labels: they say the same whoever counts.
    texts = [
        (" ".join(r["prompt"].split()), frozenset(" ".join(t.split()) for t in r["responses"])) for r in rows
    ]
    again = Counter(texts)
    single = [r for r, t in zip(rows, texts, strict=True) if again[t] == 1]
    alone = audit(single).facts["people"]
    said = [[a["ranking"] for a in r["annotations"]] for r in single]
    raw = [sum(x == y for x, y in combinations(s, 2)) / 3 for s in said]
    assert alone["units_with_several"] == len(single) and alone["people"] == 3
    assert alone["agreement"]["raw"]["value"] == pytest.approx(sum(raw) / len(raw))
    assert alone["unanimous"] == sum(s[0] == s[1] == s[2] for s in said)
    # Alpha depends on which response is called the first only by chance: 0.87 in either order.
    counts = category_counts([[str(x) for x in s] for s in said], [str(v) for v in ranks.values()])
    assert alone["agreement"]["alpha"]["value"] == pytest.approx(krippendorff_alpha(counts), abs=0.01)
    assert alone["agreement"]["alpha"]["low"] < alone["agreement"]["alpha"]["value"]
    assert torch.equal(counts.sum(1), torch.full((len(said),), 3.0, dtype=torch.float64))


def test_llmbars_trap_is_told(shared_data: Path) -> None:
    rows = [
        pair(r["input"], r[f"output_{r['label']}"], r[f"output_{3 - r['label']}"])
        for r in records_of(shared_data, "llmbar_pairs")
    ]
    found = audit(rows)
    (longer,) = [b for b in found.facts["bias"] if b["name"] == "longer"]
    assert (longer["more"], longer["pairs"]) == (84, 326) and longer["high"] < 0.5
    assert found["duplicates"].count == found["contradictory"].count == found["cycles"].count == 0
    assert read_records(rows).kind.__name__ == found.facts["kind"]
