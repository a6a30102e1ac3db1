"""Runs online rounds: stage by stage, waiting for people where they label, with a page after every round."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from tastemaker.studies.chain import Chain, Made, run_chain
from tastemaker.studies.pipeline import Bar, Train
from tastemaker.studies.rounds.recipe import Rounds
from tastemaker.studies.rounds.report import Reports, place_of
from tastemaker.studies.rounds.stages import LabelsMissing, different_prompts
from tastemaker.training import train
from tastemaker.types import TastemakerError

log = logging.getLogger(__name__)

POLL = 2.0
"""Seconds between two looks at the labels that came in."""


def run_rounds(
    rounds: Rounds,
    *,
    wait: float | None = None,
    progress: Bar | None = None,
    listen: Callable[[Made], None] = lambda made: None,
    reported: Callable[[int, Path], None] = lambda number, page: None,
    train: Train = train,
) -> dict[str, Any]:
    """Runs what is not done yet, and writes a page after every round (`reports/round-N/report.html` in the
    recipe's folder) and one over all rounds so far (`report.html` there). Returns the results of the latter.

    `wait`: minutes to wait for the next label of people; None: as long as it takes. `reported(N, page)` is
    called after every page. An interrupted call goes on where it was.

    Raises:
        TastemakerError: as chains do; labels that do not come; too few different prompts.
    """
    done: dict[str, Made] = {}

    def go_on(end: int) -> None:
        steps = replace(rounds.chain, steps=rounds.chain.steps[:end])
        for made in _patiently(steps, done, wait, progress, train):
            if made.step.name not in done:
                listen(made)
            done[made.step.name] = made

    go_on(rounds.start)
    _enough_prompts(rounds, done)
    reports = Reports(rounds, done)
    for each in rounds.rounds:
        go_on(each.end)
        reported(each.number, reports.add(each))
    return reports.results


def _patiently(
    chain: Chain, done: dict[str, Made], wait: float | None, progress: Bar | None, train: Train
) -> list[Made]:
    """Runs the chain; where people have not labelled enough, waits for them."""
    while True:
        try:
            return run_chain(chain, progress=progress, train=train, before=done)
        except LabelsMissing as missing:
            _await(missing, wait, progress)


def _await(missing: LabelsMissing, wait: float | None, progress: Bar | None) -> None:
    """Returns when the labels are in. Raises TastemakerError when none came for `wait` minutes."""
    if wait == 0:
        raise missing
    log.info("%s", missing)
    have, since = missing.done(), time.monotonic()
    with nullcontext() if progress is None else progress(missing.stage) as report:
        while have < missing.wanted:
            if report is not None:
                report(have, missing.wanted, {})
            if wait is not None and time.monotonic() - since > 60 * wait:
                raise TastemakerError(f"no label came for {wait:g} minutes. {missing.stage}: {missing.told()}")
            time.sleep(POLL)
            now = missing.done()
            have, since = now, time.monotonic() if now > have else since


def _enough_prompts(rounds: Rounds, done: Mapping[str, Made]) -> None:
    """Raises TastemakerError before the first round where the last would lack prompts."""
    settings = rounds.settings
    wanted = settings.prompts_per_round * (1 if settings.same_prompts else settings.rounds)
    place = place_of(rounds.prompts, done)
    there = len(different_prompts(place))
    if there < wanted:
        raise TastemakerError(
            f"{place}: holds {there} different prompts, and {settings.rounds} rounds of "
            f"{settings.prompts_per_round} need {wanted}. Bring more, take fewer (prompts_per_round, rounds), "
            "or ask the same in every round (same_prompts: true)"
        )
