"""The reference contract: what must be true before step 1, checked on the first batch.

Where the reference is the starting policy, both must give every token the same log-probability; then DPO's
loss is ln 2, its margins are 0, the KL is 0 and PPO's ratio is 1. A reference reloaded by name, a forgotten
adapter or live dropout breaks this and would otherwise train against the wrong policy in silence.
"""

from __future__ import annotations

import torch

from tastemaker.types import Bundles, Models, TastemakerError

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Nats per token by the policy's own number format; the same layout and weights give equal numbers, so
this only has to cover a reference kept in a shorter format."""
ROUNDED = 0.1
"""Nats per token, on average, where either is kept in bfloat16: single tokens may round by more."""


def check_reference(models: Models, batch: Bundles, *, temperature: float, exact: bool) -> float:
    """The difference between policy and reference over the first batch, in nats per token: the largest where
    both are kept in float32 or wider (`exact`), the mean otherwise.
    Raises TastemakerError when they differ.
    """
    policy = models.score("policy", batch, temperature=temperature).logps
    reference = batch.token_columns.get("reference_logps")
    if reference is None:
        reference = models.score("reference", batch, temperature=temperature).logps
    assert policy is not None
    assert reference is not None
    if len(policy) == 0:
        return 0.0
    apart = (policy - reference).abs()
    difference = float(apart.max() if exact else apart.mean())
    limit = TOLERANCE.get(policy.dtype, 1e-4) if exact else ROUNDED
    if not difference <= limit:
        raise TastemakerError(
            f"the reference is not the starting policy: before step 1 their log-probabilities differ by "
            f"{difference:.3g} nats per token (allowed: {limit:g}), so DPO's loss would not be ln 2 and the KL "
            "not 0. If another reference is wanted, name it with --ref-model; otherwise the model given is not "
            "deterministic (dropout, custom code) and cannot be its own reference."
        )
    return difference
