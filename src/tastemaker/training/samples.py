"""A few responses of a trained policy, to be read by people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tastemaker.data import Tokenised
from tastemaker.models import RoleModels
from tastemaker.rollout import LocalGenerator
from tastemaker.training.loop import step_seed
from tastemaker.types import Bundles, Method, Sampling

UNLIMITED = 2**31
"""Tokens; what no limit means."""


def sample_lines(
    models: RoleModels, tokenised: Tokenised, method: Method, *, number: int, seed: int
) -> Iterator[dict[str, object]]:
    """One response to each of the first `number` prompts of the data, as lines for samples.jsonl."""
    prompts = without_responses(tokenised.batch(range(min(number, len(tokenised.trees)))))
    longest = max(len(t.prompt) for t in prompts.trees)
    config = models.generation_model("policy")[0].config
    room = (getattr(config, "max_position_embeddings", None) or UNLIMITED) - longest
    if room < 1:
        return
    sampling = Sampling(max_new_tokens=min(room, int(getattr(method, "response_length", 128))))
    generator = LocalGenerator(models, models.tokenizer)
    responses = generator.generate(prompts, sampling, seed=step_seed(seed, -1))
    for tree in responses.trees:
        yield {
            "row": tree.row,
            "prompt": models.tokenizer.decode(tree.prompt.tolist()),
            "response": models.tokenizer.decode(tree.responses[0].tolist()),
            "ended": tree.ended[0],
        }


def without_responses(batch: Bundles) -> Bundles:
    """The prompts alone, each tree keeping its row."""
    trees = tuple(replace(t, responses=(), trained=None, ended=()) for t in batch.trees)
    return Bundles(trees=trees, tree_columns=batch.tree_columns, device=batch.device)
