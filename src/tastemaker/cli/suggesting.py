"""`tastemaker judge --project`: what a judge says of a project's items, in the store beside people's labels.

What needs torch or the extra `tastemaker[studio]` is imported when the command acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tastemaker.cli.help import console
from tastemaker.cli.layers import Request, UsageError
from tastemaker.cli.progress import progress
from tastemaker.cli.studio import open_store

if TYPE_CHECKING:
    from tastemaker.feedback.judge import Judge


def suggest(request: Request, settings: Any, source: str | None) -> None:
    """What a judge says of a project's items, kept beside people's labels; and how far they agree."""
    values, out = request.values, console()
    given = [n for n in ("data", "out", "labellers") if values.get(n) is not None]
    if source is not None or given:
        what = given[0] if given else source
        raise UsageError(f"{what}: --project judges items of the store and writes no file; leave it out")
    store, project = open_store(values), values["project"]
    from sqlalchemy import select

    from tastemaker.feedback.judge import Answers
    from tastemaker.feedback.projects import project_named
    from tastemaker.feedback.quality import quality
    from tastemaker.feedback.suggesting import suggest_all
    from tastemaker.feedback.tables import Item
    from tastemaker.training.judging import make_judge

    try:
        with store.reading() as session:
            found = project_named(session, project)
            first = session.scalar(select(Item).where(Item.project_id == found.id).limit(1))
        answers = Answers(values.get("answers") or f"{project}.answers.jsonl")
        judge = make_judge(settings, responses=2 if first is None else len(first.response_ids), answers=answers)
        with progress(out, "judge") as report:
            made = suggest_all(store, project, judge, lambda done, total: report(done, total, {}))
        with store.reading() as session:
            judges = quality(session, project_named(session, project))["judges"]
    finally:
        store.close()
    out.print(Text(spent(judge)), soft_wrap=True)
    known = f", {made.known} given before" if made.known else ""
    out.print(Text(f"suggestions  {made.kept} of {len(made.items)} items{known}"), soft_wrap=True)
    for told in (j for j in judges if j["model"] == judge.name):
        with_people = told["with_people"]
        agreed = "no label of people yet" if with_people is None else _rate(with_people)
        out.print(Text(f"agrees with most people  {agreed}"), soft_wrap=True)
    out.print(Text(f"answers  {answers.path}"), soft_wrap=True)


def _rate(rate: Mapping[str, float]) -> str:
    return f"{rate['value']:.3f} ({rate['low']:.3f} to {rate['high']:.3f}, {rate['n']} items)"


def spent(judge: Judge) -> str:
    """What asking took, in one line."""
    s = judge.spent
    cost = f", cost {s.cost:.4g}" if s.cost else ""
    tokens = f", {s.tokens_in:,} tokens read and {s.tokens_out:,} written" if s.tokens_in else ""
    return f"{judge.name}: asked {s.asked}, {s.reused} known before, {s.seconds:.1f} s{tokens}{cost}"
