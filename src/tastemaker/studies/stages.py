"""The stages of a comparison after its start: reward models, arms, readings. Each runs in its own process.

A stage gets its folder, a function to report progress, the results of the stages it needs (by name) and
its own arguments; it returns a dict for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tastemaker.config import method_and_settings
from tastemaker.data import read_records, tokenise
from tastemaker.evaluation import Evaluation, evaluate_policy, reward_accuracy
from tastemaker.functional import best_of_n_expectation, best_of_n_kl, tilted_mean
from tastemaker.methods import METHODS
from tastemaker.models import build_roles
from tastemaker.rollout import LocalGenerator
from tastemaker.runs import Run
from tastemaker.studies.judges import TownJudge
from tastemaker.studies.start import as_questions, cost_of, decoder, message_text
from tastemaker.studies.tasks import Report
from tastemaker.town import Town, TownSpec
from tastemaker.training import train
from tastemaker.training.rewarding import learned_reward
from tastemaker.types import Comparison, Models, Question, Record, Reward, Sampling

MANY = 1_000_000
"""Steps between checkpoints in a study: arms are short and are run again whole."""


def arm_inputs(inputs: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
    """The result of this seed's start."""
    return inputs[f"start-{seed}"]


def train_reward(
    *,
    folder: Path,
    report: Report,
    inputs: Mapping[str, Any],
    seed: int,
    draw: int,
    settings: Mapping[str, Any],
    pairs: str,
    loading: Mapping[str, Any],
) -> dict[str, Any]:
    """A reward model on the pairs named `pairs` of the start, read on held-out pairs. `draw` is its seed."""
    start = arm_inputs(inputs, seed)
    run = fit_arm("reward", folder / "run", report, {**settings, "seed": draw}, start["sft"], start[pairs])
    models = build_roles(("reward",), (), policy=start["sft"], reward=run.folder, **loading)
    held_out = tokenise(read_records(start["held_out"], Comparison), models.tokenizer)
    gold = torch.tensor(start["held_out_gold"]).flatten() if "held_out_gold" in start else None
    batch = held_out.batch(range(len(held_out)))
    if gold is not None and len(gold) != len(batch.lengths):
        gold = None
    return {"run": str(run.folder), "cost": cost_of(run), "held_out": reward_accuracy(models, batch, gold)}


def train_arm(
    *,
    folder: Path,
    report: Report,
    inputs: Mapping[str, Any],
    seed: int,
    method: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """One method at one setting on one seed."""
    start = arm_inputs(inputs, seed)
    reward = inputs.get(f"reward-{seed}", {}).get("run")
    if METHODS[method].online and "response_length" not in settings:
        settings = {**settings, "response_length": start["response_length"]}
    run = fit_arm(
        method, folder / "run", report, {**settings, "seed": seed}, start["sft"], start["pairs"], reward
    )
    return {"run": str(run.folder), "cost": cost_of(run), "stopped": run.record.reason, "curve": curve(run)}


def fit_arm(
    name: str,
    out: Path,
    report: Report,
    flat: Mapping[str, Any],
    model: str,
    data: str,
    reward: str | None = None,
) -> Run:
    cls = METHODS[name]
    method, settings = method_and_settings(cls, {"save_steps": MANY, "num_samples": 0, **flat})
    return train(
        method,
        model=model,
        data=data,
        reward=reward if "reward" in cls.roles and "reward" not in cls.trains else None,
        out=out,
        settings=settings,
        progress=lambda step, total, m: report(step, total, telling(m)),
    )


TELLING = ("loss", "accuracy", "rewards/accuracies", "rewards/margins", "objective/kl", "objective/scores")


def telling(metrics: Mapping[str, float]) -> dict[str, float]:
    """The numbers that matter while one waits."""
    return {k: metrics[k] for k in TELLING if k in metrics}


def curve(run: Run) -> list[dict[str, float]]:
    """Up to 60 lines of the run's metrics, the last one included."""
    lines = run.metrics()
    every = max(1, len(lines) // 60)
    kept = [m for i, m in enumerate(lines) if i % every == 0 or i == len(lines) - 1]
    return [{k: float(v) for k, v in m.items() if isinstance(v, int | float)} for m in kept]


# ------------------------------------------------------------------------------------------- reading


def judge_of(
    models: Models, decode: Any, seed: int, spec: TownSpec | None, judge: str | None, loading: Mapping[str, Any]
) -> tuple[Reward, Town | None]:
    """The judge of a study: the town's gold reward, or a reward model that no arm has seen."""
    if spec is not None:
        town = Town(seed, spec)
        return TownJudge(town, decode), town
    judging = build_roles(("reward",), (), policy=None, reward=judge, **loading)
    return learned_reward(judging, judge), None


def prompts_of(split: str, number: int, start: Mapping[str, Any], town: Town | None) -> list[Question]:
    """The same prompts for every arm of a seed: `split` is tuning or test."""
    if town is not None:
        return town.prompts(number, split, seed=7)  # pyright: ignore[reportArgumentType]
    return as_questions(read_records(start[split], Comparison).records, number)


def read_policy(
    *,
    folder: Path,
    report: Report,
    inputs: Mapping[str, Any],
    seed: int,
    arm: str | None,
    spec: TownSpec | None,
    judge: str | None,
    prompts: Mapping[str, int],
    response_length: int | None,
    loading: Mapping[str, Any],
) -> dict[str, Any]:
    """Reads one policy (an arm's task name; None: the SFT policy itself) on tuning and test prompts."""
    start = arm_inputs(inputs, seed)
    policy = inputs[arm]["run"] if arm is not None else start["sft"]
    models = build_roles(("policy", "reference"), (), policy=policy, reference=start["sft"], **loading)
    decode = decoder(models.tokenizer)
    proxy = inputs.get(f"judge-{seed}", {}).get("run") or judge
    referee, town = judge_of(models, decode, seed, spec, proxy, loading)
    generator = LocalGenerator(models, models.tokenizer)
    readings: dict[str, Any] = {}
    for split, temperature, name in (
        ("tuning", 1.0, "tuning"),
        ("test", 1.0, "sampled"),
        ("test", 0.0, "greedy"),
    ):
        questions = prompts_of(split, prompts[split], start, town)
        tokens = tokenise(questions, models.tokenizer)
        models.stop_at(tokens.end_token_ids)
        evaluation = evaluate_policy(
            models,
            generator,
            tokens.batch(range(len(tokens))),
            tokens.records,
            referee,
            sampling=Sampling(
                max_new_tokens=response_length or start["response_length"], temperature=temperature
            ),
            seed=seed,
            decode=decode,
        )
        readings[name] = as_json(evaluation, tokens.records, texts=split == "test")
        report(len(readings), 3, {})
    return readings


def as_json(evaluation: Evaluation, records: Sequence[Record], *, texts: bool) -> dict[str, Any]:
    """Summary and values per prompt; with the texts themselves for the report."""
    result: dict[str, Any] = {
        "summary": evaluation.summary(),
        "columns": {name: rounded(values) for name, values in evaluation.columns().items()},
    }
    if texts:
        result["prompts"] = [message_text(r.prompt) for r in records]
        result["kinds"] = [str(r.columns.get("kind", "")) if isinstance(r, Question) else "" for r in records]
        result["texts"] = [text.strip() for text in evaluation.texts]
    return result


def rounded(values: Tensor) -> list[float | None]:
    """JSON knows no NaN: what does not apply is null."""
    return [None if v != v else round(v, 6) for v in values.tolist()]


def read_baselines(
    *,
    folder: Path,
    report: Report,
    inputs: Mapping[str, Any],
    seed: int,
    spec: TownSpec | None,
    judge: str | None,
    prompts: int,
    samples: int,
    response_length: int | None,
    loading: Mapping[str, Any],
) -> dict[str, Any]:
    """What costs no training: best-of-n by the reward model, and SFT samples tilted by the judge.

    Best-of-n is the unbiased expectation over subsets of the samples; the tilted policy is the best that any
    method could do at its KL, estimated by importance weights and given only where that KL is well under
    ln(samples) (below a third of it).
    """
    start = arm_inputs(inputs, seed)
    reward = inputs[f"reward-{seed}"]["run"]
    models = build_roles(("policy", "reward"), (), policy=start["sft"], reward=reward, **loading)
    decode = decoder(models.tokenizer)
    proxy = inputs.get(f"judge-{seed}", {}).get("run") or judge
    referee, town = judge_of(models, decode, seed, spec, proxy, loading)
    questions = prompts_of("test", prompts, start, town)
    tokens = tokenise(questions, models.tokenizer)
    models.stop_at(tokens.end_token_ids)
    sampling = Sampling(max_new_tokens=response_length or start["response_length"], n=samples)
    generator = LocalGenerator(models, models.tokenizer)
    batch = generator.generate(tokens.batch(range(len(tokens))), sampling, seed=seed + 91)
    judged = referee(batch, tokens.records).total.double().cpu().view(-1, samples)
    scored = learned_reward(models, reward)(batch, tokens.records).total.double().cpu().view(-1, samples)
    return {
        "best_of_n": [
            {"n": n, "kl": best_of_n_kl(n), **mean_error(best_of_n_expectation(judged, scored, n))}
            for n in powers_of_two(samples)
        ],
        "tilted": tilted(judged),
    }


def powers_of_two(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def mean_error(values: Tensor) -> dict[str, float]:
    """[P] -> mean over prompts with its standard error."""
    return {"score": float(values.mean()), "se": float(values.std(correction=1)) / len(values) ** 0.5}


def tilted(judged: Tensor, betas: Sequence[float] = (8, 4, 2, 1, 0.5)) -> list[dict[str, float]]:
    """The policy pi_SFT exp(judge / beta) / Z at several beta, from [P, n] judged SFT samples."""
    limit = torch.log(torch.tensor(float(judged.shape[1]))).item() / 3
    found: list[dict[str, float]] = []
    for beta in betas:
        estimate = tilted_mean(judged, judged, beta)
        kl = float(estimate.kl.mean())
        if kl <= limit:
            found.append({"beta": beta, "kl": kl, **mean_error(estimate.mean)})
    return found
