"""Loss and metrics on data that is not trained on."""

from __future__ import annotations

import torch

from tastemaker.config import TrainSettings
from tastemaker.data import Tokenised
from tastemaker.training.distributed import World
from tastemaker.training.loop import merged
from tastemaker.training.metrics import Totals
from tastemaker.types import Method, Metric, Models

CHUNK = 256
"""Trees prepared at a time."""


@torch.no_grad()
def held_out_metrics(
    method: Method, models: Models, tokenised: Tokenised, settings: TrainSettings, world: World
) -> dict[str, float]:
    """The method's loss, each term by its own unit over the whole data, and its metrics, as `eval_*`.

    Every process computes all of it, so that no process waits for another.
    """
    totals = Totals()
    for start in range(0, len(tokenised.trees), CHUNK):
        chunk = tokenised.batch(range(start, min(start + CHUNK, len(tokenised.trees)))).to(models.device)
        ready = method.prepare(models, chunk, lambda values: values)
        for micro in ready.cut(settings.tokens_per_microbatch):
            scores = merged(
                models.score(role, micro, temperature=method.scoring_temperature, entropy=True)
                for role in method.trains
            )
            loss = method.loss(scores, micro)
            units = method.units(micro)
            terms = {
                f"_{n}": Metric(total.detach(), float(units[unit])) for n, (total, unit) in loss.terms.items()
            }
            totals.add(terms)
            totals.add(loss.metrics)
    reduced = totals.reduced(World())
    loss_value = sum(v for name, v in reduced.items() if name.startswith("_"))
    named = {f"eval_{name}": v for name, v in reduced.items() if not name.startswith("_")}
    return {"eval_loss": loss_value, **named}
