"""Who gets which item next: queues, leases, test items, repeats, caps.

An item is lent to a person until the lease runs out. The people who have answered it and those who hold it
never exceed the project's overlap at the moment it is lent, because lending happens under the write lock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, exists, func, select
from sqlalchemy.orm import Session, aliased

from tastemaker.errors import TastemakerError
from tastemaker.feedback.ledger import Writer
from tastemaker.feedback.projects import ProjectSettings, item_count, settings_of
from tastemaker.feedback.tables import Assignment, Item, Judgement, Queued, Ranking, Withdrawal, now

FINAL = ("submitted", "skipped", "flagged", "discarded")
"""What ends an assignment; a draft does not."""
_REPEAT_AFTER = 5
"""Other items between an item and its repeat."""
_SCANNED = 32


@dataclass(frozen=True)
class Nothing:
    """Why there is no next item."""

    reason: Literal["done", "cap", "withdrawn"]


def next_assignment(
    writer: Writer, project_id: int, person_id: int, *, moment: str | None = None
) -> Assignment | Nothing:
    """What this person answers next: what they hold already, a test item, a repeat, or the queue's first.

    `moment`: the time, as `tables.now` writes it, for tests.
    """
    session, moment = writer.session, moment or now()
    if session.scalar(select(Withdrawal.id).where(Withdrawal.person_id == person_id).limit(1)) is not None:
        return Nothing("withdrawn")
    held = _held(session, project_id, person_id, moment)
    if held is not None:
        return held
    settings = settings_of(session, project_id)
    given = answered(session, project_id, person_id)
    if settings.cap_share is not None:
        planned = item_count(session, project_id) * settings.overlap
        if given >= math.ceil(settings.cap_share * planned):
            return Nothing("cap")
    draw = random.Random(f"{project_id} {person_id} {given}").random()
    item_id, purpose = None, "label"
    if draw < settings.gold_share:
        item_id = _unseen_gold(session, project_id, person_id)
    elif draw < settings.gold_share + settings.repeat_share:
        item_id, purpose = _to_repeat(session, project_id, person_id), "repeat"
    if item_id is None:
        item_id, purpose = _first_open(session, project_id, person_id, settings, moment), "label"
    if item_id is None:
        return Nothing("done")
    return _lend(writer, session.get_one(Item, item_id), person_id, purpose, settings, moment)


def lend(
    writer: Writer,
    item_id: int,
    person_id: int,
    purpose: str,
    *,
    order: Sequence[int] | None = None,
    moment: str | None = None,
) -> Assignment:
    """Lends one item, whatever the queue says: to decide what others disagree on, or to vote on. `order` is
    that in which its responses are shown; None shuffles them.
    """
    item = writer.session.get_one(Item, item_id)
    settings = settings_of(writer.session, item.project_id)
    return _lend(writer, item, person_id, purpose, settings, moment or now(), order)


def _lend(
    writer: Writer,
    item: Item,
    person_id: int,
    purpose: str,
    settings: ProjectSettings,
    moment: str,
    order: Sequence[int] | None = None,
) -> Assignment:
    until = datetime.fromisoformat(moment) + timedelta(seconds=settings.lease_seconds)
    shown = _order(writer.session, item, person_id, purpose) if order is None else list(order)
    return writer.add(
        Assignment(
            item_id=item.id,
            person_id=person_id,
            project_id=item.project_id,
            purpose=purpose,
            shown_order=shown,
            expires=until.isoformat(timespec="microseconds"),
            at=moment,
        )
    )


def _order(session: Session, item: Item, person_id: int, purpose: str) -> list[int]:
    """Random sides; a repeat turns the first showing round, so that habit and taste can be told apart."""
    item_id, n = item.id, len(item.response_ids)
    if purpose == "repeat":
        first = session.scalar(
            select(Assignment.shown_order)
            .where(Assignment.item_id == item_id, Assignment.person_id == person_id)
            .order_by(Assignment.id)
            .limit(1)
        )
        return list(reversed(first or range(n)))
    order = list(range(n))
    random.Random(f"order {item_id} {person_id} {purpose}").shuffle(order)
    return order


def in_force() -> ColumnElement[bool]:
    """Of judgements: no later one of the same person on the same item replaces it (drafts replace nothing)."""
    later = aliased(Judgement)
    return and_(
        Judgement.status != "draft",
        ~exists().where(
            later.item_id == Judgement.item_id,
            later.person_id == Judgement.person_id,
            later.purpose == Judgement.purpose,
            later.status != "draft",
            later.id > Judgement.id,
        ),
    )


def answered(session: Session, project_id: int, person_id: int) -> int:
    """Labels this person has given, test items and repeats included."""
    wanted = select(func.count(func.distinct(Judgement.assignment_id))).where(
        Judgement.project_id == project_id, Judgement.person_id == person_id, Judgement.status == "submitted"
    )
    return session.scalar(wanted) or 0


def _ended() -> ColumnElement[bool]:
    """Of assignments: its person has answered."""
    return exists().where(Judgement.assignment_id == Assignment.id, Judgement.status.in_(FINAL))


def _held(session: Session, project_id: int, person_id: int, moment: str) -> Assignment | None:
    return session.scalar(
        select(Assignment)
        .where(
            Assignment.project_id == project_id,
            Assignment.person_id == person_id,
            Assignment.expires > moment,
            Assignment.purpose != "adjudication",
            ~_ended(),
        )
        .order_by(Assignment.id.desc())
        .limit(1)
    )


def _unanswered_by(person_id: int) -> ColumnElement[bool]:
    """Of queued items: this person has said nothing final of it. What they let lapse may come again."""
    return ~exists().where(
        Judgement.item_id == Queued.item_id, Judgement.person_id == person_id, Judgement.status.in_(FINAL)
    )


def _unseen_gold(session: Session, project_id: int, person_id: int) -> int | None:
    return session.scalar(
        select(Queued.item_id)
        .where(Queued.project_id == project_id, Queued.gold, _unanswered_by(person_id))
        .order_by(Queued.item_id)
        .limit(1)
    )


def _to_repeat(session: Session, project_id: int, person_id: int) -> int | None:
    """The oldest of this person's labels that has not been asked again, once enough others lie between."""
    labels = list(
        session.scalars(
            select(Judgement.item_id)
            .where(
                Judgement.project_id == project_id,
                Judgement.person_id == person_id,
                Judgement.status == "submitted",
                Judgement.purpose == "label",
            )
            .order_by(Judgement.id)
        )
    )
    again = set(
        session.scalars(
            select(Assignment.item_id).where(
                Assignment.project_id == project_id,
                Assignment.person_id == person_id,
                Assignment.purpose == "repeat",
            )
        )
    )
    gold = set(session.scalars(select(Queued.item_id).where(Queued.project_id == project_id, Queued.gold)))
    old = labels[: max(0, len(labels) - _REPEAT_AFTER)]
    return next((item for item in old if item not in again and item not in gold), None)


def _first_open(
    session: Session, project_id: int, person_id: int, settings: ProjectSettings, moment: str
) -> int | None:
    """The queue's first item that this person has not answered and that is not lent out up to its overlap."""
    candidates = (
        select(Queued.item_id)
        .where(
            Queued.project_id == project_id,
            Queued.open.is_(True),
            Queued.gold.is_(False),
            _unanswered_by(person_id),
        )
        .order_by(Queued.priority.desc(), Queued.item_id)
    )
    start = 0
    while block := list(session.scalars(candidates.offset(start).limit(_SCANNED))):
        busy = _busy(session, block, moment)
        for item_id in block:
            if len(busy.get(item_id, set()) - {person_id}) < settings.overlap:
                return item_id
        start += _SCANNED
    return None


def _busy(session: Session, items: list[int], moment: str) -> dict[int, set[int]]:
    """Item -> people who have labelled it or hold it now."""
    found: dict[int, set[int]] = {}
    labelled = select(Judgement.item_id, Judgement.person_id).where(
        Judgement.item_id.in_(items),
        Judgement.status == "submitted",
        Judgement.purpose == "label",
        in_force(),
        ~withdrawn(),
    )
    holding = select(Assignment.item_id, Assignment.person_id).where(
        Assignment.item_id.in_(items),
        Assignment.expires > moment,
        Assignment.purpose == "label",
        ~_ended(),
    )
    for query in (labelled, holding):
        for item_id, person_id in session.execute(query):
            found.setdefault(item_id, set()).add(person_id)
    return found


def rank_queue(
    writer: Writer, project_id: int, items: Sequence[int], by: str, details: Mapping[str, Any] | None = None
) -> Ranking:
    """Puts items of a project in front of its queue, the first to be lent first; all others follow in the order
    they were added. `by` says what ranked them. The ranking is kept as a fact; the next one replaces it.

    Raises TastemakerError for an item that is not this project's, or one named twice.
    """
    session = writer.session
    places = {item_id: len(items) - place for place, item_id in enumerate(items)}
    queued = {q.item_id: q for q in session.scalars(select(Queued).where(Queued.project_id == project_id))}
    strange = [i for i in items if i not in queued]
    if strange or len(places) < len(items):
        raise TastemakerError(
            f"item {strange[0]}: is not in this project's queue." if strange else "an item is ranked twice."
        )
    for item_id, row in queued.items():
        row.priority = float(places.get(item_id, 0))
    session.flush()
    return writer.add(Ranking(project_id=project_id, by=by, details=dict(details or {}), items=list(items)))


def withdrawn() -> ColumnElement[bool]:
    """Of judgements: its person's labels were withdrawn."""
    return exists().where(Withdrawal.person_id == Judgement.person_id)


def refresh_queue(writer: Writer, item_id: int, overlap: int) -> None:
    """Opens or closes an item by the labels it has. Test items stay open: everybody may meet them."""
    queued = writer.session.get(Queued, item_id)
    if queued is None or queued.gold:
        return
    wanted = select(func.count(func.distinct(Judgement.person_id))).where(
        Judgement.item_id == item_id,
        Judgement.status == "submitted",
        Judgement.purpose == "label",
        in_force(),
        ~withdrawn(),
    )
    queued.open = (writer.session.scalar(wanted) or 0) < overlap
    writer.session.flush()
