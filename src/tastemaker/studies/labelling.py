"""Labellers by name: a panel of the town, a file of people's labels, a function, a judge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from tastemaker.feedback.judge import Answers
from tastemaker.feedback.labellers import Labeller, People, Program
from tastemaker.rewards import load_function, source_hash
from tastemaker.town import PANELS, Town
from tastemaker.town.critic import Critic
from tastemaker.training.judging import JudgeSettings, make_judge
from tastemaker.types import Comparison, TastemakerError, Text

_FUNCTION = re.compile(r".+\.py:[A-Za-z_]\w*")
FILES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")


class TownPanel:
    """`Labeller`: the simulated people of the town."""

    def __init__(self, town: Town, panel: str, seed: int = 0) -> None:
        """Raises TastemakerError for a panel that there is none of."""
        if panel not in PANELS:
            raise TastemakerError(f"the town has no panel {panel!r}; choose one of {', '.join(PANELS)}")
        self.name = f"town {town.seed} panel {panel}"
        self._town, self._panel, self._seed = town, panel, seed
        self._critic = Critic(town)

    def label(self, records: Sequence[Comparison]) -> list[Comparison]:
        """Pairs only. Raises TastemakerError for what is no pair, or no prompt of this town."""
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        found: list[Comparison] = []
        for record in records:
            if len(record.responses) != 2:
                raise TastemakerError(f"{self.name}: labels pairs; row {record.row or '?'} is none")
            a, b = (str(r) for r in record.responses)
            prompt = self._critic.find(record.prompt)
            label = self._town.label(prompt, (a, True), (b, True), panel=self._panel, seed=self._seed)
            found.append(replace(label, when=when, row=record.row, prompt=record.prompt))
        return found


def program(who: str) -> Program:
    """`FILE.py:FUNCTION`, a reward function (docs/rewards.md), as a labeller: it is given `prompts` and
    `completions`, one entry a response, and gives a number for each, None where it cannot tell.

    Raises:
        TastemakerError: no such file or function; when it labels, whatever the function raises.
    """
    function = load_function(who)

    def scores(prompt: Text, responses: Sequence[str]) -> Sequence[float | None]:
        if isinstance(prompt, str):
            prompts, completions = [prompt] * len(responses), list(responses)
        else:
            prompts = [[{"role": m.role, "content": m.content} for m in prompt]] * len(responses)
            completions = [[{"role": "assistant", "content": text}] for text in responses]
        try:
            return cast("Sequence[float | None]", function(prompts=prompts, completions=completions))
        except Exception as error:  # whatever foreign code does
            raise TastemakerError(f"labeller {who}: raised {type(error).__name__}: {error}") from error

    return Program(scores, f"{who} {source_hash(who)[:12]}")


def labellers(
    shares: Sequence[str], settings: JudgeSettings, *, responses: int = 2, answers: Answers | None = None
) -> list[tuple[Labeller, float]]:
    """`WHO` or `WHO=WEIGHT` each: `panel:NAME` (simulated people of the town), a file of people's labels,
    `FILE.py:FUNCTION`, or a judge as in `JudgeSettings.judge`.

    Raises:
        TastemakerError: a weight that is no number; as `make_judge` does.
    """
    found: list[tuple[Labeller, float]] = []
    for share in shares:
        who, _, given = share.rpartition("=") if "=" in share else (share, "", "1")
        try:
            weight = float(given)
        except ValueError as error:
            raise TastemakerError(f"labellers: {share}: {given!r} is no number; write WHO=WEIGHT") from error
        name, _, panel = who.partition(":")
        if name == "panel":
            found.append((TownPanel(Town(settings.town_seed), panel or "panel", settings.seed), weight))
        elif who.endswith(FILES):
            found.append((People(who, name=Path(who).name), weight))
        elif _FUNCTION.fullmatch(who):
            found.append((program(who), weight))
        else:
            own = replace(settings, judge=who)
            found.append((make_judge(own, responses=responses, answers=answers), weight))
    return found
