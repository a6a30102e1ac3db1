"""Several adapters over one base as one full model: their updates stacked, averaged or merged by TIES.

What is combined are the updates of whole weight matrices, not the low-rank factors: a weighted sum of factors
is no weighted sum of updates (the product has cross terms). Everything is done in a copy; the base keeps its
weights bit for bit.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from peft.utils.merge_utils import ties
from torch import Tensor, nn
from transformers import PreTrainedModel

from tastemaker.models.adapters import merge
from tastemaker.models.load import LoadedModel, Source, load_causal
from tastemaker.models.weights import cast_weights, model_hash, tied_output
from tastemaker.types import TastemakerError

How = Literal["stack", "linear", "ties"]


def merge_adapters(
    sources: Sequence[Source],
    *,
    how: How = "linear",
    weights: Sequence[float] | None = None,
    density: float = 0.5,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """One full model out of adapters (runs or peft folders) over one and the same base.

    `stack`: W + sum_i w_i D_i, every w_i 1 unless given: all adapters at work at once. `linear`: the same with
    w_i 1/K. `ties`: of each D_i the share `density` of largest entries is kept, the sign with more mass is
    elected for each entry, and the entries of that sign are averaged (Yadav et al. 2023, "TIES-merging",
    arXiv:2306.01708), by peft's own function, every w_i 1. D_i is adapter i's update of a weight, in float32;
    the sum is rounded once to the base's dtype.

    Raises:
        TastemakerError: fewer than two adapters, adapters over different bases, a source without an adapter, a
        number
            of weights that is not theirs, a density outside (0, 1].
    """
    if how not in ("stack", "linear", "ties"):
        raise TastemakerError(f"merge: how={how!r}: should be stack, linear or ties")
    if len(sources) < 2:
        raise TastemakerError(f"merge: {len(sources)} adapter given; give two or more")
    if not 0 < density <= 1:
        raise TastemakerError(f"merge: density is {density}; it must be above 0 and at most 1")
    if weights is not None and len(weights) != len(sources):
        raise TastemakerError(f"merge: {len(weights)} weights for {len(sources)} adapters; give one for each")
    loaded = [load_causal(source, trust_remote_code=trust_remote_code) for source in sources]
    first = loaded[0]
    for found in loaded:
        if found.adapter is None:
            raise TastemakerError(f"merge: {found.name} holds no adapter, but a whole model")
        if found.base_hash != first.base_hash:
            raise TastemakerError(
                f"merge: {found.name} was trained over another base than {first.name}; only adapters over one "
                "and the same weights can be merged"
            )
    shares = (
        list(weights) if weights is not None else [1 / len(sources) if how == "linear" else 1.0] * len(sources)
    )
    model = _combined(first.model, loaded, how, shares, density)
    digest = model_hash(model)
    return replace(
        first,
        model=model,
        adapter=None,
        weights_hash=digest,
        base_hash=digest,
        location=None,
        base_location=None,
    )


def _combined(
    base: PreTrainedModel, loaded: Sequence[LoadedModel], how: How, shares: Sequence[float], density: float
) -> PreTrainedModel:
    dtype = base.dtype
    wide = _wide(base)
    before = {name: parameter.detach() for name, parameter in _untied(wide).items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The PEFT config")  # bases of one hash may have many names
        models = [merge(wide, found.adapter) for found in loaded if found.adapter is not None]
    updates: list[dict[str, Tensor]] = []
    for model in models:
        own = _untied(model)
        updates.append({name: own[name].detach() - start for name, start in before.items()})
    # Where an adapter parts an output head from the embedding it was tied to, the result has both.
    result = next((m for m in models if tied_output(wide) and not tied_output(m)), wide)
    joined = {n: w + _joined([u[n] for u in updates], how, shares, density) for n, w in before.items()}
    target = _untied(result)
    with torch.no_grad():
        for name, values in joined.items():
            target[name].copy_(values)
    cast_weights(result, dtype)
    return result.requires_grad_(False).eval()


def _joined(updates: list[Tensor], how: How, shares: Sequence[float], density: float) -> Tensor:
    if how == "ties" and any(bool(u.any()) for u in updates):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The density")  # 1 is allowed: nothing is left out
            return ties(updates, torch.tensor(shares, dtype=updates[0].dtype), density)
    total = torch.zeros_like(updates[0])
    for share, update in zip(shares, updates, strict=True):
        total += share * update
    return total


def _wide(base: PreTrainedModel) -> PreTrainedModel:
    """A copy in float32 (float64 stays)."""
    duplicate = copy.deepcopy(base)
    cast_weights(duplicate, torch.promote_types(duplicate.dtype, torch.float32))
    return duplicate


def _untied(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by name, tied ones under every name they have."""
    return dict(model.named_parameters(remove_duplicate=False))
