"""Reading policies: on tuning and test prompts when they are finished, every few steps while they trained, on
the pairs they learned from, and what costs no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tastemaker.data import Tokenised, read_records, tokenise
from tastemaker.evaluation import Evaluation, evaluate_policy, read_pairs
from tastemaker.functional import best_of_n_expectation, best_of_n_kl, tilted_mean
from tastemaker.models import RoleModels, build_roles
from tastemaker.rollout import LocalGenerator
from tastemaker.runs import Run
from tastemaker.studies.judges import Beside, TownJudge
from tastemaker.studies.start import as_questions, decoder, message_text
from tastemaker.studies.tasks import Report
from tastemaker.town import Town, TownSpec
from tastemaker.training.gold_peak import kept_step
from tastemaker.training.rewarding import learned_reward
from tastemaker.types import Comparison, Question, Record, Reward, Sampling, TastemakerError

PAIRS_READ = 256
"""Comparisons on which implicit rewards are read, of the arms' own and of those nobody trained on."""

READINGS = (("tuning", 1.0, "tuning"), ("test", 1.0, "sampled"), ("test", 0.0, "greedy"))
"""(prompts, temperature, name) of the readings of a finished policy."""


class Reader:
    """What all readings of one seed share: prompts, judge, proxy, sampling length."""

    def __init__(
        self,
        inputs: Mapping[str, Any],
        *,
        seed: int,
        spec: TownSpec | None,
        judge: str | None,
        reward: str,
        response_length: int | None,
        loading: Mapping[str, Any],
    ) -> None:
        self.seed = seed
        self.start: Mapping[str, Any] = inputs[f"start-{seed}"]
        self.loading = loading
        self.town = Town(seed, spec) if spec is not None else None
        self.length = int(response_length or self.start["response_length"])
        self._judge = inputs.get(f"judge-{seed}", {}).get("run") or judge
        self._reward = inputs[f"{reward}-{seed}"]["run"]
        self._referee: Reward | None = None

    def policy(self, folder: str | Path) -> RoleModels:
        """A policy beside the SFT policy."""
        return build_roles(
            ("policy", "reference"), (), policy=str(folder), reference=self.start["sft"], **self.loading
        )

    def referee(self, models: RoleModels) -> Reward:
        """The judge (the town's gold reward, or a reward model that no arm has seen), and beside it what the
        arms' reward model says.
        """
        if self._referee is None:
            scoring = build_roles(("reward",), (), policy=None, reward=self._reward, **self.loading)
            proxy = learned_reward(scoring, self._reward)
            if self.town is not None:
                judge: Reward = TownJudge(self.town, decoder(models.tokenizer))
            else:
                judging = build_roles(("reward",), (), policy=None, reward=self._judge, **self.loading)
                check_same_words(judging, models, self._judge)
                judge = learned_reward(judging, self._judge)
            self._referee = Beside(judge, proxy)
        return self._referee

    def prompts(self, split: str, number: int, models: RoleModels) -> Tokenised:
        """The same prompts for every arm of a seed: `split` is tuning or test."""
        if self.town is not None:
            questions = self.town.prompts(number, split, seed=7)  # pyright: ignore[reportArgumentType]
        else:
            questions = as_questions(read_records(self.start[split], Comparison).records, number)
        tokens = tokenise(questions, models.tokenizer)
        models.stop_at(tokens.end_token_ids)
        return tokens

    def read(self, models: RoleModels, tokens: Tokenised, temperature: float) -> Evaluation:
        return evaluate_policy(
            models,
            LocalGenerator(models, models.tokenizer),
            tokens.batch(range(len(tokens))),
            tokens.records,
            self.referee(models),
            sampling=Sampling(max_new_tokens=self.length, temperature=temperature),
            seed=self.seed,
            decode=decoder(models.tokenizer),
        )


def check_same_words(judging: RoleModels, models: RoleModels, judge: object) -> None:
    """Raises TastemakerError where the judge would take the policies' token ids for other words."""
    known = judging.tokenizer.get_vocab()
    if any(known.get(token) != i for token, i in models.tokenizer.get_vocab().items()):
        raise TastemakerError(
            f"{judge}: this judge has another vocabulary than the policies, so it would read other words than "
            "were written. Name a reward model trained from the same model family, or none to train one"
        )


def read_policy(
    *,
    folder: Path,
    report: Report,
    inputs: Mapping[str, Any],
    seed: int,
    arm: str | None,
    prompts: Mapping[str, int],
    **common: Any,
) -> dict[str, Any]:
    """Reads one policy (an arm's task name; None: the SFT policy itself) on tuning and test prompts, and an
    arm also on preference pairs.
    """
    reader = Reader(inputs, seed=seed, reward="reward", **common)
    models = reader.policy(inputs[arm]["run"] if arm is not None else reader.start["sft"])
    readings: dict[str, Any] = {}
    for split, temperature, name in (
        ("tuning", 1.0, "tuning"),
        ("test", 1.0, "sampled"),
        ("test", 0.0, "greedy"),
    ):
        tokens = reader.prompts(split, prompts[split], models)
        evaluation = reader.read(models, tokens, temperature)
        readings[name] = as_json(evaluation, tokens.records, texts=split == "test")
        report(len(readings), 4, {})
    if arm is not None:
        readings["pairs"] = {
            "train": on_pairs(models, reader.start["pairs"]),
            "held_out": on_pairs(models, reader.start["held_out"]),
        }
    return readings


def on_pairs(models: RoleModels, path: str) -> dict[str, float]:
    """The policy's implicit rewards on the first comparisons of a file."""
    records = read_records(path, Comparison).records[:PAIRS_READ]
    tokens = tokenise(records, models.tokenizer)
    return read_pairs(models, tokens.batch(range(len(tokens))).to(models.device))


def read_curve(
    *,
    folder: Path,
    report: Report,
    inputs: Mapping[str, Any],
    seed: int,
    arm: str,
    prompts: int,
    reward: str = "reward",
    **common: Any,
) -> dict[str, Any]:
    """How an arm moved while it trained: its snapshots read on tuning prompts, the SFT policy first."""
    reader = Reader(inputs, seed=seed, reward=reward, **common)
    run = Run.open(inputs[arm]["run"])
    snapshots: dict[int, str | Path] = {0: reader.start["sft"], **run.snapshots()}
    last = max((cast(int, m["step"]) for m in run.metrics() if "step" in m), default=0)
    end = kept_step(run)
    end = last if end is None else end
    if end not in snapshots:  # the policy that is judged is the end of its course, or the one that a gold chose
        snapshots[end] = run.folder
    snapshots = dict(sorted(snapshots.items()))
    points: list[dict[str, Any]] = []
    spent = {cast(int, m["step"]): m.get("total_flos") for m in run.metrics() if "step" in m}
    for step, policy in snapshots.items():
        models = reader.policy(policy)
        tokens = reader.prompts("tuning", prompts, models)
        point = curve_point(step, reader.read(models, tokens, 1.0).summary())
        points.append(point | {"flops": 0.0 if step == 0 else spent.get(step)})
        report(len(points), len(snapshots), {k: point[k] for k in ("kl", "score")})
    return {"points": points}


def curve_point(step: int, summary: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """One reading as a line of a curve."""
    known: dict[str, Any] = {"step": step}
    renamed = {"parts/proxy": "proxy"}
    for name, found in summary.items():
        value, error = found["mean"], found["se"]
        known[renamed.get(name, name)] = None if value != value else value
        if name in ("kl", "score", "parts/proxy"):
            known[f"{renamed.get(name, name)}_se"] = None if error != error else error
    return known


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


# --------------------------------------------------------------------------------- what costs no training


def read_baselines(
    *,
    folder: Path,
    report: Report,
    inputs: Mapping[str, Any],
    seed: int,
    prompts: int,
    samples: int,
    **common: Any,
) -> dict[str, Any]:
    """What costs no training: best-of-n by the reward model, and SFT samples tilted by the judge.

    Best-of-n is the unbiased expectation over subsets of the samples; the tilted policy is the best that any
    method could do at its KL, estimated by importance weights and given only where that KL is well under
    ln(samples) (below a third of it).
    """
    reader = Reader(inputs, seed=seed, reward="reward", **common)
    models = build_roles(("policy",), (), policy=reader.start["sft"], **reader.loading)
    tokens = reader.prompts("test", prompts, models)
    sampling = Sampling(max_new_tokens=reader.length, n=samples)
    generator = LocalGenerator(models, models.tokenizer)
    batch = generator.generate(tokens.batch(range(len(tokens))), sampling, seed=seed + 91)
    judged = reader.referee(models)(batch, tokens.records)
    scores = judged.total.double().cpu().view(-1, samples)
    proxy = judged.parts["proxy"].double().cpu().view(-1, samples)
    return {
        "best_of_n": [
            {
                "n": n,
                "kl": best_of_n_kl(n),
                "proxy": float(best_of_n_expectation(proxy, proxy, n).mean()),
                **mean_error(best_of_n_expectation(scores, proxy, n)),
            }
            for n in powers_of_two(samples)
        ],
        "tilted": tilted(scores),
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
