"""Labels leave the store in every format that training reads, and come back as the same records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tastemaker.data import read_records
from tastemaker.data.rowfiles import alike, write_rows
from tastemaker.errors import TastemakerError
from tastemaker.feedback.exporting import ExportOptions, export, project_rows
from tastemaker.feedback.importing import fitting_settings, import_dataset
from tastemaker.feedback.items import person_named
from tastemaker.feedback.judging import record
from tastemaker.feedback.projects import ProjectSettings, create_project
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Item
from tastemaker.feedback.tracing import labels_in, withdraw
from tastemaker.types import Comparison, Demonstration, Judgement, Question, StepLabels

NAMES = ("out.jsonl", "out.jsonl.gz", "out.json", "out.csv", "out.csv.gz", "out.parquet", "folder")
PAIR = [{"prompt": "p", "responses": ["good one", "bad one"], "preferred": 0}]
CHAT = [{"role": "user", "content": "Hi"}]
# Kind of question -> what is asked of, what three people answer, the kind of record that comes out.
ASKED: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], type]] = {
    "pair": (PAIR, [{"preferred": 0}, {"preferred": 1}, {"tie": "both_bad"}], Comparison),
    "preference": (PAIR, [{"level": 2}, {"level": -1}, {"tie": "equal"}], Comparison),
    "ranking": (
        [{"prompt": "p", "responses": ["a", "b", "c"], "ranking": [0, 1, 2]}],
        [{"ranking": [0, 1, 2]}, {"ranking": [2, 0, 0]}, {"ranking": [0, 0, 0]}],
        Comparison,
    ),
    "desirable": (
        [{"prompt": CHAT, "completion": [{"role": "assistant", "content": "a"}], "label": True}],
        [{"desirable": True}, {"desirable": False}, {"desirable": True}],
        Judgement,
    ),
    "rating": (
        PAIR,
        [{"ratings": [{"quality": q}, {"quality": 3}]} for q in (5, 1, 3)],
        Comparison,
    ),
    "steps": (
        [{"prompt": "p", "completions": ["one", "two"], "labels": [True, False]}],
        [{"labels": [True, True]}, {"labels": [False, True]}, {"labels": [False, False]}],
        StepLabels,
    ),
    "text": ([{"prompt": CHAT}], [{"text": "=1+1"}, {"text": "Hello!"}, {"text": "[{"}], Demonstration),
}


def asked(store: Store, kind: str, rows: list[dict[str, Any]], answers: list[dict[str, Any]]) -> None:
    """A project whose first item three people answer."""
    with store.writing() as writer:
        settings = ProjectSettings(kind=kind, **({"axes": ("quality",)} if kind == "rating" else {}))
        project = create_project(writer, "taste", settings)
        import_dataset(writer, project, read_records(rows), labels=False)
        item = writer.session.scalar(select(Item))
        for who, answer in zip(("ann", "bob", "eve"), answers, strict=True):
            order = (1, 0) if len(item.response_ids) == 2 else tuple(range(len(item.response_ids)))
            record(writer, item, person_named(writer, who), answer, key=f"{who}-{kind}-key", shown_order=order)


@pytest.fixture
def sqlite(tmp_path: Path):
    opened = Store.open(str(tmp_path / "labels.db"))
    yield opened
    opened.close()


@pytest.mark.parametrize("kind", ASKED)
def test_every_kind_of_question_comes_back_from_every_format(sqlite: Store, tmp_path: Path, kind: str) -> None:
    rows, answers, expected = ASKED[kind]
    asked(sqlite, kind, rows, answers)
    weights = {"bob": 0.25}
    made: dict[str, Any] = {}
    for name in NAMES:
        noted = export(sqlite, "taste", tmp_path / name, ExportOptions(names=True, weights=weights))
        dataset = read_records(tmp_path / name)
        assert (dataset.kind, dataset.sha256, len(dataset)) == (expected, noted.sha256, 3), name
        told = labels_in(sqlite, dataset.sha256)
        assert told is not None and told["by"] == {"ann": 1, "bob": 1, "eve": 1}
        made[name] = dataset.records
    for name in NAMES:
        if kind == "text" and ".csv" in name:  # cells are neutralised: that is what a CSV is for
            continue
        assert made[name] == made["out.jsonl"], name
    first = made["folder"]
    if expected is Comparison:
        assert [r.annotator for r in first] == ["ann", "bob", "eve"] and all(r.shown_order for r in first)
        assert [r.weight for r in first] == [1.0, 0.25, 1.0]
        assert [len(set(r.ranking)) == 1 for r in first] == [False, False, True], "ties stay ties"
    if kind == "preference":
        assert [r.strength for r in first] == pytest.approx([1.0, 1 / 3, None])
    if expected is Judgement:
        assert [(r.desirable, r.weight) for r in first] == [(True, 1.0), (False, 0.25), (True, 1.0)]


def test_a_folder_is_imported_and_exported_again_as_it_was(sqlite: Store, tmp_path: Path) -> None:
    asked(sqlite, "preference", *ASKED["preference"][:2])
    export(sqlite, "taste", tmp_path / "folder", ExportOptions(names=True))
    with sqlite.writing() as writer:
        dataset = read_records(tmp_path / "folder")
        settings = fitting_settings(ProjectSettings(kind="preference"), dataset)
        made = import_dataset(writer, create_project(writer, "again", settings), dataset)
    assert (made.items, made.labels) == (1, 3), "chosen first: who preferred the other speaks of the same pair"
    again = project_rows(sqlite, "again", ExportOptions(names=True))
    before = read_records(tmp_path / "folder").records
    assert [(r["chosen"], r.get("tie", False), r.get("strength")) for r in again] == [
        (r.responses[0], r.ranking == (0, 0), r.strength) for r in before
    ]


@pytest.mark.parametrize("name", ["out.parquet", "folder"])
def test_every_method_finds_its_records_in_tables(sqlite: Store, tmp_path: Path, name: str) -> None:
    asked(sqlite, "pair", *ASKED["pair"][:2])
    export(sqlite, "taste", tmp_path / name, ExportOptions(weights={"ann": 0.5}))
    kinds: dict[type, Callable[[Any], object]] = {
        Comparison: lambda r: (r.responses, r.ranking, r.weight),
        Judgement: lambda r: (r.response, r.desirable, r.weight),
        Demonstration: lambda r: r.response,
        Question: lambda r: r.prompt,
    }
    found = {kind: [of(r) for r in read_records(tmp_path / name, kind).records] for kind, of in kinds.items()}
    assert found[Comparison][0] == (("good one", "bad one"), (0, 1), 0.5)
    assert found[Judgement][:2] == [("good one", True, 0.5), ("bad one", False, 0.5)]
    assert found[Demonstration] == ["good one", "bad one"] and found[Question] == ["p"] * 3


def test_one_file_keeps_to_one_format_and_style() -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "tie": True, "weight": 0.5},
        {"prompt": CHAT, "responses": [[{"role": "assistant", "content": "x"}]] * 2, "ranking": [0, 1]},
    ]
    one = alike(rows)
    assert one[0]["ranking"] == [0, 0] and one[0]["weight"] == 0.5 and "tie" not in one[0]
    assert one[0]["prompt"] == [{"role": "user", "content": "p"}]
    assert one[0]["responses"][1] == [{"role": "assistant", "content": "b"}]
    assert len(read_records(one).records) == 1, "the second one ranks a text above itself"
    plain = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    assert alike(plain) == plain


def test_a_project_of_texts_and_conversations_can_be_trained_on(sqlite: Store, tmp_path: Path) -> None:
    said = [[{"role": "assistant", "content": t}] for t in "ab"]
    with sqlite.writing() as writer:
        project = create_project(writer, "taste", ProjectSettings(kind="pair"))
        import_dataset(writer, project, read_records([{"prompt": "p", "chosen": "c", "rejected": "d"}]))
        import_dataset(
            writer, project, read_records([{"prompt": CHAT, "chosen": said[0], "rejected": said[1]}])
        )
    for name in ("out.jsonl", "folder"):
        export(sqlite, "taste", tmp_path / name)
        read = read_records(tmp_path / name)
        assert [r.responses for r in read.records] == [("c", "d"), ("a", "b")]


def test_withdrawing_writes_folders_again_and_removes_empty_ones(sqlite: Store, tmp_path: Path) -> None:
    asked(sqlite, "pair", *ASKED["pair"][:2])
    export(sqlite, "taste", tmp_path / "folder", ExportOptions(names=True))
    withdraw(sqlite, "ann", [])
    assert [r.annotator for r in read_records(tmp_path / "folder").records] == ["bob", "eve"]
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["folder"], "nothing half written is left"
    withdraw(sqlite, "bob", [])
    done = withdraw(sqlite, "eve", [])
    assert done.emptied == (str((tmp_path / "folder").resolve()),) and not (tmp_path / "folder").exists()


def test_folders_that_are_something_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(TastemakerError, match="no folder that `datasets` saved"):
        write_rows(tmp_path / "mine", [{"prompt": "p"}])
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"
    with pytest.raises(TastemakerError, match="column a: its values do not go together"):
        write_rows(tmp_path / "x.parquet", [{"a": 1}, {"a": "text"}])
    write_rows(tmp_path / "new", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    assert not list((tmp_path / "new").rglob("*.pkl"))
    state = json.loads((tmp_path / "new" / "state.json").read_text())
    assert state["_data_files"][0]["filename"].endswith(".arrow")


def test_rows_of_a_project_say_the_group_where_it_is_known(sqlite: Store) -> None:
    from tastemaker.feedback.groups import set_group

    asked(sqlite, "pair", *ASKED["pair"][:2])
    with sqlite.writing() as writer:
        set_group(writer, "ann", "experts")
    rows = project_rows(sqlite, "taste", ExportOptions())
    assert [row.get("group") for row in rows] == ["experts", None, None]
    assert not {row["annotator"] for row in rows} & {"ann", "bob", "eve"}
    with sqlite.writing() as writer:
        create_project(writer, "empty", ProjectSettings())
    with pytest.raises(TastemakerError, match="no labels yet"):
        project_rows(sqlite, "empty", ExportOptions())


def test_an_objective_comes_back_and_several_are_refused(sqlite: Store, tmp_path: Path) -> None:
    both = [
        {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}
    ]
    one = read_records([{k: v for k, v in both[0].items() if k != "better_response_id"}])
    with sqlite.writing() as writer:
        project = create_project(writer, "taste", ProjectSettings(kind="pair"))
        with pytest.raises(TastemakerError, match="several objectives"):
            import_dataset(writer, project, read_records(both))
        import_dataset(writer, project, one)
        other = read_records([{k: v for k, v in both[0].items() if k != "safer_response_id"}])
        with pytest.raises(TastemakerError, match="in helpfulness what this project compares in harmlessness"):
            import_dataset(writer, project, other)
    export(sqlite, "taste", tmp_path / "folder")
    (found,) = read_records(tmp_path / "folder").records
    assert isinstance(found, Comparison) and (found.objective, found.responses[0]) == ("harmlessness", "b")
