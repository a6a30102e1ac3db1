"""`tastemaker audit`: what it prints and writes, its exit codes, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def pair(prompt: str, chosen: str, rejected: str, **columns: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **columns}


ROWS = [
    pair("Which dog?", "A big one.", "None."),
    pair("Which dog?", "A big one.", "None.", id="=SUM(A1)"),
    pair("Which <b>cat</b>?", "<script>alert(1)</script> grey", "The \u202eblack one."),
    pair("A", "", "x"),
]


def written(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def test_it_says_what_is_wrong_and_writes_every_row(command: Callable[..., Any]) -> None:
    done = command("audit", written("pairs.jsonl", ROWS))
    assert done.code == 0 and "2 things are wrong with these 3 comparisons" in done.out
    assert "- 1 of 3 records (33.3%) says what an earlier one says." in done.out and "pairs.jsonl:2" in done.out
    with open("audit/results.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(r["finding"], r["line"], r["id"], r["other_line"]) for r in rows] == [
        ("empty", "4", "", ""),
        ("duplicates", "2", "'=SUM(A1)", "1"),
    ]
    results = json.loads(Path("audit/results.json").read_text())
    (found,) = [f for f in results["findings"] if f["name"] == "duplicates"]
    assert found["rows"][0]["other"] == {"file": "pairs.jsonl", "line": 1, "id": ""}
    page = Path("audit/report.html").read_text()
    assert "<script>alert" not in page and "2 things are wrong" in page and "=SUM(A1)" in page
    assert "http" not in page.replace("http://www.w3.org", ""), "the page needs nothing beside it"


def test_limits_end_it_with_one_after_the_page_is_written(command: Callable[..., Any]) -> None:
    data = written("pairs.jsonl", ROWS)
    assert command("audit", data, "--max-duplicates", "0.4").code == 0
    done = command("audit", data, "--max-duplicates", "0.3", "--out", "again")
    assert done.code == 1 and "1 of 3 is more than max_duplicates=0.3 allows" in done.err
    assert "Broken limits: max_duplicates." in Path("again/report.html").read_text()
    done = command("audit", data, "--strict", "--max-dropped", "1")
    assert done.code == 1 and "max_duplicates=0" in done.err and "max_dropped" not in done.err
    clean = written("clean.jsonl", ROWS[2:3])
    assert command("audit", clean, "--strict").code == 0
    assert "Nothing is wrong" in command("audit", clean).out


def test_held_out_data_and_json(command: Callable[..., Any]) -> None:
    data, test = written("pairs.jsonl", ROWS[:1]), written("test.jsonl", [pair("Which  dog?", "A", "B")])
    done = command("audit", data, "--test", test, "--json", "--max-leaked", "0")
    assert done.code == 1 and done.out.isascii()
    results = json.loads(done.out)
    assert results["limits"]["max_leaked"] == {"limit": 0.0, "count": 1, "of": 1, "broken": True}
    done = command("audit", data, "--max-leaked", "0")
    assert done.code == 2 and "--test" in done.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "give files to audit"),
        (("pairs.jsonl", "--labels", "labels.db", "--project", "p"), "files or --labels"),
        (("--labels", "labels.db"), "go together"),
        (("--labels", "absent.db", "--project", "p"), "no such store"),
        (("pairs.jsonl", "--project", "p"), "go together"),
        (("pairs.jsonl", "--names"), "for --labels"),
        (("pairs.jsonl", "--max-alike", "2"), "between 0 and 1"),
        (("pairs.jsonl", "--near", "0"), "above 0"),
        (("pairs.jsonl", "--near", "0.01"), "too low"),
        (("pairs.jsonl", "--max-duplicate", "0"), "max-duplicates"),
        (("pairs.jsonl", "--group", "age"), "no usable row has the column age"),
        (("absent.jsonl",), "no such file"),
    ],
)
def test_what_is_refused(command: Callable[..., Any], flags: tuple[str, ...], words: str) -> None:
    written("pairs.jsonl", ROWS)
    done = command("audit", *flags)
    assert done.code in (1, 2) and words in done.err


def test_a_project_of_the_store(command: Callable[..., Any]) -> None:
    rows = [pair("p", "ab"[k], "ab"[1 - k], annotator=who) for who, k in (("ann", 0), ("bob", 0), ("eve", 1))]
    assert command("labels", "import", written("pairs.jsonl", rows), "--project", "taste").code == 0
    done = command("audit", "--labels", "labels.db", "--project", "taste", "--names")
    assert done.code == 0 and "3 annotators gave these labels" in done.out
    Path("people.csv").write_text("annotator,camp\nann,west\nbob,west\neve,east\n")
    done = command("audit", "--labels", "labels.db", "--project", "taste", "--names", "--groups", "people.csv")
    assert done.code == 0 and "By camp the labels are from west 67 % and east 33 %." in done.out
    hidden = command("audit", "--labels", "labels.db", "--project", "taste")
    assert "annotator-" in hidden.out and "ann " not in hidden.out
    page = Path("audit/report.html").read_text()
    assert "ann<" not in page and "taste:" in page and "taste/" in page, "rows are named by project and label"
    done = command("audit", "--labels", "labels.db", "--project", "absent")
    assert done.code == 1 and "absent" in done.err


def test_groups_that_differ_are_told_on_top(command: Callable[..., Any]) -> None:
    rows = [
        pair(
            f"p{i}",
            *(("a", "b") if who < "n" else ("b", "a")),
            annotator=who,
            group="early" if who < "n" else "late",
        )
        for i in range(6)
        for who in "abcwxyz"
    ]
    assert command("audit", written("pairs.jsonl", rows)).code == 0
    lede = Path("audit/report.html").read_text().partition("<nav")[0].replace("\u00a0", " ")
    assert "agree in 100 % within a group of group and in 0 % across" in lede


def test_splits_of_a_saved_folder_are_held_out(command: Callable[..., Any]) -> None:
    import datasets

    sides = {"train": ROWS[:1], "test": [pair("Which dog?", "x", "y")]}
    made = {name: datasets.Dataset.from_list(rows) for name, rows in sides.items()}
    datasets.DatasetDict(made).save_to_disk("set")
    done = command("audit", "set")
    assert done.code == 0 and "1 held-out record (100.0%) has a prompt that is in the data" in done.out
