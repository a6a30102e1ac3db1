"""Labellers by name: a panel of the town, a file of people's labels, a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tastemaker.feedback.judge import Answers
from tastemaker.feedback.labellers import Labeller, People
from tastemaker.town import PANELS, Town
from tastemaker.town.critic import Critic
from tastemaker.training.judging import JudgeSettings, make_judge
from tastemaker.types import Comparison, TastemakerError

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


def labellers(
    shares: Sequence[str], settings: JudgeSettings, *, responses: int = 2, answers: Answers | None = None
) -> list[tuple[Labeller, float]]:
    """`WHO` or `WHO=WEIGHT` each: `panel:NAME` (simulated people of the town), a file of people's labels, or a
    judge as in `JudgeSettings.judge`.

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
        else:
            own = replace(settings, judge=who)
            found.append((make_judge(own, responses=responses, answers=answers), weight))
    return found
