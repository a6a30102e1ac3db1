"""`tastemaker labels quality`, `rank` and `group`: how good labels are, which come next, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from tastemaker.cli.catalogue import Option
from tastemaker.cli.help import console
from tastemaker.cli.layers import UsageError

if TYPE_CHECKING:
    from tastemaker.feedback.store import Store

RELIABILITIES = ("dawid_skene", "bradley_terry")
RULES = ("uncertainty", "disagreement")
QUALITY_OPTIONS = (
    Option("reliability", str, "dawid_skene", "What weighs people: dawid_skene or bradley_terry.", "labels"),
    Option(
        "reward",
        str | None,
        "none",
        "A reward model: ranks; lets bradley_terry do with a label an item.",
        "labels",
    ),
    Option("count", int, "100", "rank: pairs that are put in front of the queue.", "labels"),
    Option(
        "rule", str | None, "as the model can", "rank: uncertainty, or an ensemble's disagreement.", "labels"
    ),
)


def leads(store: Store, values: Mapping[str, Any], project: str) -> dict[int, float] | None:
    """What the reward model named makes of the project's pairs; None where none is named."""
    if not values.get("reward"):
        return None
    from tastemaker.feedback.asking_next import leads_of
    from tastemaker.models import build_roles

    models = build_roles(("reward",), (), policy=None, reward=values["reward"])
    return leads_of(store, project, models)


def weights(store: Store, values: Mapping[str, Any], project: str) -> dict[str, float]:
    """Annotator -> weight, by the model of reliability that is asked for."""
    from tastemaker.feedback import quality
    from tastemaker.feedback.projects import project_named

    model = values.get("reliability", "bradley_terry" if values.get("reward") else "dawid_skene")
    if model not in RELIABILITIES:
        raise UsageError(f"--reliability {model}: give {' or '.join(RELIABILITIES)}")
    known = leads(store, values, project)
    with store.reading() as session:
        try:
            return quality.weights(session, project_named(session, project), model=model, leads=known)
        except ValueError as error:
            raise UsageError(f"--weighted: {error}") from error


def rank(store: Store, values: dict[str, Any], rest: list[str]) -> None:
    """Puts the pairs that a reward model wants labelled in front of the queue."""
    from tastemaker.feedback.asking_next import rank_items
    from tastemaker.models import build_roles

    name = _project(values, rest, "rank")
    if not values.get("reward"):
        raise UsageError("labels rank: by which reward model? --reward runs/rm")
    rule, count = values.get("rule"), int(values.get("count", 100))
    if rule is not None and rule not in RULES:
        raise UsageError(f"--rule {rule}: give {' or '.join(RULES)}")
    if count < 1:
        raise UsageError(f"--count {count}: at least 1 pair")
    models = build_roles(("reward",), (), policy=None, reward=values["reward"])
    made = rank_items(store, name, models, str(values["reward"]), count=count, rule=rule)
    console().print(
        f"{name}: {len(made.items)} of {made.waiting} pairs without a label come first, by {made.rule}",
        markup=False,
    )


def group(store: Store, values: dict[str, Any], rest: list[str]) -> None:
    """Puts an annotator into a group, or lists the groups."""
    from tastemaker.feedback.groups import groups_of, set_group

    if len(rest) == 2:
        with store.writing() as writer:
            set_group(writer, *rest)
    elif rest:
        raise UsageError("labels group: give NAME GROUP ('' for no group), or nothing to list")
    with store.reading() as session:
        found = groups_of(session)
    for each in sorted(set(found.values())):
        members = ", ".join(sorted(who for who, own in found.items() if own == each))
        console().print(f"{each}: {members}", markup=False)
    if not found:
        console().print("nobody is in a group")


def quality(store: Store, values: dict[str, Any], rest: list[str]) -> None:
    """Agreement, every person's habits and reliability, groups."""
    from tastemaker.feedback.projects import project_named
    from tastemaker.feedback.quality import quality as looked_at

    name = _project(values, rest, "quality")
    known = leads(store, values, name)
    with store.reading() as session:
        told = looked_at(session, project_named(session, name), known)
    out = console()
    out.print(_agreement(told["agreement"]), markup=False)
    out.print(_people(told["people"]))
    if told["groups"] is not None:
        out.print(_groups(told["groups"]))
        out.print(_gap(told["groups"]), markup=False)


def _project(values: Mapping[str, Any], rest: list[str], action: str) -> str:
    name = values.get("project") or (rest[0] if rest else "")
    if not name:
        raise UsageError(f"labels {action}: of which project? --project NAME")
    return str(name)


def _agreement(found: Mapping[str, Any]) -> str:
    lines = [f"{found['items']} items with several labels, {found['raters']} people"]
    names = {"raw": "raw agreement", "alpha": "Krippendorff's alpha", "fleiss": "Fleiss' kappa"}
    names["cohen"] = "Cohen's kappa, mean over pairs of people"
    for key, words in names.items():
        figure = found[key]
        if figure is not None:
            of = f", {figure['items']} items of {figure['ratings']} labels" if key == "fleiss" else ""
            lines.append(f"{words}: {_interval(figure)}{of}")
    lines += [
        f"  {' and '.join(pair['people'])}: {_interval(pair)}, {pair['items']} items"
        for pair in found["pairs"]
        if pair["value"] is not None
    ]
    return "\n".join(lines)


def _interval(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _people(people: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("person", "group", "labels", "share", "with others", "first", "longer", "test items"):
        table.add_column(column)
    for column in ("weight", "accuracy", "position"):
        table.add_column(column)
    for person in people:
        rates = [person[k] for k in ("with_others", "first_shown", "longer", "gold")]
        cells = ["-" if r is None else f"{r['value']:.0%} of {r['n']}" for r in rates]
        weight = "-" if person["weight"] is None else f"{person['weight']:.2f}"
        own = person["discernment"]
        fitted = ["-", "-"]
        if own is not None:
            a, g = own["accuracy"], own["position"]
            fitted = [f"{a['value']:.0%} ({a['low']:.0%} to {a['high']:.0%})", f"{g['value']:+.2f}"]
        first = (Text(person["name"]), Text(person["group"] or "-"))
        table.add_row(*first, str(person["labels"]), f"{person['share']:.0%}", *cells, weight, *fitted)
    return table


def _groups(found: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("group", "people", "labels", "share", "alpha within", "with everyone's majority"):
        table.add_column(column)
    for each in found["groups"]:
        alpha, own = each["alpha"], each["with_all"]
        table.add_row(
            Text(each["group"]),
            str(each["people"]),
            str(each["labels"]),
            f"{each['share']:.0%}",
            "-" if alpha is None else _interval(alpha),
            "-" if own is None else f"{own['value']:.0%} of {own['n']}",
        )
    return table


def _gap(found: Mapping[str, Any]) -> str:
    items = f"{found['contested_items']} of {found['shared_items']} shared items"
    said = f"groups have different majorities on {items}"
    gap = found["gap"]
    if gap is None:
        return said
    return f"{said}; within a group people agree more often by {_interval(gap)}, {gap['items']} items"
