"""`tm.evaluate`: what `tastemaker evaluate` does, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.errors import TastemakerError
from tastemaker.evaluation.comparing import Comparing
from tastemaker.runs import Run

Models = Run | str | Path | Sequence[Run | str | Path]


@dataclass(frozen=True)
class Evaluated:
    """What was found, and where it lies."""

    report: Path
    """The page; results.json and results.csv lie beside it."""
    results: Mapping[str, Any]

    def open(self) -> None:
        """Shows the report in the browser."""
        import webbrowser

        webbrowser.open(self.report.resolve().as_uri())


def evaluate(
    models: Models | None = None,
    *,
    prompts: str | Path | None = None,
    data: str | Path | None = None,
    judgements: str | Path | None = None,
    reward: Run | str | Path | None = None,
    judge: str | None = None,
    best_of_n: int | None = None,
    policy: Run | str | Path | None = None,
    gold: Run | str | Path | None = None,
    comparing: Comparing | None = None,
    out: str | Path = "evaluation",
    **options: Any,
) -> Evaluated:
    """Says how good policies, a reward model or recorded verdicts are, with intervals, on a page in `out`.

    Args:
        models: policies (runs, folders, names), or one reward model; none for `judgements`.
        prompts: a file of prompts that the policies answer, or "town:SEED" (judged by the town's gold).
        data: a file of comparisons: the model is then a reward model, read on them.
        judgements: a file of recorded verdicts or ratings; no model is needed.
        reward: the reward model that scores the policies' answers.
        judge: who compares them: a model's folder, "http://host/v1#model", or "town:TASTE".
        best_of_n: the model is a reward model that chooses among so many answers to `prompts`.
        policy: whose answers it chooses from.
        gold: another reward model, which says what its choice is worth; none: the town's gold.
        comparing: how verdicts are compared: baseline, ratings, stopping rule.
        out: the folder.
        **options: `number`, `temperature`, `max_new_tokens`, `seed`, `seen`, `loading`, where they apply.

    Raises:
        TastemakerError: what is asked for does not go together, or cannot be read; prompts that a model was
            trained on, unless `seen` says otherwise.
    """
    names = names_of(models)
    if judgements is not None:
        from tastemaker.studies.evaluations import evaluate_judgements

        if names:
            raise TastemakerError("judgements need no model: leave the models out.")
        results, page = evaluate_judgements(judgements, out, comparing)
    elif best_of_n is not None:
        from tastemaker.studies.best_of_n import BestOfN, evaluate_best_of_n

        asked = BestOfN(
            reward=only(names, "best_of_n"),
            policy=only(names_of(policy), "best_of_n: policy"),
            prompts=str(needed(prompts, "best_of_n", "prompts")),
            gold=None if gold is None else names_of(gold)[0],
            samples=best_of_n,
            **options,
        )
        results, page = evaluate_best_of_n(asked, out)
    elif data is not None:
        from tastemaker.studies.reward_evaluation import evaluate_reward

        taken = {"limit" if k == "number" else k: v for k, v in options.items()}
        results, page = evaluate_reward(only(names, "data"), data, out, **taken)
    else:
        from tastemaker.studies.policy_evaluation import PolicyEvaluation, evaluate_policies

        scored = None if reward is None else names_of(reward)[0]
        of_policies = PolicyEvaluation(
            runs=names,
            prompts=str(needed(prompts, "policies", "prompts")),
            reward=scored,
            judge=judge,
            comparing=comparing or Comparing(),
            **options,
        )
        results, page = evaluate_policies(of_policies, out)
    return Evaluated(page, results)


def names_of(models: Models | None) -> list[str]:
    """Folders or names, as the command takes them."""
    if models is None:
        return []
    each = [models] if isinstance(models, Run | str | Path) else list(models)
    return [str(m.folder) if isinstance(m, Run) else str(m) for m in each]


def only(names: Sequence[str], what: str) -> str:
    if len(names) != 1:
        raise TastemakerError(f"{what}: takes one model, and {len(names)} are given.")
    return names[0]


def needed(value: str | Path | None, what: str, name: str) -> str | Path:
    if value is None:
        raise TastemakerError(f"{what}: need {name}; or give data (for a reward model), or judgements.")
    return value
