"""From labels to runs and back: which files hold a label, which runs they shaped, taking them back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tastemaker.data.rowfiles import remove_rows
from tastemaker.errors import TastemakerError
from tastemaker.feedback.assign import refresh_queue
from tastemaker.feedback.exporting import ExportOptions, export
from tastemaker.feedback.projects import settings_of
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Export, Judgement, Person, Project, Withdrawal
from tastemaker.runs import Run, contents_behind


def exports_holding(session: Session, judgement_ids: Collection[int]) -> list[Export]:
    """Files as they were written that hold one of these labels."""
    wanted = set(judgement_ids)
    found = session.scalars(select(Export).order_by(Export.id))
    return [e for e in found if wanted & set(e.judgement_ids)]


def labels_in(store: Store, sha256: str) -> dict[str, Any] | None:
    """What a file of this content holds, where it was exported from here."""
    with store.reading() as session:
        found = session.scalar(
            select(Export).where(Export.sha256 == sha256).order_by(Export.id.desc()).limit(1)
        )
        if found is None:
            return None
        project = session.get_one(Project, found.project_id)
        people = session.execute(
            select(Judgement.id, Person.name)
            .join(Person, Person.id == Judgement.person_id)
            .where(Judgement.id.in_(found.judgement_ids[:1_000]))
        )
        names = [name for _, name in people]
        counts = {name: names.count(name) for name in sorted(set(names))}
        return {
            "project": project.name,
            "labels": len(found.judgement_ids),
            "by": counts,
            "first": found.judgement_ids[:50],
        }


def runs_trained_on(runs: Sequence[Run], hashes: Collection[str]) -> list[Run]:
    """Runs whose data is one of these files or was made from one, and every run that has one of those among its
    ancestors.
    """
    affected: list[Run] = []
    weights: set[str] = set()
    for run in runs:  # oldest first: parents come before their children
        direct = any(behind in hashes for d in run.record.data for behind in contents_behind(d))
        if direct or any(p.weights_hash in weights for p in run.record.parents):
            affected.append(run)
            if run.weights_hash:
                weights.add(run.weights_hash)
    return affected


@dataclass(frozen=True)
class Withdrawn:
    """What a withdrawal came to."""

    labels: int
    exports: tuple[Export, ...]
    """Files written again without the person's labels."""
    emptied: tuple[str, ...]
    """Files that held nothing else and were removed."""
    runs: tuple[Run, ...]
    """Runs that the labels shaped; they stay as they are and should be trained again."""


def withdraw(store: Store, name: str, runs: Sequence[Run], reason: str = "") -> Withdrawn:
    """Takes a person's labels out of everything that follows: their exports are written again, their items are
    open to others, and the runs they shaped are listed. The facts stay in the store, marked as withdrawn.

    Raises TastemakerError where nobody of that name ever labelled, or they were withdrawn before.
    """
    with store.writing() as writer:
        session = writer.session
        person = session.scalar(select(Person).where(Person.name == name))
        if person is None:
            known = ", ".join(session.scalars(select(Person.name).order_by(Person.name).limit(20)))
            raise TastemakerError(f"{name}: nobody of that name is in the store; there are {known or 'none'}.")
        if session.scalar(select(Withdrawal.id).where(Withdrawal.person_id == person.id)) is not None:
            raise TastemakerError(f"{name}: was withdrawn before.")
        ids = list(session.scalars(select(Judgement.id).where(Judgement.person_id == person.id)))
        held = exports_holding(session, ids)
        writer.add(Withdrawal(person_id=person.id, reason=reason))
        items = session.execute(
            select(Judgement.item_id, Judgement.project_id).where(Judgement.person_id == person.id).distinct()
        )
        for item_id, project_id in items.all():
            refresh_queue(writer, item_id, settings_of(session, project_id).overlap)
        projects = {p.id: p.name for p in session.scalars(select(Project))}
    latest = {e.path: e for e in held}
    written: list[Export] = []
    emptied: list[str] = []
    for path, before in latest.items():
        kept = {k: v for k, v in before.options.items() if k in ExportOptions.__dataclass_fields__}
        try:
            written.append(export(store, projects[before.project_id], path, ExportOptions(**kept)))
        except TastemakerError as error:
            if "no labels" not in str(error):
                raise
            remove_rows(Path(path))
            emptied.append(path)
    affected = runs_trained_on(runs, {e.sha256 for e in held})
    return Withdrawn(len(ids), tuple(written), tuple(emptied), tuple(affected))
