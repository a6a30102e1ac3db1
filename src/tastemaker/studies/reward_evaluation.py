"""A reward model evaluated on pairs from a file: scored, reported, and its page written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tastemaker.data import Tokenised, prompt_key, read_records, tokenise
from tastemaker.data.files import is_known, read_file
from tastemaker.errors import TastemakerError
from tastemaker.evaluation.reward_report import ScoredPairs, best_of_n_curve, reward_report
from tastemaker.models import build_roles
from tastemaker.runs import Run, lineage
from tastemaker.runs.lineage import Node
from tastemaker.studies.pages import write_page
from tastemaker.studies.pages.reward import reward_page
from tastemaker.training.gold_peak import GOLD_PROMPTS
from tastemaker.types import Comparison, Record, Text

LEAST_GROUP = 4
"""Responses to one prompt from which a best-of-n curve is drawn."""


def evaluate_reward(
    reward: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    seen: str = "refuse",
    limit: int | None = None,
    loading: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], Path]:
    """Reads the reward model on the pairs of `data` (any layout of comparisons; LLMBar's too): (results, page).

    `seen`: what to do with pairs whose prompts the model was trained on: refuse, drop, or keep them.

    Raises TastemakerError where the model has no reward head, no pair is ordered, a score is not finite, or
    prompts were trained on.
    """
    records = read_pairs_file(data, limit)
    records, notes = without_seen(records, reward, seen)
    models = build_roles(("reward",), (), policy=None, reward=str(reward), **(loading or {}))
    tokens = tokenise(records, models.tokenizer, max_length=models.max_positions or 4096, keep_ties=True)
    batch = tokens.batch(range(len(tokens)))
    scored = models.score("reward", batch.to(models.device)).rewards
    if scored is None:
        raise TastemakerError(f"{reward}: this model scores steps, not responses, so it orders no pairs.")
    if len(tokens) < len(records):
        notes.append(f"{len(records) - len(tokens)} of {len(records)} rows could not be read by this model.")
    pairs = scored_pairs(tokens, scored.cpu())
    results: dict[str, Any] = {
        "title": short_name(reward),
        "reward": short_name(reward),
        "source": Path(data).name,
        "seed": seed,
        "notes": notes,
        "report": reward_report(pairs, seed=seed),
        "best_of_n": group_curve(tokens, scored.cpu()),
        "scatter": scatter(tokens, scored.cpu()),
    }
    return results, write_page(Path(out), reward_page(results), results)


def short_name(run: str | Path) -> str:
    """A run's folder, with the one above it where its own says nothing."""
    parts = Path(run).parts
    return (
        "/".join(parts[-2:]) if parts and parts[-1] in ("run", "model") else (parts[-1] if parts else str(run))
    )


def read_pairs_file(data: str | Path, limit: int | None = None) -> list[Record]:
    """Comparisons of a file; LLMBar's rows (input, output_1, output_2, label) keep their subset as the
    source.
    """
    path = Path(data)
    if path.is_file() and is_known(path):
        table = read_file(path, limit)
        first = next((r.values for r in table.rows if r.values is not None), {})
        if {"output_1", "output_2", "label"} <= set(first):
            return [_llmbar(table.where(r.number), r.values or {}) for r in table.rows]
    return list(read_records(str(data), Comparison).records[:limit])


def _llmbar(where: str, values: Any) -> Comparison:
    said = values.get("label")
    if said not in (0, 1, 2):
        raise TastemakerError(
            f"{where}, field label: {said!r}; it should be 1 or 2, the better output (0: a tie)."
        )
    return Comparison(
        prompt=str(values.get("input", "")),
        responses=(str(values["output_1"]), str(values["output_2"])),
        ranking={0: (0, 0), 1: (0, 1), 2: (1, 0)}[said],
        source=str(values.get("subset", "")),
        row=where,
    )


def without_seen(records: Sequence[Record], model: str | Path, seen: str) -> tuple[list[Record], list[str]]:
    """(records to use, notes): those whose prompts were in the training data of `model` or its parents are
    refused, dropped or kept, as `seen` says.
    """
    if seen not in ("refuse", "drop", "keep"):
        raise TastemakerError(f"seen={seen!r}: should be refuse, drop or keep.")
    known = trained_prompts(model)
    at = [prompt_key(r) in known for r in records]
    number = sum(at)
    if not number:
        return list(records), []
    said = f"{number} of {len(records)} prompts are in the training (or tuning) data of {model} or its parents"
    if seen == "refuse":
        raise TastemakerError(
            f"{said}, so that they tell learning by heart from nothing. Give other prompts, or say --seen "
            f"drop (or keep)."
        )
    if seen == "keep":
        return list(records), [f"{said}; they were kept."]
    left = [r for r, known_ in zip(records, at, strict=True) if not known_]
    if not left:
        raise TastemakerError(f"{said}: none is left. Give other prompts.")
    return left, [f"{said}; they were dropped."]


def trained_prompts(model: str | Path) -> set[str]:
    """Keys of all prompts that the run or its parents were trained on, or had a checkpoint chosen on, as far as
    their files are still there.
    """
    if not Run.is_run(model):
        return set()
    found: set[str] = set()
    waiting: list[Node] = [lineage(model)]
    while waiting:
        node = waiting.pop()
        waiting += node.parents
        sources = [s.source for s in node.run.record.data] if node.run is not None else []
        if node.role == GOLD_PROMPTS:  # its checkpoint was chosen on these: a tuning set is no test set
            sources.append(node.path)
        for path in map(Path, sources):
            if path.is_file():
                found |= {prompt_key(r) for r in read_records(str(path)).records}
    return found


def finite_scores(said: Sequence[float | None], reward: str, prompts: Sequence[Text]) -> Tensor:
    """[n] float64, NaN where the reward model gave no score (an empty or too long answer).

    Raises TastemakerError for a score that is NaN or infinite, naming its prompt.
    """
    for value, prompt in zip(said, prompts, strict=True):
        if value is not None and not math.isfinite(value):
            raise TastemakerError(
                f"{reward}: it scores an answer to {str(prompt)[:80]!r} with {value}. Its weights or their "
                "precision are broken; load it in float32 and look at this prompt."
            )
    return torch.tensor([math.nan if s is None else s for s in said], dtype=torch.float64)


def scored_pairs(tokens: Tokenised, scores: Tensor) -> ScoredPairs:
    """Every pair of responses of one prompt; of a tie both sides in the order they stand."""
    first: list[int] = []
    second: list[int] = []
    tied: list[bool] = []
    owner: list[int] = []
    start = 0
    for at, record in enumerate(tokens.records):
        assert isinstance(record, Comparison)
        ranks = record.ranking
        for i in range(len(ranks)):
            for j in range(i):
                a, b = (i, j) if ranks[i] < ranks[j] else (j, i)
                first.append(start + a)
                second.append(start + b)
                tied.append(ranks[i] == ranks[j])
                owner.append(at)
        start += len(ranks)
    lengths = torch.tensor(
        [float(length_of(r)) for record in tokens.records for r in record.responses]  # pyright: ignore[reportAttributeAccessIssue] (comparisons alone are read)
    )
    records = [tokens.records[i] for i in owner]
    return ScoredPairs(
        chosen=scores[first],
        rejected=scores[second],
        chosen_lengths=lengths[first],
        rejected_lengths=lengths[second],
        tied=torch.tensor(tied),
        subset=[getattr(r, "source", "") for r in records],
        annotator=[getattr(r, "annotator", "") for r in records],
        rows=[r.row for r in records],
    )


def length_of(text: Text) -> int:
    """Characters."""
    return len(text) if isinstance(text, str) else sum(len(m.content) for m in text)


def group_curve(tokens: Tokenised, scores: Tensor) -> list[dict[str, float]]:
    """Best-of-n by the people's own ranks (1 for the best, 0 for the worst), where prompts have four
    responses.
    """
    flat = scores.double().mean(-1) if scores.dim() == 2 else scores.double()
    rows: list[Tensor] = []
    values: list[Tensor] = []
    start = 0
    sizes = [len(t.responses) for t in tokens.trees]
    common = min((s for s in sizes if s >= LEAST_GROUP), default=0)
    for record, size in zip(tokens.records, sizes, strict=True):
        if size == common and isinstance(record, Comparison) and max(record.ranking) > 0:
            ranks = torch.tensor(record.ranking, dtype=torch.float64)
            rows.append(flat[start : start + size])
            values.append(1 - ranks / ranks.max())
        start += size
    return best_of_n_curve(torch.stack(rows), torch.stack(values)) if rows else []


def scatter(tokens: Tokenised, scores: Tensor, most: int = 600) -> dict[str, list[float]]:
    """Scores against length in characters, of at most `most` responses, evenly taken."""
    flat = scores.double().mean(-1) if scores.dim() == 2 else scores.double()
    lengths = [float(length_of(r)) for record in tokens.records for r in getattr(record, "responses", ())]
    step = max(1, len(lengths) // most)
    return {"length": lengths[::step], "score": flat[::step].tolist()}
