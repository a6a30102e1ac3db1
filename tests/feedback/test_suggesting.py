"""What a judge says of a project's items: beside people's labels, marked, once, measured against them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import func, select

from tastemaker.errors import TastemakerError
from tastemaker.feedback.items import Written, add_item, person_named
from tastemaker.feedback.judge import Ask, Judge, Reply
from tastemaker.feedback.judging import record
from tastemaker.feedback.projects import ProjectSettings, create_project, project_named
from tastemaker.feedback.quality import quality
from tastemaker.feedback.store import Store
from tastemaker.feedback.suggesting import suggest_all
from tastemaker.feedback.tables import Item, Judgement, Person, Suggestion


class Longer:
    """A judge that prefers the longer of two, and cannot be read on what it is told not to."""

    name = "longer"

    def __init__(self, mute: str = "nothing") -> None:
        self.asked: list[str] = []
        self._mute = mute

    def answer(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for index, ask in enumerate(asks):
            self.asked.append(str(ask.prompt))
            first, second = (len(r) for r in ask.responses[:2])
            said = "tie" if first == second else "A" if first > second else "B"
            yield index, Reply(text="hm" if self._mute in str(ask.prompt) else f"verdict {ask.tag}: {said}")


def project(store: Store, responses: Sequence[tuple[str, str]], **settings: Any) -> list[int]:
    """Items with these pairs of responses; their ids."""
    with store.writing() as writer:
        own = ProjectSettings(**settings)
        made = create_project(writer, "taste", own)
        return [
            add_item(writer, made, own, f"prompt {i}", [Written(content=r, origin="secret") for r in pair])[
                0
            ].id
            for i, pair in enumerate(responses)
        ]


def said(store: Store) -> dict[int, Any]:
    with store.reading() as session:
        return {s.item_id: s.verdict for s in session.scalars(select(Suggestion).order_by(Suggestion.id))}


def test_a_judge_speaks_once_of_every_item_and_labels_none(store: Store) -> None:
    items = project(store, [("long one", "short"), ("a", "longer"), ("same", "also")])
    model = Longer()
    made = suggest_all(store, "taste", Judge(model))
    assert (made.kept, made.known, len(made.items)) == (3, 0, 3)
    assert said(store) == {items[0]: {"preferred": 0}, items[1]: {"preferred": 1}, items[2]: {"tie": "equal"}}
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Judgement)) == 0
        marked = session.scalars(select(Suggestion)).all()
        assert {(m.model, m.details["template"].partition(".")[0]) for m in marked} == {("longer", "pairwise")}
        assert session.scalar(select(Person.kind).where(Person.name == "longer")) == "judge"
    assert not any("secret" in prompt for prompt in model.asked)
    again = Longer()
    assert suggest_all(store, "taste", Judge(again)).known == 3 and again.asked == []


def test_what_cannot_be_read_or_said_is_left_out_and_asked_again(store: Store) -> None:
    items = project(store, [("long one", "short"), ("a", "longer"), ("same", "also")], ties=False)
    assert suggest_all(store, "taste", Judge(Longer(mute="prompt 1"))).kept == 1
    assert said(store) == {items[0]: {"preferred": 0}}
    made = suggest_all(store, "taste", Judge(Longer()))
    assert (made.kept, made.known) == (1, 1) and said(store)[items[1]] == {"preferred": 1}


@pytest.mark.parametrize("kind, wanted", [("preference", {"level": -1}), ("ranking", {"ranking": [1, 0]})])
def test_verdicts_fit_the_question(store: Store, kind: Any, wanted: dict[str, Any]) -> None:
    (item,) = project(store, [("a", "longer")], kind=kind)
    suggest_all(store, "taste", Judge(Longer()))
    assert said(store) == {item: wanted}


def test_questions_that_order_nothing_are_refused(store: Store) -> None:
    project(store, [], kind="desirable")
    with pytest.raises(TastemakerError, match="asks desirable"):
        suggest_all(store, "taste", Judge(Longer()))


def test_a_judge_cannot_go_by_a_persons_name(store: Store) -> None:
    project(store, [("a", "longer")])
    with store.writing() as writer:
        person_named(writer, "longer")
    with pytest.raises(TastemakerError, match="who labels here"):
        suggest_all(store, "taste", Judge(Longer()))


def test_agreement_of_judge_and_people_is_told(store: Store) -> None:
    items = project(store, [("long one", "short")] * 1 + [(f"longer {i}", "b") for i in range(4)])
    suggest_all(store, "taste", Judge(Longer()))
    with store.writing() as writer:
        ann = person_named(writer, "ann")
        for n, item in enumerate(items):
            own = writer.session.get_one(Item, item)
            record(writer, own, ann, {"preferred": int(n == 0)}, key=f"label-{n:05}")
    with store.reading() as session:
        (told,) = quality(session, project_named(session, "taste"))["judges"]
    assert told["with_people"]["value"] == pytest.approx(4 / 5) and told["with_people"]["n"] == 5
