"""Every format people have, from every place they keep it."""

from __future__ import annotations

import csv
import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest

from tastemaker.data import read_records, write_records
from tastemaker.types import (
    Comparison,
    Demonstration,
    Judgement,
    Message,
    Question,
    StepLabels,
    TastemakerError,
)

USER, BOT = Message("user", "Hi"), Message("assistant", "Hello")


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------ formats

FORMATS = {
    "explicit": (
        {"prompt": "Q: ", "chosen": "a", "rejected": "b"},
        Comparison(prompt="Q: ", responses=("a", "b"), row="1"),
    ),
    "explicit chat": (
        {
            "prompt": chat(("user", "Hi")),
            "chosen": chat(("assistant", "a")),
            "rejected": chat(("assistant", "b")),
        },
        Comparison(prompt=(USER,), responses=("a", "b"), row="1"),
    ),
    "implicit chat": (
        {
            "chosen": chat(("user", "Hi"), ("assistant", "Hello"), ("user", "?"), ("assistant", "a")),
            "rejected": chat(("user", "Hi"), ("assistant", "Hello"), ("user", "?"), ("assistant", "b")),
        },
        Comparison(prompt=(USER, BOT, Message("user", "?")), responses=("a", "b"), row="1"),
    ),
    "implicit text": (
        {"chosen": "The sky is blue.", "rejected": "The sky is black."},
        Comparison(prompt="The sky is", responses=(" blue.", " black."), row="1"),
    ),
    "prompt as text, responses as dialogues": (
        {
            "prompt": "Hi",
            "chosen": chat(("user", "Hi"), ("assistant", "a")),
            "rejected": chat(("user", "Hi"), ("assistant", "b")),
        },
        Comparison(prompt=(USER,), responses=("a", "b"), row="1"),
    ),
    "hh": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: ?\n\nAssistant: a ",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: ?\n\nAssistant:  b",
            "id": "x7",
        },
        Comparison(prompt=(USER, BOT, Message("user", "?")), responses=("a", "b"), row="x7"),
    ),
    "hh with a prompt": (
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " a", "rejected": " b"},
        Comparison(prompt=(USER,), responses=("a", "b"), row="1"),
    ),
    "margin and annotator": (
        {
            "prompt": "p",
            "chosen": "a",
            "rejected": "b",
            "margin": 2,
            "annotator": 7,
            "source": "lab",
            "when": "now",
        },
        Comparison(
            prompt="p", responses=("a", "b"), strength=2.0, annotator="7", source="lab", when="now", row="1"
        ),
    ),
    "tie": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "tie": True},
        Comparison(prompt="p", responses=("a", "b"), ranking=(0, 0), row="1"),
    ),
    "ranked": (
        {"prompt": "p", "responses": ["a", "b", "c"], "ranking": [3, 1, 1], "shown_order": [2, 0, 1]},
        Comparison(prompt="p", responses=("a", "b", "c"), ranking=(1, 0, 0), shown_order=(2, 0, 1), row="1"),
    ),
    "scored": (
        {"prompt": "p", "responses": ["a", "b", "c"], "scores": [0.5, 9, -1]},
        Comparison(prompt="p", responses=("a", "b", "c"), ranking=(1, 0, 2), row="1"),
    ),
    "preferred index": (
        {"prompt": "p", "responses": ["a", "b"], "preferred": 1},
        Comparison(prompt="p", responses=("a", "b"), ranking=(1, 0), row="1"),
    ),
    "unpaired": (
        {"prompt": "p", "completion": "a", "label": False},
        Judgement(prompt="p", response="a", desirable=False, row="1"),
    ),
    "prompt-completion": ({"prompt": "p", "completion": "a"}, Demonstration(prompt="p", response="a", row="1")),
    "prompt-completion chat": (
        {"prompt": chat(("user", "Hi")), "completion": chat(("assistant", "Hello"))},
        Demonstration(prompt=(USER,), response="Hello", row="1"),
    ),
    "text": ({"text": "Once."}, Demonstration(prompt="", response="Once.", row="1")),
    "messages": (
        {
            "messages": chat(
                ("user", "Hi"), ("assistant", "Hello"), ("user", "Hi"), ("assistant", "Hello"), ("user", "?")
            )
        },
        Demonstration(prompt=(USER,), response=(BOT, USER, BOT), row="1"),
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        Demonstration(prompt=(USER,), response="Hello", row="1"),
    ),
    "content parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                *chat(("assistant", "Hello")),
            ]
        },
        Demonstration(prompt=(USER,), response="Hello", row="1"),
    ),
    "stepwise": (
        {"prompt": "p", "completions": ["s", "t"], "labels": [True, False]},
        StepLabels(prompt="p", steps=("s", "t"), labels=(True, False), row="1"),
    ),
    "prompt-only": (
        {"prompt": chat(("user", "Hi")), "level": 3},
        Question(prompt=(USER,), columns={"level": 3}, row="1"),
    ),
    "question-answer": (
        {"question": "1+1?", "answer": "2", "level": 3},
        Question(prompt="1+1?", answer="2", columns={"level": 3}, row="1"),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_format(name: str, tmp_path: Path) -> None:
    row, expected = FORMATS[name]
    dataset = read_records(lines(tmp_path / "d.jsonl", [row]))
    assert dataset.records == (expected,)
    assert dataset.kind is type(expected)
    assert dataset.rows == 1 and not dataset.dropped


def test_several_annotators_make_several_comparisons() -> None:
    row = {
        "prompt": "p",
        "responses": ["a", "b"],
        "annotations": [{"annotator": "x", "ranking": [0, 1]}, {"annotator": "y", "preferred": 1, "margin": 2}],
    }
    first, second = read_records([row]).records
    assert isinstance(first, Comparison) and isinstance(second, Comparison)
    assert (first.annotator, first.ranking, first.strength) == ("x", (0, 1), None)
    assert (second.annotator, second.ranking, second.strength) == ("y", (1, 0), 2.0)
    assert len(read_records([row], Question)) == 1


def test_consecutive_turns_of_one_speaker_are_joined() -> None:
    text = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: d\n\nHuman: e\n\nAssistant:"
    (record,) = read_records([{"chosen": text + " x", "rejected": text + " y"}]).records
    assert record.prompt == (Message("user", "a\n\nb"), Message("assistant", "c\n\nd"), Message("user", "e"))


# ---------------------------------------------------------------------------------------- containers

ROWS = [{"prompt": f"question {i}?", "chosen": f'good, "{i}"\n', "rejected": "bad"} for i in range(3)]


def test_every_container_gives_the_same_records(tmp_path: Path) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = read_records(ROWS).records
    files = [
        lines(tmp_path / "a.jsonl", ROWS),
        tmp_path / "a.json",
        tmp_path / "lines.json",
        tmp_path / "held.json",
    ]
    files[1].write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    files[2].write_bytes(files[0].read_bytes())
    files[3].write_text(json.dumps({"data": ROWS}, indent=1), encoding="utf-8")
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    files += [tmp_path / "a.csv", tmp_path / "a.parquet"]
    for file in list(files):
        packed = file.with_name(file.name + ".gz")
        packed.write_bytes(gzip.compress(file.read_bytes()))
        files.append(packed)
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    for source in (*files, tmp_path / "saved", datasets.Dataset.from_list(ROWS)):
        found = read_records(source)
        assert [(r.prompt, r.responses) for r in found.records] == [(r.prompt, r.responses) for r in expected]
        assert len(found.sha256) == 64
        assert found.kind is Comparison


def test_rows_are_numbered_by_line(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('\n{"text": "a"}\n\n{"text": "b"}\n')
    assert [r.row for r in read_records(tmp_path / "d.jsonl").records] == ["2", "4"]
    (tmp_path / "d.json").write_text('[\n {"text":\n "a"},\n\n {"text": "b"}]')
    assert [r.row for r in read_records(tmp_path / "d.json").records] == ["2", "5"]
    (tmp_path / "d.csv").write_text('text\n"a\na"\nb\n')
    assert [r.row for r in read_records(tmp_path / "d.csv").records] == ["2", "4"]


def test_line_separators_inside_text_do_not_end_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\x0cd"
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False), encoding="utf-8")
    assert read_records(tmp_path / "d.jsonl").records[0].response == text


def test_sha256_is_of_the_files_bytes(tmp_path: Path) -> None:
    import hashlib

    path = lines(tmp_path / "d.jsonl", ROWS)
    assert read_records(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_records(ROWS).sha256 == read_records([dict(reversed(r.items())) for r in ROWS]).sha256
    assert read_records(ROWS).sha256 != read_records(ROWS[:2]).sha256


def test_csv_holds_lists_and_numbers_as_json(tmp_path: Path) -> None:
    with open(tmp_path / "d.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "responses", "scores", "margin"])
        writer.writerow([json.dumps(chat(("user", "Hi"))), '["a", "b"]', "[1, 2]", "0.5"])
        writer.writerow([json.dumps(chat(("user", "Hi"))), '["a", "c"]', "[2, 1]", ""])
    first, second = read_records(tmp_path / "d.csv").records
    assert (first.prompt, first.ranking, first.strength) == ((USER,), (1, 0), 0.5)
    assert (second.ranking, second.strength) == ((0, 1), None)


def test_splits(tmp_path: Path) -> None:
    import datasets

    parts = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    )
    parts.save_to_disk(str(tmp_path / "saved"))
    assert len(read_records(tmp_path / "saved")) == 3
    assert len(read_records(tmp_path / "saved", split="test")) == 1
    with pytest.raises(TastemakerError, match="Did you mean 'test'"):
        read_records(tmp_path / "saved", split="tset")
    rows = [{"question": str(i), "answer": "", "split": "test" if i % 3 == 0 else "train"} for i in range(9)]
    path = lines(tmp_path / "d.jsonl", rows)
    assert [r.prompt for r in read_records(path, split="test").records] == ["0", "3", "6"]
    assert [r.prompt for r in read_records(path, split="test", limit=2).records] == ["0", "3"]
    assert len(read_records(path, limit=4)) == 4
    with pytest.raises(TastemakerError, match="test, train"):
        read_records(path, split="dev")


def test_hub_names_are_asked_for_only_where_nothing_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked: list[tuple[str, str | None]] = []

    def fake(name: str, configuration: str | None = None) -> datasets.DatasetDict:
        asked.append((name, configuration))
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", fake)
    monkeypatch.chdir(tmp_path)
    assert len(read_records("someone/pairs:main")) == 3
    assert asked == [("someone/pairs", "main")]
    (tmp_path / "someone").mkdir()
    lines(tmp_path / "someone" / "pairs.jsonl", ROWS)
    with pytest.raises(TastemakerError, match=r"Nearest in its folder: someone/pairs\.jsonl"):
        read_records("someone/pairs")
    assert len(asked) == 1


def test_a_hub_that_cannot_be_reached_is_one_clean_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def offline(name: str, configuration: str | None = None) -> None:
        raise ConnectionError("no route to\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TastemakerError, match=r"someone/pairs: .* no route to the hub .*local file"):
        read_records("someone/pairs")


# --------------------------------------------------------------------------------------- conversions


def test_conversions() -> None:
    rows = [{**ROWS[0], "level": 3}, {"prompt": "t", "chosen": "a", "rejected": "b", "tie": True}]
    questions = read_records(rows, Question).records
    assert questions[0] == Question(prompt="question 0?", columns={"level": 3}, row="0")
    assert len(questions) == 2
    demonstrations = read_records(rows, Demonstration)
    assert demonstrations.records == (Demonstration(prompt="question 0?", response='good, "0"\n', row="0"),)
    assert [(d.row, d.reason) for d in demonstrations.dropped] == [("1", "all responses tied")]
    judgements = read_records(rows, Judgement).records
    assert [(j.response.strip(), j.desirable) for j in judgements] == [('good, "0"', True), ("bad", False)]
    answered = read_records([{"question": "1+1?", "answer": "2"}], Demonstration).records
    assert answered == (Demonstration(prompt="1+1?", response="2", row="0"),)


def test_the_best_response_is_demonstrated_wherever_it_stands() -> None:
    row = {"prompt": "p", "responses": ["worst", "best", "middle"], "scores": [1, 3, 2]}
    assert read_records([row], Demonstration).records[0].response == "best"
    assert [j.desirable for j in read_records([row], Judgement).records] == [False, True, False]


def test_records_in_memory() -> None:
    pairs = [
        Comparison(prompt="p", responses=("a", "b"), row="x"),
        Comparison(prompt="p", responses=("a", "a"), row="y"),
    ]
    dataset = read_records(pairs)
    assert dataset.records == tuple(pairs[:1])
    assert [(d.row, d.reason) for d in dataset.dropped] == [("y", "identical responses")]
    assert read_records(pairs, Demonstration).records == (Demonstration(prompt="p", response="a", row="x"),)
    with pytest.raises(TastemakerError, match="these are Demonstration; Comparison needs one of Comparison"):
        read_records([Demonstration(prompt="p", response="a")], Comparison)
    with pytest.raises(TastemakerError, match=r"records\[1\]: is a Question"):
        read_records([pairs[0], Question(prompt="p"), pairs[0]])


# ----------------------------------------------------------------------------------- what teaches nothing


@pytest.mark.parametrize(
    "row,reason",
    [
        ({"prompt": "p", "chosen": " \n", "rejected": "b"}, "empty response"),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, "empty response"),
        ({"prompt": "p", "chosen": "a", "rejected": "a "}, "identical responses"),
        ({"prompt": "p", "chosen": "same", "rejected": "same", "margin": 1}, "identical responses"),
    ],
)
def test_rows_that_teach_nothing_are_dropped_and_named(row: dict, reason: str) -> None:
    dataset = read_records([ROWS[0], {**row, "id": "culprit"}])
    assert len(dataset) == 1 and dataset.rows == 2
    assert [(d.row, d.reason) for d in dataset.dropped] == [("culprit", reason)]


def test_identical_dialogues_are_dropped_as_such() -> None:
    talk = chat(("user", "Hi"), ("assistant", "a"))
    rows = [
        {"chosen": talk, "rejected": chat(("user", "Hi"), ("assistant", "b"))},
        {"chosen": talk, "rejected": talk},
    ]
    assert [(d.row, d.reason) for d in read_records(rows).dropped] == [("1", "identical responses")]
    rows = [
        {"chosen": f"\n\nHuman: a\n\nAssistant: {t}", "rejected": "\n\nHuman: a\n\nAssistant: b"} for t in "bc"
    ]
    assert [(d.row, d.reason) for d in read_records(rows).dropped] == [("0", "identical responses")]


def test_A4_dialogues_without_a_shared_prompt_are_dropped() -> None:
    same = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    texts = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: other\n\nAssistant: b"}
    dataset = read_records([same, texts])
    assert [(d.row, d.reason) for d in dataset.dropped] == [("1", "no shared prompt")]
    chats = {
        "chosen": chat(("user", "a"), ("assistant", "b")),
        "rejected": chat(("user", "z"), ("assistant", "b")),
    }
    good = {
        "chosen": chat(("user", "a"), ("assistant", "b")),
        "rejected": chat(("user", "a"), ("assistant", "c")),
    }
    assert [d.reason for d in read_records([good, chats]).dropped] == ["no shared prompt"]


def test_no_row_left_is_an_error_with_the_reasons() -> None:
    with pytest.raises(TastemakerError, match=r"none of its 1 rows can be used.*empty response: 1"):
        read_records([{"prompt": "p", "chosen": "", "rejected": "b"}])


def test_real_hh_records_run_through_as_they_are(shared_data: Path) -> None:
    """Counts published with the records: 1800 rows, 2 empty chosen, 4 without a shared prefix."""
    dataset = read_records(shared_data / "hh_rlhf_harmless.jsonl.gz")
    reasons = sorted(d.reason for d in dataset.dropped)
    assert dataset.rows == 1800 and dataset.kind is Comparison
    assert reasons == ["empty response"] * 2 + ["no shared prompt"] * 4
    assert len(dataset) == 1794
    assert all(r.prompt[-1].role == "user" for r in dataset.records)
    assert all(a.role != b.role for r in dataset.records for a, b in pairwise(r.prompt))
    by_row = {r.row: r for r in dataset.records}
    assert by_row["harmless-base-test-1798"].responses[1] == "The phone number is: 932-682-1067"


def test_real_gsm8k_has_splits_and_answers(shared_data: Path) -> None:
    train = read_records(shared_data / "gsm8k.jsonl.gz", split="train", limit=50)
    assert train.kind is Question and len(train) == 50
    assert all("####" in (r.answer or "") for r in train.records)


# ------------------------------------------------------------------------------------------- writing


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    for records in (
        [r for _, r in FORMATS.values() if isinstance(r, Comparison) and not isinstance(r.prompt, str)],
        [r for _, r in FORMATS.values() if isinstance(r, Judgement)],
        [r for _, r in FORMATS.values() if isinstance(r, StepLabels)],
        [r for _, r in FORMATS.values() if isinstance(r, Question) and isinstance(r.prompt, str)],
    ):
        write_records(tmp_path / "d.jsonl.gz", records)
        assert read_records(tmp_path / "d.jsonl.gz").records == tuple(records)
    before = (tmp_path / "d.jsonl.gz").read_bytes()
    write_records(tmp_path / "d.jsonl.gz", records)
    assert (tmp_path / "d.jsonl.gz").read_bytes() == before
