"""A judge looks at a project's items: what it says is kept beside people's labels, marked as an AI's, and is
nobody's label. The page shows it to people at once, once they have answered, or never (`ProjectSettings`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tastemaker.errors import TastemakerError
from tastemaker.feedback.items import contents_of, from_json, person_named
from tastemaker.feedback.judge.judging import Judge, Progress
from tastemaker.feedback.judge.opinions import Opinion
from tastemaker.feedback.judging import suggest
from tastemaker.feedback.projects import COMPARING, ProjectSettings, project_named, settings_of
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Item, Person, Suggestion
from tastemaker.types import Comparison


@dataclass(frozen=True)
class Suggested:
    """What a judge gave to a project."""

    opinions: tuple[Opinion, ...]
    """Of the items it was asked about."""
    items: tuple[int, ...]
    """Their ids."""
    kept: int
    """Suggestions that were added; the rest could not be read, or the question has no word for them (ties)."""
    known: int
    """Items it had given one for before."""


def items_to_judge(
    session: Session, project_name: str, judge_name: str, template: str
) -> tuple[list[Item], int]:
    """(the items this judge has said nothing of in this way, how many it has). Test items are among them: a
    judge can be measured by them, too.

    Raises TastemakerError where a judge cannot be asked this project's question.
    """
    project = project_named(session, project_name)
    kind = settings_of(session, project.id).kind
    if kind not in COMPARING:
        raise TastemakerError(
            f"{project_name}: asks {kind}; a judge orders responses, which goes with {', '.join(COMPARING)}."
        )
    items = list(session.scalars(select(Item).where(Item.project_id == project.id).order_by(Item.id)))
    mine = select(Suggestion.item_id, Suggestion.details).join(Person, Person.id == Suggestion.person_id)
    rows = session.execute(mine.where(Person.name == judge_name))
    known = {item_id for item_id, details in rows if details.get("template") == template}
    wanted = [item for item in items if item.id not in known]
    return wanted, len(items) - len(wanted)


def comparison_of(session: Session, item: Item) -> Comparison:
    """An item as a judge is asked about it: no label, and nothing of where its responses come from."""
    prompt, contents = contents_of(session, item)
    responses = tuple(from_json(c) for c in contents)
    return Comparison(
        prompt=from_json(prompt), responses=responses, ranking=(0,) * len(responses), row=str(item.id)
    )


def suggested_answer(ranking: tuple[int, ...], settings: ProjectSettings) -> dict[str, Any] | None:
    """A ranking as an answer to the project's question; None where it has no word for it."""
    if settings.kind == "ranking":
        return {"ranking": list(ranking)} if settings.ties or len(set(ranking)) == len(ranking) else None
    if ranking[0] == ranking[1]:
        return {"tie": "equal"} if settings.ties else None
    if settings.kind == "pair":
        return {"preferred": ranking.index(0)}
    # A judge that orders says nothing of how much better: the smaller of the two levels.
    return {"level": 1 if ranking[0] == 0 else -1}


def suggest_all(store: Store, project_name: str, judge: Judge, progress: Progress | None = None) -> Suggested:
    """Asks the judge about every item of the project that it has not spoken of, and keeps what it says, with
    its model, its template and the principle it judged by. Asking again goes on where it stopped.

    Raises TastemakerError: no such project, another kind of question, a judge that cannot go on.
    """
    name, template = judge.name[:64].strip(), f"{judge.template.name}.v{judge.template.version}"
    with store.reading() as session:
        items, known = items_to_judge(session, project_name, name, template)
        records = [comparison_of(session, item) for item in items]
        settings = settings_of(session, project_named(session, project_name).id)
    opinions = judge.judge(records, progress)  # takes its time: nothing is held meanwhile
    kept = 0
    with store.writing() as writer:
        person = person_named(writer, name, "judge")
        if person.kind != "judge":
            raise TastemakerError(
                f"{name}: is the name of a {person.kind} who labels here; a judge cannot go by it."
            )
        for item, opinion in zip(items, opinions, strict=True):
            answer = None if opinion.ranking is None else suggested_answer(opinion.ranking, settings)
            if answer is None:
                continue
            details = {"template": template, "when": opinion.when, "p_first": opinion.p}
            own = writer.session.get_one(Item, item.id)
            suggest(writer, own, person, answer, model=judge.name, principle=opinion.principle, details=details)
            kept += 1
    return Suggested(tuple(opinions), tuple(i.id for i in items), kept, known)
