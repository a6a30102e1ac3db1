"""Bradley and Terry 1952; Touvron et al. 2023, eq. 2; Rafailov et al. 2023, eq. 7; Mitchell 2023 (cDPO)."""

from references.scalars import log_sigmoid, sigmoid


def bradley_terry(better: float, worse: float, margin: float = 0.0) -> float:
    """-log P(better wins), P = sigmoid(r_better - r_worse - margin)"""
    return -log_sigmoid(better - worse - margin)


def dpo(
    policy_chosen: float,
    policy_rejected: float,
    reference_chosen: float,
    reference_rejected: float,
    beta: float,
    flip: float = 0.0,
) -> float:
    """Expected -log likelihood of the label when it is flipped with probability `flip`."""
    chosen_reward = beta * (policy_chosen - reference_chosen)
    rejected_reward = beta * (policy_rejected - reference_rejected)
    as_labelled = -log_sigmoid(chosen_reward - rejected_reward)
    as_flipped = -log_sigmoid(rejected_reward - chosen_reward)
    return (1 - flip) * as_labelled + flip * as_flipped


def dpo_gradient_of_chosen(logratio: float, beta: float) -> float:
    """Rafailov et al. 2023, section 4: -beta sigmoid(rejected reward - chosen reward)"""
    return -beta * sigmoid(-beta * logratio)
