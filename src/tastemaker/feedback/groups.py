"""Groups of annotators: whose taste labels are."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from tastemaker.errors import TastemakerError
from tastemaker.feedback.ledger import Writer
from tastemaker.feedback.tables import Membership, Person


def set_group(writer: Writer, name: str, group: str) -> Membership:
    """Puts a person into a group, out of the one they were in; "" into none.

    Raises TastemakerError where nobody of that name is in the store, or the group's name is too long.
    """
    person = writer.session.scalar(select(Person).where(Person.name == name))
    if person is None:
        known = ", ".join(writer.session.scalars(select(Person.name).order_by(Person.name).limit(20)))
        raise TastemakerError(f"{name}: nobody of that name is in the store; there are {known or 'none'}.")
    if len(group) > 64 or group != group.strip() or any(ord(c) < 32 for c in group):
        raise TastemakerError(f"{group!r}: a group's name has at most 64 characters, none a control character.")
    return writer.add(Membership(person_id=person.id, group=group))


def groups_of(session: Session) -> dict[str, str]:
    """Person -> their group, of everybody who is in one."""
    rows = session.execute(
        select(Person.name, Membership.group)
        .join(Membership, Membership.person_id == Person.id)
        .order_by(Membership.id)
    )
    return {name: group for name, group in dict(rows.tuples().all()).items() if group}
