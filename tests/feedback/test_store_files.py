"""Labels in and out: every format, the same labels back, cells no spreadsheet runs, lineage, withdrawal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import select

from tastemaker.data import read_records
from tastemaker.errors import TastemakerError
from tastemaker.feedback.exporting import ExportOptions, export
from tastemaker.feedback.importing import fitting_settings, import_dataset
from tastemaker.feedback.items import person_named
from tastemaker.feedback.judging import record
from tastemaker.feedback.projects import ProjectSettings, create_project, project_named
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Item, Project
from tastemaker.feedback.tables import Judgement as Said
from tastemaker.feedback.tracing import labels_in, runs_trained_on, withdraw
from tastemaker.runs import Parent, Run, Source
from tastemaker.types import Comparison, Demonstration, Judgement, StepLabels

CHAT = [{"role": "user", "content": "Hi"}]


def bring(store: Store, rows: Sequence[dict], name: str = "taste", **settings) -> None:
    dataset = read_records(list(rows))
    with store.writing() as writer:
        wanted = fitting_settings(ProjectSettings(**settings), dataset)
        import_dataset(writer, create_project(writer, name, wanted), dataset)


def out(store: Store, path: Path, name: str = "taste", **options) -> list[dict]:
    export(store, name, path, ExportOptions(**options))
    return [json.loads(line) for line in path.read_text().splitlines()]


A, B = ([{"role": "assistant", "content": said}] for said in "ab")
ROWS = {
    "pairs": [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "c", "rejected": "d"}],
    "chat": [{"prompt": CHAT, "chosen": A, "rejected": B}],
    "dialogue": [{"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Hi\n\nAssistant: b"}],
    "ties": [{"prompt": "p", "chosen": "a", "rejected": "b", "tie": True}],
    "ranked": [{"prompt": "p", "responses": ["a", "b", "c"], "ranking": [2, 0, 1]}],
    "annotators": [
        {
            "prompt": "p",
            "responses": ["a", "b"],
            "annotations": [{"annotator": "ann", "preferred": 0}, {"annotator": "bob", "preferred": 1}],
        }
    ],
    "unpaired": [
        {"prompt": "p", "completion": "a", "label": True},
        {"prompt": "p", "completion": "b", "label": False},
    ],
    "steps": [{"prompt": "p", "completions": ["one", "two"], "labels": [True, False]}],
}


@pytest.mark.parametrize("name", ROWS)
def test_what_comes_in_goes_out_as_the_same_records(store: Store, tmp_path: Path, name: str) -> None:
    before = read_records(list(ROWS[name])).records
    bring(store, ROWS[name])
    path = tmp_path / "out.jsonl"
    export(store, "taste", path, ExportOptions(names=True))
    after = read_records(path).records
    assert len(after) == len(before)
    for a, b in zip(before, after, strict=True):
        assert type(a) is type(b) and a.prompt == b.prompt
        if isinstance(a, Comparison) and isinstance(b, Comparison):
            ranks = dict(zip(a.responses, a.ranking, strict=True))
            assert dict(zip(b.responses, b.ranking, strict=True)) == ranks
            assert not a.annotator or b.annotator == a.annotator
        elif isinstance(a, Judgement) and isinstance(b, Judgement):
            assert (a.response, a.desirable) == (b.response, b.desirable)
        elif isinstance(a, StepLabels) and isinstance(b, StepLabels):
            assert (a.steps, a.labels) == (b.steps, b.labels)


def test_annotators_who_disagree_speak_of_one_item(store: Store, tmp_path: Path) -> None:
    """Files put what was preferred first: the same pair comes in two orders."""
    one = {"prompt": "p", "chosen": "a", "rejected": "b", "annotator": "ann", "shown_order": [1, 0]}
    other = {"prompt": "p", "chosen": "b", "rejected": "a", "annotator": "bob", "shown_order": [1, 0]}
    for _ in range(2):
        dataset = read_records([one, other])
        with store.writing() as writer:
            found = writer.session.scalar(select(Project))
            made = import_dataset(writer, found or create_project(writer, "taste"), dataset)
    assert (made.items, made.labels, made.known) == (0, 0, 2)
    with store.reading() as session:
        assert len(session.scalars(select(Item)).all()) == 1
        said = {j.verdict["preferred"]: j.shown_order for j in session.scalars(select(Said))}
    assert said in ({0: [1, 0], 1: [0, 1]}, {0: [0, 1], 1: [1, 0]}) and said[0] != said[1]
    rows = out(store, tmp_path / "t.jsonl", names=True)
    assert [{k: r[k] for k in one} for r in rows] == [one, other]


def test_which_response_stands_first_says_nothing_of_what_was_preferred(store: Store) -> None:
    """Were it the preferred one, a person would always say "the first", and agreement beyond chance be none."""
    bring(store, [{"prompt": f"p {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(40)])
    with store.reading() as session:
        first = [j.verdict["preferred"] == 0 for j in session.scalars(select(Said))]
    assert 10 < sum(first) < 30


def test_importing_again_adds_nothing(store: Store) -> None:
    bring(store, ROWS["pairs"])
    with store.writing() as writer:
        project = project_named(writer.session, "taste")
        made = import_dataset(writer, project, read_records(list(ROWS["pairs"])))
    assert (made.items, made.known, made.labels) == (0, 2, 0)


def test_records_that_cannot_be_asked_are_refused(store: Store) -> None:
    with store.writing() as writer:
        project = create_project(writer, "taste", ProjectSettings(kind="steps"))
        with pytest.raises(TastemakerError, match="cannot be asked"):
            import_dataset(writer, project, read_records(list(ROWS["pairs"])))


def label(store: Store, name: str, answers: dict[str, dict], kind: str = "pair") -> None:
    """Everybody answers the project's first item."""
    with store.writing() as writer:
        item = writer.session.scalar(select(Item))
        for who, answer in answers.items():
            record(writer, item, person_named(writer, who), answer, key=f"{who}-{name}-key", shown_order=(1, 0))


def test_export_says_who_how_much_and_what_was_shown(store: Store, tmp_path: Path) -> None:
    questions = [{"prompt": "p", "responses": ["short", "long"], "preferred": 0}]
    with store.writing() as writer:
        project = create_project(writer, "taste", ProjectSettings(kind="preference"))
        import_dataset(writer, project, read_records(questions), labels=False)
    label(store, "x", {"ann": {"level": -2}, "bob": {"tie": "both_bad"}, "eve": {"level": 1}})
    ann, bob, eve = out(store, tmp_path / "a.jsonl", weights={"ann": 0.5})
    assert (ann["chosen"], ann["rejected"], ann["strength"], ann["weight"]) == ("long", "short", 1.0, 0.5)
    assert ann["shown_order"] == [0, 1], "in terms of chosen and rejected"
    assert (bob["tie"], bob["both_bad"]) == (True, True) and "weight" not in bob
    assert eve["strength"] == pytest.approx(1 / 3)
    people = {row["annotator"] for row in (ann, bob, eve)}
    assert len(people) == 3 and not people & {"ann", "bob", "eve"}
    read = [r for r in read_records(tmp_path / "a.jsonl").records if isinstance(r, Comparison)]
    assert [(r.weight, r.ranking) for r in read] == [(0.5, (0, 1)), (1.0, (0, 0)), (1.0, (0, 1))]
    named = out(store, tmp_path / "b.jsonl", names=True, weights={"ann": 0.0})
    assert [row["annotator"] for row in named] == ["bob", "eve"], "weight 0 is left out"


def test_free_text_is_a_demonstration(store: Store, tmp_path: Path) -> None:
    with store.writing() as writer:
        project = create_project(writer, "taste", ProjectSettings(kind="text"))
        import_dataset(writer, project, read_records([{"prompt": CHAT}]))
    label(store, "x", {"ann": {"text": "Hello!"}})
    out(store, tmp_path / "a.jsonl")
    (found,) = read_records(tmp_path / "a.jsonl").records
    assert isinstance(found, Demonstration) and found.response == "Hello!"


@pytest.mark.parametrize("cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1"])
def test_cells_are_no_formulas(store: Store, tmp_path: Path, cell: str) -> None:
    bring(store, [{"prompt": f"{cell} p", "chosen": f"{cell}a", "rejected": f"{cell}b"}])
    export(store, "taste", tmp_path / "a.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_bytes().decode(), newline="")))
    for name in ("prompt", "chosen", "rejected"):
        assert rows[0][name] == f"'{cell}{ {'prompt': ' p', 'chosen': 'a', 'rejected': 'b'}[name] }"
    assert read_records(tmp_path / "a.csv").kind is Comparison


def test_raw_export_holds_everything_in_force(store: Store, tmp_path: Path) -> None:
    bring(store, ROWS["pairs"])
    rows = out(store, tmp_path / "a.jsonl", everything=True)
    assert {"answer", "status", "shown_order", "seconds", "origins"} <= rows[0].keys() and len(rows) == 2


def test_nothing_to_export_and_other_endings_are_refused(store: Store, tmp_path: Path) -> None:
    with store.writing() as writer:
        create_project(writer, "taste")
    with pytest.raises(TastemakerError, match="no labels"):
        export(store, "taste", tmp_path / "a.jsonl")
    with pytest.raises(TastemakerError, match=r"\.jsonl, \.json, \.csv, \.parquet"):
        export(store, "taste", tmp_path / "a.xlsx")
    with pytest.raises(TastemakerError, match=r"everything as stored is written as \.jsonl or \.csv"):
        export(store, "taste", tmp_path / "a.parquet", ExportOptions(everything=True))


# --------------------------------------------------------------------------------- lineage, withdrawal


def run(folder: Path, *, data: str = "", parents: Sequence[Run] = ()) -> Run:
    made = Run.create(
        folder,
        method="dpo",
        settings={},
        seed=0,
        data=[Source(source="x", sha256=data, rows=1)] if data else [],
        parents=[Parent(role="policy", path=str(p.folder), weights_hash=p.weights_hash or "") for p in parents],
    )
    made.update(status="finished", hashes={"weights": folder.name * 8})
    return made


def test_labels_lead_to_every_run_they_shaped_and_can_be_withdrawn(store: Store, tmp_path: Path) -> None:
    bring(store, ROWS["annotators"])
    path, alone = tmp_path / "taste.jsonl", tmp_path / "alone.jsonl"
    held = export(store, "taste", path, ExportOptions(names=True))
    bring(store, [{**ROWS["pairs"][0], "annotator": "ann"}], name="alone")
    export(store, "alone", alone)
    parent = run(tmp_path / "parent", data=held.sha256)
    child = run(tmp_path / "child", parents=[parent])
    other = run(tmp_path / "other", data="0" * 64)
    runs = [parent, child, other]
    assert runs_trained_on(runs, {held.sha256}) == [parent, child]
    told = labels_in(store, held.sha256)
    assert told is not None and told["by"] == {"ann": 1, "bob": 1}
    done = withdraw(store, "ann", runs, "asked for it")
    assert done.labels == 2 and list(done.runs) == [parent, child] and done.emptied == (str(alone.resolve()),)
    assert not alone.exists()
    (left,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert left["annotator"] == "bob"
    assert done.exports[0].sha256 != held.sha256
    with pytest.raises(TastemakerError, match="withdrawn before"):
        withdraw(store, "ann", runs)
    with pytest.raises(TastemakerError, match="nobody of that name"):
        withdraw(store, "zoe", runs)
