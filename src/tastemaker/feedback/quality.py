"""How good a project's labels are: agreement with intervals, each annotator's habits, what is disputed."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from tastemaker.feedback.agreeing import agreement, group_agreement, majority
from tastemaker.feedback.annotators import Label, dawid_skene, weight_of
from tastemaker.feedback.answers import outcome, ranking_of
from tastemaker.feedback.assign import in_force, withdrawn
from tastemaker.feedback.discernment import Discernment, Vote, bradley_terry_annotators
from tastemaker.feedback.groups import groups_of
from tastemaker.feedback.items import shown_texts
from tastemaker.feedback.projects import settings_of
from tastemaker.feedback.tables import Item, Judgement, Person, Project, Response, Suggestion

Reliability = Literal["dawid_skene", "bradley_terry"]
"""The models that say how far annotators can be relied on."""
_WATCHED_SHARE = 0.2
_LIVE_VOTES = 4_000
"""Newest votes that the Bradley-Terry model of a live page reads."""


@dataclass(frozen=True)
class Given:
    """A label in force, with what is needed to look at it."""

    judgement: Judgement
    person: str
    item: Item
    category: str | None


def given_labels(session: Session, project_id: int) -> list[Given]:
    """Every submitted label in force: labels, repeats, decisions, and those of test items."""
    rows = session.execute(
        select(Judgement, Person.name, Item)
        .join(Person, Person.id == Judgement.person_id)
        .join(Item, Item.id == Judgement.item_id)
        .where(Judgement.project_id == project_id, Judgement.status == "submitted", in_force(), ~withdrawn())
        .order_by(Judgement.id)
    )
    return [Given(j, name, item, outcome(j.verdict)) for j, name, item in rows]


def votes_of(given: Sequence[Given]) -> list[Vote]:
    """First labels of pairs, and of single responses as good (1) or bad (0), as the Bradley-Terry model takes
    them. Other kinds of answer make none.
    """
    found: list[Vote] = []
    for g in _firsts(given):
        verdict, n = g.judgement.verdict, len(g.item.response_ids)
        if "desirable" in verdict:
            found.append(Vote(g.item.id, g.person, float(verdict["desirable"])))
        ranking = ranking_of(verdict, n)
        if n == 2 and ranking is not None:
            score = 0.5 if ranking[0] == ranking[1] else float(ranking[0] < ranking[1])
            found.append(Vote(g.item.id, g.person, score, g.judgement.shown_order[0] == 0))
    return found


def _firsts(given: Sequence[Given]) -> list[Given]:
    """Labels proper: no repeats, no decisions, no test items."""
    return [g for g in given if g.judgement.purpose == "label" and g.item.gold is None]


def quality(session: Session, project: Project, leads: Mapping[int, float] | None = None) -> dict[str, Any]:
    """Everything the quality page shows, as plain values; None where a figure cannot be had.

    `leads`: item -> how much better a reward model finds its first response, for `discernment`.
    """
    settings = settings_of(session, project.id)
    given = given_labels(session, project.id)
    firsts = _firsts(given)
    named = [(g.item.id, g.person, g.category) for g in firsts if g.category is not None]
    consensus = dawid_skene(named) if named else None
    lengths = _lengths(session, [g.item for g in firsts])
    total = len(firsts)
    people = {
        name: _person(name, given, settings.minimum_seconds, lengths, total)
        for name in {g.person for g in given}
    }
    overlapping = len(named) > len({item for item, _, _ in named})
    for name, told in people.items():
        accuracy = consensus.accuracy.get(name) if consensus is not None and overlapping else None
        told["reliability"] = accuracy
        categories = 2 if consensus is None else len(consensus.categories)
        told["weight"] = None if accuracy is None else weight_of(accuracy, categories)
    groups = groups_of(session)
    discerned = _discerned(votes_of(given)[-_LIVE_VOTES:], leads)
    for name, told in people.items():
        told["group"] = groups.get(name, "")
        told["discernment"] = asdict(discerned[name]) if name in discerned else None
    return {
        "labels": total,
        "items": len({g.item.id for g in firsts}),
        "agreement": agreement(named),
        "groups": group_agreement(named, groups, {g.item.id: g.item.name for g in firsts}),
        "people": sorted(people.values(), key=lambda p: -p["labels"]),
        "disputed": disputed(given),
        "judges": _judges(session, project.id, named),
        "flags": _flags(session, project.id),
    }


def _discerned(votes: Sequence[Vote], leads: Mapping[int, float] | None) -> Mapping[str, Discernment]:
    try:
        return bradley_terry_annotators(votes, leads).people
    except ValueError:  # no votes, one label an item, leads that say nothing: the page shows a dash
        return {}


def _lengths(session: Session, items: Sequence[Item]) -> dict[int, list[int]]:
    """Item -> words of each of its responses."""
    wanted = sorted({r for item in items for r in item.response_ids})
    words: dict[int, int] = {}
    for start in range(0, len(wanted), 500):
        rows = session.scalars(select(Response).where(Response.id.in_(wanted[start : start + 500])))
        words |= {row.id: sum(len(text.split()) for text in shown_texts([row.content])) for row in rows}
    return {item.id: [words[r] for r in item.response_ids] for item in items}


def _person(
    name: str, given: Sequence[Given], minimum: float, lengths: Mapping[int, list[int]], total: int
) -> dict[str, Any]:
    own = [g for g in given if g.person == name]
    firsts = _firsts(own)
    repeats = {g.item.id: g.category for g in own if g.judgement.purpose == "repeat"}
    again = [repeats[g.item.id] == g.category for g in firsts if g.item.id in repeats]
    gold = [
        g.category == outcome(g.item.gold) for g in own if g.item.gold is not None and g.category is not None
    ]
    seconds = [g.judgement.seconds for g in firsts]
    share = len(firsts) / total if total else 0.0
    return {
        "name": name,
        "labels": len(firsts),
        "share": share,
        "watched": share > _WATCHED_SHARE and total >= 20,
        "seconds": statistics.median(seconds) if seconds else None,
        "hasty": sum(s < minimum for s in seconds) / len(seconds) if seconds and minimum else 0.0,
        "gold": _rate(gold),
        "self": _rate(again),
        "with_others": _rate(_with_others(name, given)),
        "first_shown": _rate([c for g in firsts if (c := _took_first(g)) is not None]),
        "longer": _rate([c for g in firsts if (c := _took_longer(g, lengths)) is not None]),
    }


def _rate(hits: Sequence[bool]) -> dict[str, float] | None:
    """A share with its 95 % interval (Wilson 1927)."""
    n = len(hits)
    if not n:
        return None
    p, z = sum(hits) / n, statistics.NormalDist().inv_cdf(0.975)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"value": p, "low": middle - half, "high": middle + half, "n": n}


def _took_first(given: Given) -> bool | None:
    """Whether the better of two was shown first; None without two or without a better one."""
    ranking = ranking_of(given.judgement.verdict, len(given.item.response_ids))
    if ranking is None or len(ranking) != 2 or ranking[0] == ranking[1]:
        return None
    return given.judgement.shown_order[0] == ranking.index(0)


def _took_longer(given: Given, lengths: Mapping[int, list[int]]) -> bool | None:
    ranking = ranking_of(given.judgement.verdict, len(given.item.response_ids))
    words = lengths.get(given.item.id, [])
    if ranking is None or len(ranking) != 2 or ranking[0] == ranking[1] or words[0] == words[1]:
        return None
    return words.index(max(words)) == ranking.index(0)


def _with_others(name: str, given: Sequence[Given]) -> list[bool]:
    """Whether this person said what most others said, where the others have a majority."""
    by_item: dict[int, dict[str, str]] = {}
    for g in _firsts(given):
        if g.category is not None:
            by_item.setdefault(g.item.id, {})[g.person] = g.category
    hits: list[bool] = []
    for said in by_item.values():
        best = majority(c for who, c in said.items() if who != name)
        if name in said and best is not None:
            hits.append(said[name] == best)
    return hits


def disputed(given: Sequence[Given]) -> list[dict[str, Any]]:
    """Items on which people disagree and nobody has decided yet, those with the most voices first."""
    said: dict[int, Counter[str]] = {}
    names: dict[int, str] = {}
    decided = {g.item.id for g in given if g.judgement.purpose == "adjudication"}
    for g in _firsts(given):
        if g.category is not None:
            said.setdefault(g.item.id, Counter())[g.category] += 1
            names[g.item.id] = g.item.name
    found = [
        {"item": item, "name": names[item], "said": dict(counts)}
        for item, counts in said.items()
        if len(counts) > 1 and item not in decided
    ]
    return sorted(found, key=lambda d: (-sum(d["said"].values()), d["item"]))


def _judges(session: Session, project_id: int, labels: Sequence[Label]) -> list[dict[str, Any]]:
    """How often each AI agrees with most people."""
    people: dict[int, Counter[str]] = {}
    for item, _, category in labels:
        people.setdefault(item, Counter())[category] += 1
    rows = session.execute(
        select(Suggestion, Person.name)
        .join(Person, Person.id == Suggestion.person_id)
        .join(Item, Item.id == Suggestion.item_id)
        .where(Item.project_id == project_id)
        .order_by(Suggestion.id)
    )
    latest: dict[tuple[str, str], dict[int, str]] = {}
    for row, name in rows:
        category = outcome(row.verdict)
        if category is not None:
            latest.setdefault((name, row.model), {})[row.item_id] = category
    found: list[dict[str, Any]] = []
    for (name, model), said in latest.items():
        hits: list[bool] = []
        for item, category in said.items():
            best = majority(people.get(item, {}))
            if best is not None:
                hits.append(category == best)
        found.append({"name": name, "model": model, "items": len(said), "with_people": _rate(hits)})
    return found


def _flags(session: Session, project_id: int) -> list[dict[str, Any]]:
    """Items that people sent back, with their reasons."""
    rows = session.execute(
        select(Judgement, Person.name, Item.name)
        .join(Person, Person.id == Judgement.person_id)
        .join(Item, Item.id == Judgement.item_id)
        .where(Judgement.project_id == project_id, Judgement.status == "flagged", in_force())
        .order_by(Judgement.id.desc())
        .limit(100)
    )
    return [
        {"by": who, "item": j.item_id, "name": name, "reason": j.reason, "at": j.at} for j, who, name in rows
    ]


def weights(
    session: Session,
    project: Project,
    *,
    model: Reliability = "dawid_skene",
    leads: Mapping[int, float] | None = None,
) -> dict[str, float]:
    """Annotator -> weight of their labels: `weight_of` the accuracy that the model finds. With `leads` (item ->
    how much better a reward model finds its first response) Bradley-Terry needs one label an item.

    Raises ValueError where the model cannot tell: no item has labels of two people, answers that are no choice
    of two (Bradley-Terry), leads for Dawid and Skene's model, which has no use for them.
    """
    given = _firsts(given_labels(session, project.id))
    if model == "bradley_terry":
        votes = votes_of(given)
        if not votes:
            raise ValueError("the Bradley-Terry model is of choices between two, and there are none")
        return {
            who: weight_of(d.accuracy.value) for who, d in bradley_terry_annotators(votes, leads).people.items()
        }
    if leads is not None:
        raise ValueError(
            "a reward model's scores are for the model bradley_terry; dawid_skene has no use for them"
        )
    named = [(g.item.id, g.person, g.category) for g in given if g.category is not None]
    if len(named) == len({item for item, _, _ in named}):
        raise ValueError("no item has labels of two people, so nothing tells how far each can be relied on")
    found = dawid_skene(named)
    return {who: weight_of(a, len(found.categories)) for who, a in found.accuracy.items()}
