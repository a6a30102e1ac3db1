"""People, prompts, responses and items on their way into the store. What is there is found, not doubled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from tastemaker.errors import TastemakerError
from tastemaker.feedback.ledger import Writer
from tastemaker.feedback.projects import COMPARING, SINGLE, ProjectSettings
from tastemaker.feedback.tables import Item, Person, Project, Prompt, Queued, Response
from tastemaker.runs import sha256_json
from tastemaker.types import Message, Text

STEP = "step"
"""The role under which the steps of a response are kept."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A response and who wrote it."""

    content: Text
    origin: str = ""
    weights_sha256: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])


def to_json(text: Text) -> Any:
    """Text as the store keeps it."""
    return text if isinstance(text, str) else [{"role": m.role, "content": m.content} for m in text]


def from_json(content: Any) -> Text:
    """The inverse of `to_json`."""
    if isinstance(content, str):
        return content
    turns = cast(Sequence[Mapping[str, str]], content)
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def shown_texts(contents: Sequence[Any]) -> list[str]:
    """What an answer refers to by number: responses, or the steps of the one response."""
    if len(contents) == 1 and not isinstance(contents[0], str):
        turns = cast(Sequence[Mapping[str, str]], contents[0])
        if turns and all(turn["role"] == STEP for turn in turns):
            return [turn["content"] for turn in turns]
    return [c if isinstance(c, str) else "\n\n".join(t["content"] for t in c) for c in contents]


def person_named(writer: Writer, name: str, kind: str = "person") -> Person:
    """The person of that name, made where there is none. Raises TastemakerError for no proper name."""
    if not 1 <= len(name) <= 64 or any(ord(c) < 32 for c in name) or name != name.strip():
        raise TastemakerError(f"{name!r}: a name has 1 to 64 characters, none of them a control character.")
    found = writer.session.scalar(select(Person).where(Person.name == name))
    return found or writer.add(Person(name=name, kind=kind))


def add_prompt(writer: Writer, prompt: Text, source: str = "") -> Prompt:
    """The prompt of that content."""
    content = to_json(prompt)
    digest = sha256_json(content)
    found = writer.session.scalar(select(Prompt).where(Prompt.sha256 == digest))
    return found or writer.add(Prompt(sha256=digest, content=content, source=source))


def add_response(writer: Writer, prompt: Prompt, written: Written) -> Response:
    """The response of that content and origin."""
    content = to_json(written.content)
    digest = sha256_json(content)
    same = (Response.prompt_id == prompt.id, Response.sha256 == digest, Response.origin == written.origin)
    found = writer.session.scalar(select(Response).where(*same))
    return found or writer.add(
        Response(
            prompt_id=prompt.id,
            sha256=digest,
            content=content,
            origin=written.origin,
            weights_sha256=written.weights_sha256,
            sampling=dict(written.sampling),
        )
    )


def add_item(
    writer: Writer,
    project: Project,
    settings: ProjectSettings,
    prompt: Text,
    responses: Sequence[Written],
    *,
    gold: Mapping[str, Any] | None = None,
    name: str = "",
    source: str = "",
    columns: Mapping[str, Any] | None = None,
    priority: float = 0.0,
) -> tuple[Item, bool]:
    """(the item of these texts, whether it is new). `gold` is a checked answer that is known to be right.

    Raises TastemakerError where this kind of question cannot be asked of so many responses.
    """
    _check_number(settings, len(responses))
    kept = add_prompt(writer, prompt, source)
    made = [add_response(writer, kept, written) for written in responses]
    digest = sha256_json([kept.sha256, [r.sha256 for r in made]])
    same = (Item.project_id == project.id, Item.sha256 == digest)
    found = writer.session.scalar(select(Item).where(*same))
    if found is not None:
        return found, False
    item = writer.add(
        Item(
            project_id=project.id,
            prompt_id=kept.id,
            response_ids=[r.id for r in made],
            sha256=digest,
            gold=None if gold is None else dict(gold),
            name=name[:128],
            columns=dict(columns or {}),
        )
    )
    queued = Queued(item_id=item.id, project_id=project.id, priority=priority, open=True, gold=gold is not None)
    writer.session.add(queued)
    writer.session.flush()
    return item, True


def _check_number(settings: ProjectSettings, n: int) -> None:
    kind = settings.kind
    if kind in ("pair", "preference") and n != 2:
        raise TastemakerError(f"a question of kind {kind} compares 2 responses, this has {n}.")
    if kind in COMPARING and n < 2:
        raise TastemakerError(f"a question of kind {kind} compares responses, this has {n}.")
    if kind in SINGLE and n != 1:
        raise TastemakerError(f"a question of kind {kind} is about 1 response, this has {n}.")
    if kind in ("rating", "spans") and n < 1:
        raise TastemakerError(f"a question of kind {kind} is about responses, this has none.")
    if n > 16:
        raise TastemakerError(f"an item shows at most 16 responses, this has {n}.")


def contents_of(session: Session, item: Item) -> tuple[Any, list[Any]]:
    """(prompt, responses in the item's order), as kept."""
    prompt = session.get_one(Prompt, item.prompt_id)
    rows = {r.id: r for r in session.scalars(select(Response).where(Response.id.in_(item.response_ids)))}
    return prompt.content, [rows[i].content for i in item.response_ids]
