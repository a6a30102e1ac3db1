"""Puts the pairs of a project that a reward model wants labelled in front of its queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from tastemaker.errors import TastemakerError
from tastemaker.feedback.assign import rank_queue, withdrawn
from tastemaker.feedback.items import contents_of, from_json
from tastemaker.feedback.projects import project_named
from tastemaker.feedback.selection import Rule, read_pairs, select_pairs, usual_rule
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Item, Judgement, Queued
from tastemaker.models import RoleModels
from tastemaker.types import Comparison


@dataclass(frozen=True)
class Ranked:
    """What a ranking came to."""

    items: tuple[int, ...]
    """Ids, the first to be lent first."""
    waiting: int
    """Items without any label that could have been ranked."""
    rule: Rule


def rank_items(
    store: Store, project_name: str, models: RoleModels, by: str, *, count: int = 100, rule: Rule | None = None
) -> Ranked:
    """Ranks the `count` most informative of the project's pairs that nobody has labelled, and keeps the
    ranking.

    `by` names the reward model. Labels are not read: only which items have some, since a pair like those is
    worth less.

    Raises TastemakerError: no such project, items that are no pairs, a rule that does not go with the model.
    """
    rule = rule or usual_rule(models)
    with store.reading() as session:
        project = project_named(session, project_name)
        waiting, labelled = _waiting(session, project.id)
        pool, seen = _pairs(session, waiting), _pairs(session, labelled)
    if not pool:
        raise TastemakerError(f"{project_name}: every item has a label; there is nothing to rank.")
    chosen = [waiting[i].id for i in select_pairs(models, pool, count, labelled=seen, rule=rule)]
    with store.writing() as writer:
        details = {"rule": rule, "weights": models.weights_hash("reward"), "pool": len(pool), "seen": len(seen)}
        rank_queue(writer, project.id, chosen, by, details)
    return Ranked(tuple(chosen), len(pool), rule)


def leads_of(store: Store, project_name: str, models: RoleModels) -> dict[int, float]:
    """Item -> how much better the reward model finds its first response (the mean of an ensemble's heads), of
    every pair of the project.

    Raises TastemakerError: no such project, items that are no pairs.
    """
    with store.reading() as session:
        project = project_named(session, project_name)
        items = list(session.scalars(select(Item).where(Item.project_id == project.id).order_by(Item.id)))
        pairs = _pairs(session, items)
    found = read_pairs(models, pairs, features=False)
    return {items[row].id: float(lead) for row, lead in zip(found.rows, found.leads.mean(-1), strict=True)}


def _waiting(session: Session, project_id: int) -> tuple[list[Item], list[Item]]:
    """(items without a label, items with some); test items are neither."""
    given = exists().where(Judgement.item_id == Item.id, Judgement.status == "submitted", ~withdrawn())
    mine = (
        select(Item)
        .join(Queued, Queued.item_id == Item.id)
        .where(Item.project_id == project_id, Queued.gold.is_(False))
        .order_by(Item.id)
    )
    return list(session.scalars(mine.where(~given))), list(session.scalars(mine.where(given)))


def _pairs(session: Session, items: Sequence[Item]) -> list[Comparison]:
    """Items as comparisons without an order."""
    found: list[Comparison] = []
    for item in items:
        prompt, contents = contents_of(session, item)
        responses = tuple(from_json(content) for content in contents)
        found.append(
            Comparison(
                prompt=from_json(prompt),
                responses=responses,
                ranking=(0,) * len(responses),
                row=item.name or str(item.id),
            )
        )
    return found
