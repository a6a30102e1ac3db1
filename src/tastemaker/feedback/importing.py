"""Records of every format that training reads become items, and the labels in them judgements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select

from tastemaker.data import Dataset
from tastemaker.errors import TastemakerError
from tastemaker.feedback.items import STEP, Written, add_item, person_named, to_json
from tastemaker.feedback.judging import record
from tastemaker.feedback.ledger import Writer
from tastemaker.feedback.projects import Kind, ProjectSettings, settings_of
from tastemaker.feedback.tables import Item, Project
from tastemaker.runs import sha256_json
from tastemaker.types import Comparison, Demonstration, Judgement, Message, Question, Record, StepLabels

FITTING: Mapping[type, tuple[Kind, ...]] = {
    Comparison: ("pair", "preference", "ranking", "rating", "spans", "text"),
    Judgement: ("desirable", "rating", "spans", "text"),
    Demonstration: ("desirable", "rating", "spans", "text"),
    StepLabels: ("steps",),
    Question: ("text",),
}
"""Kind of record -> questions that can be asked of it."""


OBJECTIVE = "objective"
"""Column of an item that says what its responses are compared in; exports give it back."""


@dataclass(frozen=True)
class Imported:
    """What became of a data set."""

    items: int
    known: int
    """Items that were there already."""
    labels: int
    skipped: int
    """Labels that say nothing to the project's question."""


def fitting_settings(settings: ProjectSettings, dataset: Dataset) -> ProjectSettings:
    """The settings, or the same with a kind of question that such records can be asked."""
    kinds = FITTING[dataset.kind]
    several = any(isinstance(r, Comparison) and len(r.responses) > 2 for r in dataset.records)
    kind = "ranking" if several else kinds[0]
    fits = settings.kind in kinds and not (several and settings.kind in ("pair", "preference"))
    return settings if fits else replace(settings, kind=kind)


def import_dataset(
    writer: Writer, project: Project, dataset: Dataset, *, labels: bool = True, gold: bool = False
) -> Imported:
    """Adds every record as an item; with `labels` what it says as a judgement of its annotator; with `gold`
    what it says as the known answer of a test item. Importing the same again adds nothing.

    Raises TastemakerError where records of this kind cannot be asked the project's question, or where they
    compare the same responses in several objectives: a project asks one question.
    """
    _one_objective(dataset)
    settings = settings_of(writer.session, project.id)
    if settings.kind not in FITTING[dataset.kind]:
        raise TastemakerError(
            f"{dataset.source}: holds {dataset.kind.__name__}, which cannot be asked for {settings.kind}; it "
            f"goes with {', '.join(FITTING[dataset.kind])}."
        )
    counts = {"new": 0, "known": 0, "labels": 0, "skipped": 0}
    for number, given in enumerate(dataset.records):
        each = _as_known(writer, project, given)
        answer = answer_of(each, settings)
        item, new = add_item(
            writer,
            project,
            settings,
            each.prompt,
            written_of(each),
            gold=answer if gold else None,
            name=each.row or str(number),
            source=dataset.source,
            columns=_columns(each),
        )
        counts["new" if new else "known"] += 1
        _same_objective(dataset.source, each, item)
        if not labels or gold:
            continue
        if answer is None:
            counts["skipped"] += 1
            continue
        who = each.annotator if isinstance(each, Comparison) else ""
        person = person_named(writer, (who or "imported")[:64].strip() or "imported", "imported")
        key = sha256_json([project.id, item.id, person.id, dataset.sha256, each.row or number])
        shown = each.shown_order if isinstance(each, Comparison) else None
        when = each.when if isinstance(each, Comparison) else ""
        made = record(writer, item, person, answer, key=key, shown_order=shown, at=when)
        counts["labels"] += not made.again
    return Imported(counts["new"], counts["known"], counts["labels"], counts["skipped"])


def _one_objective(dataset: Dataset) -> None:
    named = {r.objective: None for r in dataset.records if isinstance(r, Comparison)}
    if len(named) > 1:
        told = ", ".join(name or "none" for name in named)
        raise TastemakerError(
            f"{dataset.source}: compares responses in several objectives ({told}). A project asks one "
            "question: give the rows of each objective a file and a project of their own."
        )


def _same_objective(source: str, record: Record, item: Item) -> None:
    if isinstance(record, Comparison) and (item.columns or {}).get(OBJECTIVE, "") != record.objective:
        known = item.columns.get(OBJECTIVE) or "none"
        raise TastemakerError(
            f"{source}, row {record.row}: compares in {record.objective or 'no objective'} what this project "
            f"compares in {known}. Give each objective a project of its own."
        )


def _as_known(writer: Writer, project: Project, record: Record) -> Record:
    """A pair with its sides as the project's item has them; a new one's in the order of their hashes.

    Files put what was preferred first. So two annotators who disagree give one pair in two orders; and were
    that order kept, the first response would be the first annotator's choice, and chance agreement near 1.
    """
    if not isinstance(record, Comparison) or len(record.responses) != 2:
        return record
    prompt = sha256_json(to_json(record.prompt))
    sides = [sha256_json(to_json(response)) for response in record.responses]

    def known(order: list[str]) -> bool:
        same = (Item.project_id == project.id, Item.sha256 == sha256_json([prompt, order]))
        return writer.session.scalar(select(Item.id).where(*same)) is not None

    turn = known(sides[::-1]) or (sides[0] > sides[1] and len(set(record.ranking)) > 1)
    if known(sides) or not turn:
        return record
    shown = None if record.shown_order is None else tuple(1 - k for k in record.shown_order)
    return replace(record, responses=record.responses[::-1], ranking=record.ranking[::-1], shown_order=shown)


def written_of(record: Record) -> list[Written]:
    """The responses of a record."""
    if isinstance(record, Comparison):
        return [Written(content=r) for r in record.responses]
    if isinstance(record, Demonstration | Judgement):
        return [Written(content=record.response)]
    if isinstance(record, StepLabels):
        return [Written(content=tuple(Message(STEP, step) for step in record.steps))]
    return []


def answer_of(record: Record, settings: ProjectSettings) -> dict[str, Any] | None:
    """What a record says, as an answer to the project's question; None where it says nothing to it."""
    kind = settings.kind
    if isinstance(record, Judgement) and kind == "desirable":
        return {"desirable": record.desirable}
    if isinstance(record, StepLabels) and kind == "steps":
        return {"labels": list(record.labels)}
    if not isinstance(record, Comparison) or kind not in ("pair", "preference", "ranking"):
        return None
    if kind == "ranking":
        return {"ranking": list(record.ranking)}
    if len(set(record.ranking)) == 1:
        return {"tie": "equal"} if settings.ties else None
    best = record.ranking.index(0)
    if kind == "pair":
        return {"preferred": best}
    level = 1 if record.strength is None or record.strength < 2 / 3 else 2
    return {"level": level if best == 0 else -level}


def _columns(record: Record) -> dict[str, Any]:
    """Plain values that came with a row."""
    if isinstance(record, Comparison) and record.objective:
        return {OBJECTIVE: record.objective}
    if not isinstance(record, Question):
        return {}
    plain = {k: v for k, v in record.columns.items() if isinstance(v, str | int | float | bool)}
    return {**plain, **({"answer": record.answer} if record.answer is not None else {})}
