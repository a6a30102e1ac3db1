"""The table of DPO's loss types: which formula, what it reads, which options mean something to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tastemaker.config import nearest
from tastemaker.functional import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    davidson_loss,
    discopop_loss,
    dpo_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    nca_pair_loss,
    rao_kupper_loss,
    robust_dpo_loss,
    sppo_hard_loss,
)
from tastemaker.types import TastemakerError

Reads = Literal["difference", "normalised", "each", "aot", "aot_unpaired", "tokens"]
"""What a formula reads of a pair: the difference of summed log-ratios, the same per token, each log-ratio,
log-ratios sorted over the batch, or the chosen response's tokens."""


@dataclass(frozen=True)
class PairLoss:
    """One loss type."""

    formula: Callable[..., Tensor]
    """Of log-ratios [Q], one or two, with `beta` -> [Q]."""
    reads: Reads = "difference"
    options: Mapping[str, str] | None = None
    """Keyword of the formula -> field of DPO."""
    knows_ties: bool = False

    def takes(self, field: str) -> bool:
        return self.options is not None and field in self.options.values()


def _rao_kupper(logratios: Tensor, *, beta: float, nu: float | None, tied: bool = False) -> Tensor:
    return rao_kupper_loss(beta * logratios, nu=3.0 if nu is None else nu, tied=tied)


def _davidson(logratios: Tensor, *, beta: float, nu: float | None, tied: bool = False) -> Tensor:
    return davidson_loss(beta * logratios, nu=1.0 if nu is None else nu, tied=tied)


def _sft(*_: Tensor, beta: float) -> Tensor:
    raise RuntimeError("sft is a sum over tokens; no pair has it")


SMOOTHING = {"label_smoothing": "label_smoothing"}

LOSSES: Mapping[str, PairLoss] = {
    "sigmoid": PairLoss(dpo_loss, options=SMOOTHING),
    "sigmoid_norm": PairLoss(dpo_loss, "normalised", SMOOTHING),
    "robust": PairLoss(robust_dpo_loss, options=SMOOTHING),
    "hinge": PairLoss(hinge_loss),
    "ipo": PairLoss(ipo_loss),
    "ipo_norm": PairLoss(ipo_loss, "normalised"),
    "exo_pair": PairLoss(exo_pair_loss, options=SMOOTHING),
    "nca_pair": PairLoss(nca_pair_loss, "each"),
    "bco_pair": PairLoss(bco_pair_loss, "each"),
    "sppo_hard": PairLoss(sppo_hard_loss, "each"),
    "apo_zero": PairLoss(apo_zero_loss, "each"),
    "apo_down": PairLoss(apo_down_loss, "each"),
    "aot": PairLoss(dpo_loss, "aot", SMOOTHING),
    "aot_unpaired": PairLoss(dpo_loss, "aot_unpaired", SMOOTHING),
    "discopop": PairLoss(discopop_loss, options={"tau": "discopop_tau"}),
    "rao_kupper": PairLoss(_rao_kupper, options={"nu": "tie_nu"}, knows_ties=True),
    "davidson": PairLoss(_davidson, options={"nu": "tie_nu"}, knows_ties=True),
    "sft": PairLoss(_sft, "tokens"),
}

SWITCHES: Mapping[str, tuple[Sequence[Reads], str]] = {
    "f_divergence_type": (
        ("difference", "normalised"),
        "another divergence leaves a term in Z(x), which cancels in the difference of a pair alone",
    ),
    "margin_offset": (("difference", "normalised"), "there is no difference to offset"),
    "length_penalty": (("difference",), "it is a price per token on the difference of summed log-ratios"),
    "dpop_lambda": (("difference",), "it is part of the difference of summed log-ratios"),
    "ld_alpha": (("difference", "normalised", "each", "aot", "aot_unpaired"), "nothing compares two lengths"),
    "use_weighting": (("difference", "normalised", "each"), "no loss belongs to one pair"),
    "strength_weights": (("difference", "normalised", "each"), "no loss belongs to one pair"),
}
"""Option -> what a loss must read for it to mean something, and why it means nothing otherwise."""


def loss_names(loss_type: str | Sequence[str]) -> tuple[str, ...]:
    """The loss types asked for, of one name, of names joined by commas, or of a list."""
    parts = loss_type.split(",") if isinstance(loss_type, str) else loss_type
    return tuple(part.strip() for part in parts)


def check_names(names: Sequence[str], known: Sequence[str] = tuple(LOSSES)) -> None:
    """Raises TastemakerError for a loss type that there is none of, with the nearest that there is."""
    if not names:
        raise TastemakerError(f"loss_type is empty; known: {', '.join(known)}")
    for name in names:
        if name not in known:
            close = nearest(name, known)
            meant = f"did you mean {' or '.join(close)}? " if close else ""
            raise TastemakerError(f"loss_type {name!r} is unknown; {meant}Known: {', '.join(known)}")
    if len(set(names)) < len(names):
        raise TastemakerError(f"loss_type {', '.join(names)}: each at most once; loss_weights says how much")


def check_switches(names: Sequence[str], active: Sequence[str]) -> None:
    """Raises TastemakerError for an option that would do nothing, or nothing sound, to one of the losses."""
    pairwise = [name for name in names if LOSSES[name].reads != "tokens"]
    for option in active:
        if option in SWITCHES:
            reads, why = SWITCHES[option]
            wrong = [n for n in pairwise or names if LOSSES[n].reads not in reads]
            if wrong:
                fitting = ", ".join(n for n, loss in LOSSES.items() if loss.reads in reads)
                raise TastemakerError(
                    f"{option} does not go with loss_type {wrong[0]}: {why}. It goes with {fitting}"
                )
        elif not any(LOSSES[name].takes(option) for name in names):
            fitting = ", ".join(n for n, loss in LOSSES.items() if loss.takes(option))
            raise TastemakerError(
                f"{option} has no effect with loss_type {', '.join(names)}; leave it out. It is for {fitting}"
            )
