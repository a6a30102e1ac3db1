"""Tries the claims: reads the studies that are there, runs the small trainings, and writes what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.config import nearest
from tastemaker.methods import METHODS
from tastemaker.runs.environment import versions
from tastemaker.runs.files import write_atomic
from tastemaker.studies.claims.claim import Claim, Finding, Study
from tastemaker.studies.claims.labelled import cell_tasks
from tastemaker.studies.claims.registry import CELLS, CLAIMS, EVIDENCE
from tastemaker.studies.pages import Page, Section, write_page
from tastemaker.studies.report.grid import Grid, Line
from tastemaker.studies.tasks import Event, run_tasks
from tastemaker.studies.written import counted, listed
from tastemaker.types import TastemakerError

MISSING = "not tried"


@dataclass(frozen=True)
class Tried:
    """A claim with what was found, or why nothing could be."""

    claim: Claim
    finding: Finding | None
    reason: str = ""

    @property
    def outcome(self) -> str:
        return self.finding.outcome if self.finding is not None else MISSING

    @property
    def said(self) -> str:
        return self.finding.text if self.finding is not None else self.reason


def claims_named(names: Sequence[str]) -> list[Claim]:
    """These claims, or all. Raises TastemakerError for a name that there is none of."""
    known = {claim.name: claim for claim in CLAIMS}
    for name in names:
        if name not in known:
            close = nearest(name, tuple(known))
            hint = f"; did you mean {close[0]}?" if close else ""
            raise TastemakerError(f"there is no claim {name!r}{hint} Known: {', '.join(known)}")
    return [known[name] for name in names] if names else list(CLAIMS)


def try_claims(
    names: Sequence[str],
    *,
    results: Path,
    seeds: Sequence[int],
    out: Path,
    workers: int = 1,
    listen: Callable[[Event], None] = lambda event: None,
) -> list[Tried]:
    """Tries the claims named, or all of them.

    Args:
        names: of `CLAIMS`; none: all.
        results: the folder that holds the studies, as `make results` leaves them.
        seeds: of the small trainings that some claims need; their runs, in `out`, are reused.
        out: folder of these runs.
        workers: trainings at the same time.
        listen: is told what the trainings do.

    Raises:
        TastemakerError: a claim that there is none of; a training that failed; a study that is no JSON.
    """
    asked = claims_named(names)
    cells = {cell.name: cell for claim in asked for cell in claim.cells}
    trained: Study = {}
    if cells:
        tasks = cell_tasks(list(cells.values()), seeds, out)
        trained = run_tasks(tasks, workers=workers, on_event=listen)
    return [tried(claim, results, trained, seeds) for claim in asked]


def tried(claim: Claim, results: Path, trained: Study, seeds: Sequence[int]) -> Tried:
    """One claim, from a study on disk or from the trainings."""
    lacking = [method for method in claim.needs if method not in METHODS]
    if lacking:
        return Tried(claim, None, f"needs {listed(lacking)}, which is not here yet")
    if claim.evidence == CELLS:
        return Tried(claim, claim.read(trained, seeds))
    evidence = EVIDENCE[claim.evidence]
    path = results / evidence.path
    if not path.exists():
        return Tried(claim, None, f"its study is not there; `{evidence.command}` makes {evidence.path}")
    try:
        study = json.loads(path.read_text("utf-8"))
        return Tried(claim, claim.read(study, seeds))
    except json.JSONDecodeError as error:
        raise TastemakerError(f"{path}: line {error.lineno}: {error.msg}; make the study again") from error
    except KeyError as error:
        return Tried(
            claim, None, f"{evidence.path} has no {error.args[0]}; `{evidence.command}` makes it again"
        )


# ------------------------------------------------------------------------------------- what is written


def write_claims(folder: Path, found: Sequence[Tried], seeds: Sequence[int], page: Path | None = None) -> Path:
    """Writes results.json and report.html into `folder`, and with `page` the same as Markdown; returns the
    report's path.
    """
    results: dict[str, Any] = {
        "seeds": list(seeds),
        "claims": {
            tried.claim.name: {
                "statement": tried.claim.statement,
                "paper": tried.claim.paper,
                "rule": tried.claim.rule,
                "evidence": tried.claim.evidence,
                "outcome": tried.outcome,
                "text": tried.said,
                "figures": tried.finding.figures if tried.finding is not None else None,
            }
            for tried in found
        },
        "versions": versions(),
    }
    if page is not None:
        write_atomic(page, markdown(found, seeds).encode())
    return write_page(folder, html_page(found, seeds), results)


def counts(found: Sequence[Tried]) -> Mapping[str, int]:
    """Outcome -> how many claims."""
    order = ("holds here", "does not hold here", "undecided", MISSING)
    return {outcome: n for outcome in order if (n := sum(t.outcome == outcome for t in found))}


def headline(found: Sequence[Tried]) -> str:
    """How many claims held."""
    words = [f"{n} {singular(outcome) if n == 1 else plural(outcome)}" for outcome, n in counts(found).items()]
    return f"Of {counted(len(found), 'claim')}, {listed(words)}."


def singular(outcome: str) -> str:
    return outcome if outcome.endswith("here") else f"was {outcome}" if outcome == MISSING else f"is {outcome}"


def plural(outcome: str) -> str:
    return {"holds here": "hold here", "does not hold here": "do not hold here", MISSING: "were not tried"}.get(
        outcome, f"are {outcome}"
    )


RULES = (
    "Each claim is tried on the embedded town, whose gold reward is exact; a tiny model and a tiny world say "
    "what holds here, not what holds everywhere.",
    "When a claim counts as held stands beside it. It was written down before the figures were seen, but for "
    "claims read from the town's comparison of DPO and PPO, which was there first.",
    "Intervals are at 95%, over seeds and prompts, paired where runs share them, and not corrected for the "
    "number of claims. An interval that reaches to both sides decides nothing.",
)


def html_page(found: Sequence[Tried], seeds: Sequence[int]) -> Page:
    lines = [Line((t.claim.statement, t.claim.paper, t.outcome, t.said, t.claim.rule)) for t in found]
    grid = Grid(
        "claims",
        "Claims and what was found",
        ("claim", "paper", "here", "measured", "counts as held where"),
        lines,
        "One line a claim.",
        ("claims",),
        prose=True,
    )
    columns = ("claim", "statement", "paper", "outcome", "measured", "rule")
    rows = [(t.claim.name, t.claim.statement, t.claim.paper, t.outcome, t.said, t.claim.rule) for t in found]
    return Page(
        kind="claims",
        title="Published claims, tried on the town",
        headline=headline(found),
        sentences=RULES,
        facts=[("Claims", str(len(found))), ("Seeds of the small trainings", str(len(seeds)))],
        sections=[Section("all", "Every claim", grids=[grid])],
        table=(columns, rows),
    )


def markdown(found: Sequence[Tried], seeds: Sequence[int]) -> str:
    """The page of the documentation."""
    lines = [
        "# Published claims, tried on the town",
        "",
        f"{headline(found)} `make results-claims` writes this page ({counted(len(seeds), 'seed')} for the "
        "small trainings).",
        "",
        *(f"- {rule}" for rule in RULES),
        "",
        "| claim | paper | here | measured |",
        "| --- | --- | --- | --- |",
        *(f"| {t.claim.statement} | {t.claim.paper} | **{t.outcome}** | {t.said} |" for t in found),
        "",
        "## When a claim counts as held",
        "",
        "| claim | rule | read from |",
        "| --- | --- | --- |",
        *(f"| {t.claim.name} | {t.claim.rule} | {source(t.claim)} |" for t in found),
        "",
    ]
    return "\n".join(lines)


def source(claim: Claim) -> str:
    """Where its figures come from."""
    if claim.evidence == CELLS:
        return "trainings of its own: " + listed([cell.name for cell in claim.cells])
    evidence = EVIDENCE[claim.evidence]
    return f"{evidence.path} (`{evidence.command}`)"
