"""Labels on their way out: files that training takes, each noted in the store with the labels it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tastemaker.data.rowfiles import alike, endings, is_writable_name, write_rows
from tastemaker.errors import TastemakerError
from tastemaker.feedback.answers import ranking_of, strength_of
from tastemaker.feedback.assign import in_force, withdrawn
from tastemaker.feedback.groups import groups_of
from tastemaker.feedback.items import shown_texts
from tastemaker.feedback.ledger import Writer, head
from tastemaker.feedback.projects import settings_of
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Export, Item, Judgement, Person, Project, Prompt, Response

RAW = (".jsonl", ".csv")
"""Endings that everything as stored can be written under: its columns hold values of several types."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What goes into a file of labels."""

    names: bool = False
    """Annotators by name, not by a pseudonym."""
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """Annotator -> weight of their labels; 1 where nothing is said. Labels of weight 0 are left out."""
    adjudicated: bool = True
    """Where a disagreement was decided, the decision stands in place of the labels."""
    everything: bool = False
    """Raw: every judgement in force as it is stored, skips and flags too, in no format that training takes."""
    items: Sequence[int] = ()
    """Items whose labels are wanted; none: all of the project."""


@dataclass(frozen=True)
class Row:
    """One label on its way out."""

    judgement: Judgement
    person: Person
    item: Item
    values: Mapping[str, Any]


def pseudonym(store_name: str, person: str) -> str:
    """A name that stays the same within one store's exports and says nothing."""
    return "annotator-" + hashlib.blake2b(f"{store_name}\0{person}".encode(), digest_size=4).hexdigest()


def labels_in_force(session: Session, project_id: int) -> list[tuple[Judgement, Person, Item]]:
    """Submitted labels that nothing replaces and nobody withdrew, in the order they were given. Labels of test
    items and repeats are not among them: they measure the annotator.
    """
    rows = session.execute(
        select(Judgement, Person, Item)
        .join(Person, Person.id == Judgement.person_id)
        .join(Item, Item.id == Judgement.item_id)
        .where(
            Judgement.project_id == project_id,
            Judgement.status == "submitted",
            Judgement.purpose != "repeat",
            Item.gold.is_(None),
            in_force(),
            ~withdrawn(),
        )
        .order_by(Judgement.id)
    )
    return [(j, p, i) for j, p, i in rows]


def training_rows(session: Session, project: Project, options: ExportOptions) -> list[Row]:
    """Every label that training can take, as a row of the format that its kind of question gives."""
    kind = settings_of(session, project.id).kind
    found = labels_in_force(session, project.id)
    if options.items:
        wanted = set(options.items)
        found = [row for row in found if row[2].id in wanted]
    decided = (
        {j.item_id for j, _, _ in found if j.purpose == "adjudication"} if options.adjudicated else set[int]()
    )
    texts = _Texts(session, [item for _, _, item in found])
    rows: list[Row] = []
    for judgement, person, item in found:
        if item.id in decided and judgement.purpose != "adjudication":
            continue
        if judgement.purpose == "adjudication" and not options.adjudicated:
            continue
        weight = options.weights.get(person.name, 1.0)
        values = _values(kind, judgement, item, texts)
        if values is None or weight == 0:
            continue
        who = person.name if options.names else pseudonym(project.name, person.name)
        extra: dict[str, Any] = {"annotator": who, "when": judgement.at, "source": f"{project.name}"}
        if weight != 1.0:
            extra["weight"] = weight
        rows.append(Row(judgement, person, item, {**values, **extra, "id": f"{project.name}/{judgement.id}"}))
    one = alike([row.values for row in rows])
    return [replace(row, values=values) for row, values in zip(rows, one, strict=True)]


def project_rows(store: Store, name: str, options: ExportOptions) -> list[dict[str, Any]]:
    """A project's labels as they would be exported; nothing is written and nothing noted. A column `group` says
    which group of annotators each is from, where that is known.

    Raises TastemakerError: no such project, no label yet.
    """
    from tastemaker.feedback.projects import project_named

    with store.reading() as session:
        groups = groups_of(session)
        found = training_rows(session, project_named(session, name), options)
    if not found:
        raise TastemakerError(f"{name}: has no labels yet.")
    return [
        {**row.values, **({"group": group} if (group := groups.get(row.person.name)) else {})} for row in found
    ]


class _Texts:
    """Prompts and responses of many items at once."""

    def __init__(self, session: Session, items: Sequence[Item]) -> None:
        self.prompts = _by_id(session, Prompt, {i.prompt_id for i in items})
        self.responses = _by_id(session, Response, {r for i in items for r in i.response_ids})

    def of(self, item: Item) -> tuple[Any, list[Any]]:
        prompt = self.prompts[item.prompt_id].content
        return prompt, [self.responses[r].content for r in item.response_ids]


def _by_id(session: Session, table: Any, ids: set[int]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    wanted = sorted(ids)
    for start in range(0, len(wanted), 500):
        block = wanted[start : start + 500]
        found |= {row.id: row for row in session.scalars(select(table).where(table.id.in_(block)))}
    return found


def _values(kind: str, judgement: Judgement, item: Item, texts: _Texts) -> dict[str, Any] | None:
    """The columns of one label; None where its kind is for no training (spans)."""
    prompt, contents = texts.of(item)
    answer = judgement.verdict
    if kind == "desirable":
        return {"prompt": prompt, "completion": _chat(contents[0], prompt), "label": answer["desirable"]}
    if kind == "steps":
        return {"prompt": prompt, "completions": shown_texts(contents), "labels": answer["labels"]}
    if kind == "text":
        return {"prompt": prompt, "completion": _chat(answer["text"], prompt)}
    ranking = ranking_of(answer, len(contents))
    if ranking is None:
        return None
    responses = [_chat(c, prompt) for c in contents]
    shown = judgement.shown_order
    values: dict[str, Any] = {"prompt": prompt}
    objective = item.columns.get("objective")
    values |= {"objective": objective} if isinstance(objective, str) else {}
    if len(responses) == 2:
        best = 0 if ranking[0] <= ranking[1] else 1
        values |= {"chosen": responses[best], "rejected": responses[1 - best]}
        values |= {"tie": True} if ranking[0] == ranking[1] else {}
        shown = [i if best == 0 else 1 - i for i in shown]
    else:
        values |= {"responses": responses, "ranking": list(ranking)}
    if answer.get("tie") == "both_bad":
        values["both_bad"] = True
    strength = strength_of(answer)
    return values | ({"strength": strength} if strength is not None else {}) | {"shown_order": shown}


def _chat(content: Any, prompt: Any) -> Any:
    """Texts of one row are all plain or all messages."""
    if isinstance(prompt, str) or not isinstance(content, str):
        return content
    return [{"role": "assistant", "content": content}]


def raw_rows(
    session: Session, project: Project, options: ExportOptions
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(judgement id, everything known of it), of every judgement in force, whatever its status and purpose."""
    rows = session.execute(
        select(Judgement, Person, Item)
        .join(Person, Person.id == Judgement.person_id)
        .join(Item, Item.id == Judgement.item_id)
        .where(Judgement.project_id == project.id, in_force(), ~withdrawn())
        .order_by(Judgement.id)
    ).all()
    texts = _Texts(session, [item for _, _, item in rows])
    for judgement, person, item in rows:
        prompt, contents = texts.of(item)
        yield (
            judgement.id,
            {
                "id": f"{project.name}/{judgement.id}",
                "prompt": prompt,
                "responses": contents,
                "origins": [texts.responses[r].origin for r in item.response_ids],
                "answer": judgement.verdict,
                "status": judgement.status,
                "reason": judgement.reason,
                "purpose": judgement.purpose,
                "gold": item.gold,
                "annotator": person.name if options.names else pseudonym(project.name, person.name),
                "shown_order": judgement.shown_order,
                "seconds": judgement.seconds,
                "when": judgement.at,
                "item": item.name,
            },
        )


def export(store: Store, project_name: str, path: str | Path, options: ExportOptions | None = None) -> Export:
    """Writes a project's labels in the format that the path's ending says (see `data.rowfiles`), or as a folder
    that `datasets` reads, and notes in the store what it holds.

    Raises TastemakerError: no such project, no label yet, another ending, a place that cannot be written.
    """
    from tastemaker.feedback.projects import project_named

    options, path = options or ExportOptions(), Path(path)
    if not is_writable_name(path):
        raise TastemakerError(f"{path}: labels are written as {endings()}.")
    if options.everything and path.suffix not in RAW:
        raise TastemakerError(f"{path}: everything as stored is written as {' or '.join(RAW)}.")
    with store.writing() as writer:
        project = project_named(writer.session, project_name)
        if options.everything:
            made = list(raw_rows(writer.session, project, options))
        else:
            made = [(r.judgement.id, dict(r.values)) for r in training_rows(writer.session, project, options)]
        if not made:
            raise TastemakerError(f"{project_name}: has no labels to export yet.")
        digest = write_rows(path, [values for _, values in made])
        return _note(writer, project, path, digest, options, [i for i, _ in made])


def _note(
    writer: Writer, project: Project, path: Path, digest: str, options: ExportOptions, ids: list[int]
) -> Export:
    known = {**asdict(options), "ledger": head(writer.session)}
    return writer.add(
        Export(
            project_id=project.id,
            path=str(path.resolve()),
            sha256=digest,
            options=known,
            judgement_ids=ids,
        )
    )
