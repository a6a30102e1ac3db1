"""The store's tables. Rows of `Kept` tables are added and never changed; the ledger chains their hashes.

What changes by nature (sessions of a browser, the order of a queue) has tables of its own, apart from facts.
Times are UTC as text of one fixed form, so that they sort as they happened; what came first is told by the id.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, Float, ForeignKey, Index, Integer, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


def now() -> str:
    """This moment, UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {dict[str, Any]: JSON, list[int]: JSON, float: Float(53)}


class Kept(Base):
    """A table of facts: rows are appended, and each has its entry in the ledger."""

    __abstract__ = True

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[str] = mapped_column(String(32), default=now)


class Person(Kept):
    """Whoever labels: a person, a simulated one, a judge, or a name that came with imported labels."""

    __tablename__ = "people"
    name: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(16), default="person")


class Account(Kept):
    """What a person may do. The latest row of a person is in force."""

    __tablename__ = "accounts"
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"), index=True)
    role: Mapped[str] = mapped_column(String(16))
    password: Mapped[str] = mapped_column(Text)
    """Argon2 hash; empty where nobody can log in."""
    active: Mapped[bool]
    invite_id: Mapped[int | None] = mapped_column(ForeignKey("invites.id"), unique=True)
    """An invitation makes one account."""


class Invite(Kept):
    """A link that makes one account of this role, until it expires."""

    __tablename__ = "invites"
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    expires: Mapped[str] = mapped_column(String(32))
    by_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))


class Project(Kept):
    """A labelling job."""

    __tablename__ = "projects"
    name: Mapped[str] = mapped_column(String(64), unique=True)


class Settings(Kept):
    """How a project asks; the latest row is in force."""

    __tablename__ = "settings"
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    values: Mapped[dict[str, Any]]


class Guideline(Kept):
    """What annotators are told; judgements name the version they were given under."""

    __tablename__ = "guidelines"
    __table_args__ = (UniqueConstraint("project_id", "version"),)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    version: Mapped[int]
    text: Mapped[str] = mapped_column(Text)


class Prompt(Kept):
    """A text or a conversation that responses answer."""

    __tablename__ = "prompts"
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    content: Mapped[Any] = mapped_column(JSON)
    """Text, or a list of {"role", "content"}."""
    source: Mapped[str] = mapped_column(Text, default="")


class Response(Kept):
    """An answer to a prompt and who made it."""

    __tablename__ = "responses"
    __table_args__ = (UniqueConstraint("prompt_id", "sha256", "origin"),)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    content: Mapped[Any] = mapped_column(JSON)
    origin: Mapped[str] = mapped_column(Text, default="")
    """The run or model that wrote it; "" where nobody said."""
    weights_sha256: Mapped[str] = mapped_column(String(64), default="")
    sampling: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Item(Kept):
    """One thing to judge: a prompt and some of its responses, in the order verdicts refer to."""

    __tablename__ = "items"
    __table_args__ = (UniqueConstraint("project_id", "sha256"),)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"))
    response_ids: Mapped[list[int]]
    sha256: Mapped[str] = mapped_column(String(64))
    gold: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    """The verdict that is known to be right, of a test item; never shown to annotators."""
    name: Mapped[str] = mapped_column(String(128), default="")
    """The row's own name where it came from."""
    columns: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Further columns of that row (its category, the worth that a test world knows, ...)."""


class Assignment(Kept):
    """An item lent to a person until the lease runs out."""

    __tablename__ = "assignments"
    __table_args__ = (Index("ix_assignments_item_person", "item_id", "person_id"),)
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id"))
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"), index=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    purpose: Mapped[str] = mapped_column(String(16), default="label")
    """label, repeat (asked again for self-agreement), or adjudication."""
    shown_order: Mapped[list[int]]
    expires: Mapped[str] = mapped_column(String(32))


class Judgement(Kept):
    """What a person said of an item. Corrections are further rows that name the one they supersede."""

    __tablename__ = "judgements"
    __table_args__ = (
        UniqueConstraint("person_id", "key"),
        Index("ix_judgements_item_person", "item_id", "person_id"),
        Index("ix_judgements_project_person", "project_id", "person_id"),
    )
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id"))
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    assignment_id: Mapped[int | None] = mapped_column(ForeignKey("assignments.id"), index=True)
    guideline_id: Mapped[int | None] = mapped_column(ForeignKey("guidelines.id"))
    key: Mapped[str] = mapped_column(String(64))
    """Made by whoever submits: a retry with the same key adds nothing."""
    status: Mapped[str] = mapped_column(String(16))
    """draft, submitted, skipped, flagged or discarded."""
    purpose: Mapped[str] = mapped_column(String(16), default="label")
    verdict: Mapped[dict[str, Any]]
    reason: Mapped[str] = mapped_column(Text, default="")
    shown_order: Mapped[list[int]]
    seconds: Mapped[float]
    """From being shown to being sent, as the browser measured; never more than the server saw pass."""
    supersedes_id: Mapped[int | None] = mapped_column(ForeignKey("judgements.id"))


class Suggestion(Kept):
    """What an AI said of an item: never a judgement, always marked with its model and principle."""

    __tablename__ = "suggestions"
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id"), index=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    model: Mapped[str] = mapped_column(Text)
    principle: Mapped[str] = mapped_column(Text, default="")
    verdict: Mapped[dict[str, Any]]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Withdrawal(Kept):
    """A person's labels leave every later export of one project, or of all."""

    __tablename__ = "withdrawals"
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")


class Membership(Kept):
    """A person's group of annotators (experts, a country, ...). The latest row of a person is in force."""

    __tablename__ = "memberships"
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"), index=True)
    group: Mapped[str] = mapped_column(String(64))
    """Empty: to none."""


class Ranking(Kept):
    """Which of a project's items should be labelled first. The latest row is in force."""

    __tablename__ = "rankings"
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    by: Mapped[str] = mapped_column(Text)
    """What ranked them: a reward model and a rule."""
    details: Mapped[dict[str, Any]]
    items: Mapped[list[int]]
    """Ids, the first to be labelled first; what is not among them comes after."""


class Export(Kept):
    """A file of labels as it was written: the link from a run's data back to single labels."""

    __tablename__ = "exports"
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), index=True)
    path: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    options: Mapped[dict[str, Any]]
    judgement_ids: Mapped[list[int]]


class Entry(Base):
    """The ledger: one entry a kept row, each hashed together with the one before it."""

    __tablename__ = "ledger"
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    table: Mapped[str] = mapped_column(String(32))
    row_id: Mapped[int]
    row_sha256: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))


class Queued(Base):
    """Where an item stands in its project's queue. Follows from the facts, and changes. `priority` is from the
    latest `Ranking`, or is what was said when the item was added.
    """

    __tablename__ = "queue"
    __table_args__ = (Index("ix_queue_next", "project_id", "open", "priority", "item_id"),)
    item_id: Mapped[int] = mapped_column(ForeignKey("items.id"), primary_key=True, autoincrement=False)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    priority: Mapped[float] = mapped_column(default=0.0)
    open: Mapped[bool]
    """Whether it still wants people."""
    gold: Mapped[bool]


class Session(Base):
    """A browser that is logged in."""

    __tablename__ = "sessions"
    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"), index=True)
    expires: Mapped[str] = mapped_column(String(32))


KEPT: dict[str, type[Kept]] = {
    table.__tablename__: table
    for table in (
        *(Person, Account, Invite, Project, Settings, Guideline, Prompt, Response, Item, Assignment),
        *(Judgement, Suggestion, Withdrawal, Membership, Ranking, Export),
    )
}
"""The tables of facts by name."""
