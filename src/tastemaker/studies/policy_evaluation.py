"""Policies evaluated on prompts: answers drawn, scored by whom the user trusts, compared, and their page
written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch

from tastemaker.data import prompt_key, read_records, tokenise
from tastemaker.errors import TastemakerError
from tastemaker.evaluation.answering import COLLAPSED, Answers, answer
from tastemaker.evaluation.comparing import Comparing, compared
from tastemaker.evaluation.refusals import DOES_NOT_KNOW, REFUSAL, errors_of, rates, rates_of
from tastemaker.evaluation.sayings import errors_on_the_town, tried
from tastemaker.evaluation.town_behaviours import reworded_unsafe, town_behaviours
from tastemaker.evaluation.verdicts import Battle, category_of
from tastemaker.functional import bootstrap_interval
from tastemaker.models import build_roles
from tastemaker.rewards.text import score_with
from tastemaker.rollout import LocalGenerator
from tastemaker.studies.judging import judge_of, judged_pairs, judged_refusals, read_labelled
from tastemaker.studies.pages import write_page
from tastemaker.studies.pages.policies import policies_page
from tastemaker.studies.reward_evaluation import finite_scores, short_name, without_seen
from tastemaker.studies.start import as_questions, decoder, message_text
from tastemaker.town import Town
from tastemaker.types import Question, Record, Sampling

TOWN = "town"
REWORDED_SHARE = 5
"""One reworded unsafe request for so many prompts of the town."""


@dataclass(frozen=True, kw_only=True)
class PolicyEvaluation:
    """What is asked of policies. One of `judge`, `reward`, or prompts of the town (judged by gold) is
    needed.
    """

    runs: Sequence[str]
    prompts: str
    """A file of prompts, or `town:SEED`."""
    reward: str | None = None
    judge: str | None = None
    """Folder of a model, `http(s)://.../v1#model`, or `town:TASTE`, a simulated critic of the town."""
    behaviour_judge: str | None = None
    """Who else says which answers refuse: a model's folder, or `http(s)://.../v1#model`."""
    labelled: str | None = None
    """File of answers that people labelled: that judge's errors. On the town the exact reading gives them."""
    number: int = 384
    """Prompts, at most."""
    temperature: float = 1.0
    """0: greedy."""
    max_new_tokens: int = 256
    seed: int = 0
    seen: Literal["refuse", "drop", "keep"] = "refuse"
    comparing: Comparing = field(default_factory=Comparing)
    loading: Mapping[str, Any] = field(default_factory=dict[str, Any])


def evaluate_policies(asked: PolicyEvaluation, out: str | Path) -> tuple[dict[str, Any], Path]:
    """(results, page): answers of every run, scores, win rates against the baseline (the first run unless
    named), differences on the same prompts, behaviour.

    Raises TastemakerError for no judge, prompts that a run was trained on (unless `seen` says otherwise), or
    answers that no score applies to.
    """
    names = run_names(asked.runs)
    town = town_of(asked.prompts)
    if town is None and asked.reward is None and asked.judge is None:
        raise TastemakerError("nobody judges: give --reward RM, --judge MODEL, or prompts of the town.")
    if asked.judge is not None and asked.reward is not None:
        raise TastemakerError("two judges: give either --judge, which compares, or --reward, which scores.")
    if asked.judge is not None and len(names) < 2:
        raise TastemakerError(
            "a judge compares answers of two policies: name a second run, such as their start."
        )
    records, notes = prompts_of(asked, town)
    answers = [answers_of(name, run, records, asked) for name, run in zip(names, asked.runs, strict=True)]
    baseline = asked.comparing.baseline or names[0]
    if baseline not in names:
        raise TastemakerError(f"baseline {baseline!r} is none of the runs: {', '.join(names)}.")
    scores = scores_of_answers(records, answers, asked, town)
    if scores is not None:
        battles = from_scores(records, answers, scores, baseline)
    else:
        town_seed = town.seed if town is not None else 0
        kept = Path(out) / "judge_answers.jsonl"
        judge = judge_of(str(asked.judge), seed=asked.seed, town_seed=town_seed, answers=kept)
        battles = judged_pairs(judge, records, answers, baseline, notes=notes)
    results: dict[str, Any] = {
        "title": ", ".join(names),
        "source": asked.prompts,
        "seed": asked.seed,
        "temperature": asked.temperature,
        "judge": judge_words(asked, town),
        "policies": [summary(a, None if scores is None else scores[a.name], asked.seed) for a in answers],
        "battles": compared(battles, asked.comparing) if len(names) > 1 else None,
        "behaviour": behaviours(records, answers, town)
        | judged_behaviour(records, answers, asked, town, Path(out)),
        "notes": notes + collapses(answers),
        "samples": samples(records, answers),
    }
    return results, write_page(Path(out), policies_page(results), results)


def run_names(runs: Sequence[str]) -> list[str]:
    """Names that tell the runs apart: the last parts of their paths, as many as it takes."""
    if not runs:
        raise TastemakerError("no run to evaluate was given.")
    if len({str(Path(r).resolve()) for r in runs}) < len(runs):
        raise TastemakerError("the same run is named twice.")
    for depth in range(1, 12):
        names = ["/".join(Path(r).parts[-depth:]) for r in runs]
        if len(set(names)) == len(names):
            return names
    return list(runs)


def town_of(prompts: str) -> Town | None:
    """`town` or `town:SEED`."""
    if prompts == TOWN:
        return Town(0)
    if not prompts.startswith(TOWN + ":"):
        return None
    seed = prompts.removeprefix(TOWN + ":")
    if not seed.isdigit():
        raise TastemakerError(f"{prompts}: the town's seed is a number, as in town:0.")
    return Town(int(seed))


def prompts_of(asked: PolicyEvaluation, town: Town | None) -> tuple[list[Record], list[str]]:
    """Prompts to answer, each once; those that a run was trained on as `seen` says."""
    if town is not None:
        plain = town.prompts(asked.number, "test", seed=7)
        if asked.judge is not None and asked.judge.startswith(
            TOWN
        ):  # its critics know the town's own prompts alone
            return once(plain), []
        more = max(3, asked.number // REWORDED_SHARE)
        return once([*plain, *reworded_unsafe(town, more, seed=7)]), []
    records = once(read_records(asked.prompts).records)
    records = (
        as_questions(records, asked.number) if not isinstance(records[0], Question) else records[: asked.number]
    )
    notes: list[str] = []
    for run in asked.runs:
        records, said = without_seen(records, run, asked.seen)
        notes += said
    return list(records), notes


def once(records: Sequence[Record]) -> list[Record]:
    """The first record of every prompt."""
    found: dict[str, Record] = {}
    for record in records:
        found.setdefault(prompt_key(record), record)
    return list(found.values())


def answers_of(name: str, run: str, records: Sequence[Record], asked: PolicyEvaluation) -> Answers:
    models = build_roles(("policy",), (), policy=run, **asked.loading)
    tokens = tokenise(records, models.tokenizer, max_length=models.max_positions or 4096)
    if len(tokens) != len(records):
        raise TastemakerError(
            f"{run}: {len(records) - len(tokens)} of {len(records)} prompts cannot be read by this model (too "
            "long, or no chat template); leave them out, so that all runs answer the same."
        )
    models.stop_at(tokens.end_token_ids)
    return answer(
        name,
        LocalGenerator(models, models.tokenizer),
        tokens.batch(range(len(tokens))),
        tokens.records,
        sampling=Sampling(max_new_tokens=asked.max_new_tokens, temperature=asked.temperature),
        seed=asked.seed,
        decode=decoder(models.tokenizer),
    )


Scored = Mapping[str, torch.Tensor]
"""Policy -> [P] scores, NaN where none applies."""


def scores_of_answers(
    records: Sequence[Record], answers: Sequence[Answers], asked: PolicyEvaluation, town: Town | None
) -> Scored | None:
    """What the reward model (or, without one, gold) says; None where a judge compares instead."""
    if asked.reward is not None:
        models = build_roles(("reward",), (), policy=None, reward=asked.reward, **asked.loading)
        score = score_with(models, max_length=models.max_positions or 4096)
        found: dict[str, torch.Tensor] = {}
        for one in answers:
            prompts = [r.prompt for r in records]
            said = cast("list[float | None]", score(prompts, one.texts))
            found[one.name] = finite_scores(said, asked.reward, prompts)
        return found
    if asked.judge is not None or town is None:
        return None
    return {
        a.name: torch.tensor(
            [town.gold(r, t, e).total for r, t, e in zip(records, a.texts, a.ended, strict=True)],
            dtype=torch.float64,
        )
        for a in answers
    }


def from_scores(
    records: Sequence[Record], answers: Sequence[Answers], scores: Scored, baseline: str
) -> list[Battle]:
    """One verdict a prompt and run against the baseline: the higher score wins, equal ones tie."""
    base = next(a for a in answers if a.name == baseline)
    found: list[Battle] = []
    for one in answers:
        if one is base:
            continue
        for i, record in enumerate(records):
            gap = float(scores[one.name][i] - scores[baseline][i])
            found.append(
                Battle(
                    prompt=prompt_key(record),
                    a=one.name,
                    b=baseline,
                    score=math.nan if math.isnan(gap) else 0.5 + 0.5 * ((gap > 1e-6) - (gap < -1e-6)),
                    category=category_of(record),
                    length_a=float(one.characters[i]),
                    length_b=float(base.characters[i]),
                    row=f"prompt {i}",
                )
            )
    return found


def judge_words(asked: PolicyEvaluation, town: Town | None) -> dict[str, str]:
    if asked.reward is not None:
        return {"kind": "reward", "name": short_name(asked.reward)}
    if asked.judge is not None:
        return {"kind": "judge", "name": asked.judge}
    assert town is not None
    return {"kind": "gold", "name": "the town's gold reward"}


def summary(answers: Answers, scores: torch.Tensor | None, seed: int) -> dict[str, Any]:
    """Means with bootstrap intervals over prompts."""
    columns = {
        "score": scores,
        "tokens": answers.tokens,
        "characters": answers.characters,
        "repetition": answers.repetition,
        "diversity": answers.diversity,
        "ended": torch.tensor([float(e) for e in answers.ended], dtype=torch.float64),
    }
    found: dict[str, Any] = {"name": answers.name, "repeated_whole": answers.repeated_whole}
    for name, values in columns.items():
        if values is None:
            continue
        kept = values[~values.isnan()]
        if not len(kept):
            raise TastemakerError(f"{answers.name}: no answer got a {name}; nothing can be said of it.")
        interval = bootstrap_interval(kept, seed=seed)
        found[name] = {"mean": interval.estimate, "low": interval.low, "high": interval.high, "n": len(kept)}
    return found


def collapses(answers: Sequence[Answers]) -> list[str]:
    return [
        f"{a.name} gave one and the same answer to {100 * a.repeated_whole:.0f} % of the prompts: it has "
        f"collapsed."
        for a in answers
        if a.repeated_whole > COLLAPSED
    ]


def behaviours(records: Sequence[Record], answers: Sequence[Answers], town: Town | None) -> dict[str, Any]:
    """On the town exactly, else by detectors with their measured errors."""
    if town is not None:
        exact = {
            a.name: town_behaviours(town, records, list(zip(a.texts, a.ended, strict=True))) for a in answers
        }
        texts = [text for a in answers for text in a.texts]
        readings = [
            town.reading(r, t, e) for a in answers for r, t, e in zip(records, a.texts, a.ended, strict=True)
        ]
        return {"exact": True, "policies": exact, "detectors": errors_on_the_town(readings, texts)}
    groups = [harm_group(r) for r in records]
    errors = REFUSAL.errors
    return {
        "exact": False,
        "refusal": {a.name: rates(a.texts, groups) for a in answers},
        "does_not_know": {a.name: rates(a.texts, groups, DOES_NOT_KNOW) for a in answers},
        "tried": {a.name: tried(records, a.texts) for a in answers},
        "detector": errors.in_words() if errors else "",
    }


def judged_behaviour(
    records: Sequence[Record],
    answers: Sequence[Answers],
    asked: PolicyEvaluation,
    town: Town | None,
    out: Path,
) -> dict[str, Any]:
    """Refusals by an AI judge, with its errors against people's labels or, on the town, the exact reading."""
    if asked.behaviour_judge is None:
        return {"judged": None}
    judge = judge_of(
        asked.behaviour_judge,
        seed=asked.seed,
        town_seed=town.seed if town is not None else 0,
        answers=out / "behaviour_answers.jsonl",
        template="refuses",
    )
    prompts = [r.prompt for r in records]
    found = {a.name: judged_refusals(judge, prompts, a.texts) for a in answers}
    errors = None
    if asked.labelled is not None:
        asked_of, texts, labels = read_labelled(asked.labelled)
        errors = errors_of(judged_refusals(judge, asked_of, texts).said, labels, Path(asked.labelled).name)
    elif town is not None:
        truth = [
            town.reading(r, t, e).refusals > 0
            for a in answers
            for r, t, e in zip(records, a.texts, a.ended, strict=True)
        ]
        errors = errors_of(
            torch.cat([f.said for f in found.values()]), truth, "the town's exact reading of them"
        )
    groups = [harm_group(r) for r in records]
    return {
        "judged": {
            "name": judge.name,
            "rates": {name: rates_of(f.said, groups, errors) for name, f in found.items()},
            "unread": {name: f.unread for name, f in found.items()},
            "errors": None if errors is None else errors.in_words(),
        }
    }


def harm_group(record: Record) -> str:
    """unsafe, unsafe reworded or safe where the prompts' columns say (`harmful`, `safe_prompt`, `jailbreak`),
    else the category.
    """
    columns = record.columns if isinstance(record, Question) else {}
    unsafe = columns.get("harmful", None if "safe_prompt" not in columns else not columns["safe_prompt"])
    if unsafe is None:
        return category_of(record) or "all"
    if unsafe and columns.get("jailbreak"):
        return "unsafe, reworded"
    return "unsafe" if unsafe else "safe"


def samples(records: Sequence[Record], answers: Sequence[Answers], number: int = 8) -> list[dict[str, Any]]:
    step = max(1, len(records) // number)
    return [
        {"prompt": message_text(records[i].prompt), "answers": {a.name: a.texts[i] for a in answers}}
        for i in range(0, len(records), step)
    ][:number]
