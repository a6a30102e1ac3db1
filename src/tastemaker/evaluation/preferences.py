"""Reading a policy on preference pairs: how it orders them, and how far they are from what it would say.

A policy and its reference carry an implicit reward, beta * log(policy / reference) of a whole response
(Rafailov et al. 2023, arXiv:2305.18290, section 4). Read on the pairs it was trained on and on pairs of
prompts it never saw, it tells learning from learning by heart; the log-probabilities themselves tell where
likelihood went (displacement: Razin et al. 2024, arXiv:2410.08847). beta scales margins and changes no order,
so it is left out here: everything is in nats.
"""

from __future__ import annotations

from torch import Tensor

from tastemaker.types import Bundles, Models, Role, TastemakerError


def read_pairs(models: Models, batch: Bundles) -> dict[str, float]:
    """What `models` (roles policy and reference) say of tokenised comparisons, which carry `rank`.

    Every strictly ordered pair counts once. Figures, each with its standard error under `<name>_se`:

    - `accuracy`: share of pairs whose chosen response has the larger log-ratio log(policy / reference); a
      tie counts half, so that an untrained policy has 0.5.
    - `margin`: chosen less rejected log-ratio, nats per response.
    - `chosen_logratio`, `rejected_logratio`: nats per response; below 0 the policy finds it less likely than
      its reference does. `..._per_token`: each response's own, over its length.
    - `chosen_logp_per_token`, `rejected_logp_per_token`: under the policy, nats per token;
      `reference_chosen_logp_per_token`, `reference_rejected_logp_per_token`: under the reference.
    - `chosen_length`, `rejected_length`: tokens that carry loss.

    and `pairs`, `trees`: how many there were. Standard errors take trees (prompts) as independent, not the
    pairs of one tree; NaN with fewer than two trees.

    Raises TastemakerError where no two responses are ordered.
    """
    better, worse = batch.pairs
    if len(better) == 0:
        raise TastemakerError(
            "there is no pair to read: no tree of the batch holds two responses of different rank. Give "
            "comparisons with a chosen and a rejected response."
        )
    policy, lengths = response_logps(models, "policy", batch)
    reference, _ = response_logps(models, "reference", batch)
    logratios = policy - reference
    margins = logratios[better] - logratios[worse]
    columns = {"accuracy": (margins > 0).double() + 0.5 * (margins == 0).double(), "margin": margins}
    for name, at in (("chosen", better), ("rejected", worse)):
        columns |= {
            f"{name}_logratio": logratios[at],
            f"{name}_logratio_per_token": (logratios / lengths)[at],
            f"{name}_logp_per_token": (policy / lengths)[at],
            f"reference_{name}_logp_per_token": (reference / lengths)[at],
            f"{name}_length": lengths[at],
        }
    tree = batch.tree.cpu()[better]
    read = {"pairs": float(len(better)), "trees": float(len(tree.unique()))}
    for name, values in columns.items():
        read[name], read[f"{name}_se"] = clustered_mean(values, tree)
    return read


def read_own(models: Models, samples: Bundles, role: Role = "reference") -> dict[str, float]:
    """How likely `role` finds the responses of `samples`, of any kind: `logp_per_token` (mean over responses of
    each one's own, nats), `logp_per_token_se` and `responses`.

    On the starting policy's own samples at temperature 1, under that policy, this is the level that pairs are
    compared with: `reference_chosen_logp_per_token` well below it means that the pairs were written by
    somebody else.
    """
    logps, lengths = response_logps(models, role, samples)
    mean, error = clustered_mean(logps / lengths, samples.tree.cpu())
    return {"logp_per_token": mean, "logp_per_token_se": error, "responses": float(len(logps))}


def response_logps(models: Models, role: Role, batch: Bundles) -> tuple[Tensor, Tensor]:
    """([R] log-probability of each response, [R] tokens it is over), float64 on the CPU; only tokens that carry
    loss count. At least one token is counted, so that a response without any divides by 1.
    """
    logps = models.score(role, batch).logps
    assert logps is not None
    mask = batch.trained
    lengths = batch.sum_by_response(mask.double()).clamp(min=1)
    return batch.sum_by_response(logps.double(), mask).cpu(), lengths.cpu()


def clustered_mean(values: Tensor, cluster: Tensor) -> tuple[float, float]:
    """Mean of `values` [n] and its standard error where values of one `cluster` [n] are not independent.

    se^2 = G / (G - 1) sum_g (sum of g's deviations from the mean)^2 / n^2 over G clusters (Liang and Zeger
    1986); with one value each, the usual sd / sqrt(n). NaN for G < 2.
    """
    mean = values.mean()
    _, group = cluster.unique(return_inverse=True)
    number = int(group.max()) + 1
    if number < 2:
        return float(mean), float("nan")
    sums = values.new_zeros(number).index_add(0, group, values - mean)
    error = (sums.square().sum() * number / (number - 1)).sqrt() / len(values)
    return float(mean), float(error)
