"""Pages of online rounds: one after every round, one over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tastemaker.data import prompt_key
from tastemaker.runs import MADE_FILE, Run, lineage, render_tree
from tastemaker.runs.lines import read_object
from tastemaker.studies.chain import Made
from tastemaker.studies.pages import write_page
from tastemaker.studies.rounds.page import round_page, summary_page
from tastemaker.studies.rounds.reading import Reader, columns, label_figures, summarised, weights_of
from tastemaker.studies.rounds.recipe import Round, Rounds
from tastemaker.studies.rounds.stages import different_prompts
from tastemaker.studies.start import cost_of
from tastemaker.types import TastemakerError

LENGTH = 48
"""Most tokens of an answer, where the stage `respond` says nothing."""


class Reports:
    """Reads every round's policy and writes the pages."""

    def __init__(self, rounds: Rounds, done: dict[str, Made]) -> None:
        """`done`: stages by name, filled while the rounds go on.

        Raises TastemakerError where it is not known on which prompts policies are to be read, or where rounds
        ask those.
        """
        self._rounds, self._done = rounds, done
        values = {step.name: step.values for step in rounds.chain.steps}
        first = rounds.rounds[0]
        seeds = [int(s.values.get("seed", 0)) for s in rounds.chain.steps if s.method == "town"]
        test = rounds.reading.test or (f"town:{seeds[0]}" if seeds else None)
        if test is None:
            raise TastemakerError("report: test is missing: a file of held-out prompts, which no round asks")
        self._first = place_of(rounds.first, done)
        self._reader = Reader(
            rounds.reading,
            test=test,
            first=self._first,
            length=int(values[first.respond].get("response_length", LENGTH)),
            folder=rounds.chain.out / "readings",
            town_seed=seeds[0] if seeds else 0,
        )
        asked = {prompt_key(r) for r in different_prompts(place_of(rounds.prompts, done))}
        shared = sum(prompt_key(r) in asked for r in self._reader.records)
        if shared:
            raise TastemakerError(
                f"report: {shared} of {len(self._reader.records)} held-out prompts of {test} are among those "
                f"that rounds may ask ({rounds.prompts}); take them out of one of the two"
            )
        labelling = values[first.label]
        self._reader.judge_name = labelling.get("judge") if not labelling.get("labellers") else None
        self._each: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {}

    def add(self, each: Round) -> Path:
        """Reads a round that is done; writes its page and the summary. Returns the round's page."""
        found = self._read(each)
        self._each.append(found)
        settings = self._rounds.settings
        common = {
            "judge": self._reader.told_by(),
            "test": str(self._rounds.reading.test or "the town's test prompts"),
            "prompts": len(self._reader.records),
            "settings": {
                "rounds": settings.rounds,
                "prompts_per_round": settings.prompts_per_round,
                "same_prompts": settings.same_prompts,
                "learn_from": settings.learn_from,
                "reference": settings.reference,
            },
        }
        out = self._rounds.chain.out
        one = {**common, **found}
        page = write_page(out / "reports" / f"round-{each.number}", round_page(one), one)
        start = columns(self._reader.answers(self._first))
        self.results = {**common, "start": start, "rounds": self._each}
        write_page(out, summary_page(self.results), self.results)
        return page

    def _read(self, each: Round) -> dict[str, Any]:
        """Everything that a round's page says."""
        reader, before = self._reader, place_of(each.sampler, self._done)
        policy = self._folder(each.policy)
        places = {"start": self._first, "before": before, "after": str(policy)}
        answers = {name: reader.answers(place) for name, place in places.items()}
        model = self._folder(each.reward) if each.reward is not None else None
        rewards = {
            name: reader.rewards(str(model), found["texts"]) if model is not None else None
            for name, found in answers.items()
        }
        run = Run.open(policy)
        data = run.record.data[0] if run.record.data else None
        label = self._folder(each.label)
        summary = dict(read_object(label / "summary.json")) if (label / "summary.json").exists() else {}
        return {
            "round": each.number,
            "policy": {"name": each.policy, "run": str(policy), "weights": run.weights_hash},
            "sampler": {"name": each.sampler, "run": before, "weights": weights_of(before)},
            "policies": {name: summarised(answers[name], rewards[name]) for name in places},
            "wins": {
                "before": reader.win_rate(answers["after"], answers["before"]),
                "start": reader.win_rate(answers["after"], answers["start"]),
            },
            "labels": {**label_figures(label / "pairs.jsonl", reader.town), "summary": summary},
            "learned_from": self._learned_from(each, data.rows if data else 0),
            "costs": self._costs(each),
            "columns": columns(answers["after"]),
            "samples": reader.samples(answers),
            "lineage": render_tree(lineage(run)).splitlines(),
        }

    def _learned_from(self, each: Round, rows: int) -> int:
        """Labels that the round's policy, or its reward model, was trained on."""
        if each.reward is None:
            return rows
        return sum(d.rows for d in Run.open(self._folder(each.reward)).record.data)

    def _folder(self, stage: str) -> Path:
        return self._done[stage].folder

    def _costs(self, each: Round) -> list[dict[str, Any]]:
        """What every stage of the round took; a judge's questions and price with it."""
        start = 0 if each.number == 1 else self._rounds.rounds[each.number - 2].end
        begin = max(start, self._rounds.start)
        return [
            _cost(self._done[step.name]) for step in self._rounds.chain.steps[begin : each.end]
        ]  # what came before the rounds is no round's cost


def _cost(made: Made) -> dict[str, Any]:
    found: dict[str, Any] = {"stage": made.step.name, "method": made.step.method}
    if made.run is not None:
        spent = cost_of(made.run)
        return found | {k: spent[k] for k in ("wall_seconds", "cpu_seconds", "flops")}
    left = cast("Mapping[str, Any]", read_object(made.folder / MADE_FILE)).get("resources", {})
    found |= {k: left.get(k) for k in ("wall_seconds", "cpu_seconds")}
    summary = made.folder / "summary.json"
    if summary.exists():
        by = cast("Mapping[str, Any]", read_object(summary))
        asked = [v for v in by.values() if isinstance(v, dict) and "asked" in v]
        spent = cast("list[Mapping[str, float]]", asked)
        if spent:
            found |= {"asked": sum(s["asked"] for s in spent), "cost": sum(s.get("cost", 0) for s in spent)}
        if "seconds" in by:
            found["people_seconds"] = by["seconds"]
    return found


def place_of(link: str, done: Mapping[str, Made]) -> str:
    """The folder or file that a name of a stage stands for; other names stand for themselves."""
    name, _, what = link.partition("/")
    if name not in done:
        return link
    return str(done[name].folder / what if what else done[name].result)
