"""What DPO can be told, and which of it goes together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tastemaker.methods.base import Offline
from tastemaker.methods.pair_losses import LOSSES, check_names, check_switches, loss_names
from tastemaker.types import TastemakerError


@dataclass
class DPOOptions(Offline):
    """The settings of DPO, checked when they are given."""

    beta: float = 0.1
    """Strength of the pull towards the reference; larger stays closer. IPO's tau."""
    loss_type: str | tuple[str, ...] = "sigmoid"
    """The formula: sigmoid, sigmoid_norm, robust, hinge, ipo, ipo_norm, exo_pair, nca_pair, bco_pair,
    sppo_hard, apo_zero, apo_down, aot, aot_unpaired, discopop, rao_kupper, davidson, sft; or several, joined
    by commas."""
    loss_weights: tuple[float, ...] | None = None
    """Weight of each loss type where there are several; 1 each where none are given."""
    label_smoothing: float = 0.0
    """Probability, in [0, 0.5), that a preference label is wrong. exo_pair needs it above 0 (1e-3)."""
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """The divergence from the reference that is held down (f-DPO)."""
    f_alpha_divergence_coef: float = 0.5
    """For alpha_divergence: 1 is reverse KL, 0 forward KL."""
    discopop_tau: float = 0.05
    """Temperature of discopop's modulation."""
    tie_nu: float | None = None
    """How common ties are, for rao_kupper (3 unless given) and davidson (1)."""
    rpo_alpha: float | None = None
    """Weight of the chosen responses' negative log-likelihood per token, averaged over responses (RPO)."""
    dpop_lambda: float = 0.0
    """Weight of DPO-Positive's penalty where a chosen response falls below the reference (Smaug: 50)."""
    ld_alpha: float | None = None
    """Weight, in [0, 1], of tokens past the shorter response's length (LD-DPO)."""
    length_penalty: float = 0.0
    """Reward taken per token of length: alpha of R-DPO."""
    use_weighting: bool = False
    """Weigh each pair by how likely the policy is to write it (WPO)."""
    margin_offset: float = 0.0
    """The data's margin times this is how much better the chosen reward must be (ODPO)."""
    strength_weights: bool = False
    """Weigh each pair by the margin or strength the data give it; 0 where they give none."""
    sync_ref_model: bool = False
    """Move the reference towards the policy every ref_model_sync_steps steps (TR-DPO)."""
    ref_model_mixup_alpha: float = 0.6
    """Share of the policy in the reference's new weights; 1 copies it."""
    ref_model_sync_steps: int = 512
    """Steps between two moves of the reference."""

    def __post_init__(self) -> None:
        if len(self.losses) == 1:  # a list of one, as TRL writes it, is the same setting as its name
            self.loss_type = self.losses[0]
        check_names(self.losses)
        self._check_ranges()
        changed = {
            "label_smoothing": self.label_smoothing != 0,
            "f_divergence_type": self.f_divergence_type != "reverse_kl",
            "discopop_tau": self.discopop_tau != 0.05,
            "tie_nu": self.tie_nu is not None,
            "dpop_lambda": self.dpop_lambda != 0,
            "ld_alpha": self.ld_alpha is not None,
            "length_penalty": self.length_penalty != 0,
            "use_weighting": self.use_weighting,
            "margin_offset": self.margin_offset != 0,
            "strength_weights": self.strength_weights,
        }
        check_switches(self.losses, [option for option, on in changed.items() if on])
        for option, default, needs in (
            ("f_alpha_divergence_coef", 0.5, self.f_divergence_type == "alpha_divergence"),
            ("ref_model_mixup_alpha", 0.6, self.sync_ref_model),
            ("ref_model_sync_steps", 512, self.sync_ref_model),
        ):
            if getattr(self, option) != default and not needs:
                switch = "f_divergence_type=alpha_divergence" if option.startswith("f_") else "sync_ref_model"
                raise TastemakerError(f"{option} has no effect without {switch}")
        if self.dpop_lambda and self.f_divergence_type != "reverse_kl":
            raise TastemakerError("dpop_lambda is defined for f_divergence_type=reverse_kl")
        if self.strength_weights and self.knows_ties:
            raise TastemakerError("strength_weights would drop ties, whose strength is 0; take another loss")

    def _check_ranges(self) -> None:
        if self.beta <= 0:
            raise TastemakerError(f"beta is {self.beta}; it must be above 0 (0.1 is usual)")
        if not 0 <= self.label_smoothing < 0.5:
            raise TastemakerError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 0.5)")
        if "exo_pair" in self.losses and self.label_smoothing == 0:
            raise TastemakerError(
                "label_smoothing is 0 and exo_pair needs it in (0, 0.5); the paper's value is 1e-3"
            )
        if self.loss_weights is not None and len(self.loss_weights) != len(self.losses):
            raise TastemakerError(
                f"loss_weights holds {len(self.loss_weights)} numbers for {len(self.losses)} loss types"
            )
        if self.ld_alpha is not None and not 0 <= self.ld_alpha <= 1:
            raise TastemakerError(f"ld_alpha is {self.ld_alpha}; it must lie in [0, 1]")
        least = 1 if "rao_kupper" in self.losses else 0
        if self.tie_nu is not None and self.tie_nu <= least:
            raise TastemakerError(f"tie_nu is {self.tie_nu}; it must be above {least} for ties to be possible")
        if not 0 < self.ref_model_mixup_alpha <= 1:
            raise TastemakerError(
                f"ref_model_mixup_alpha is {self.ref_model_mixup_alpha}; it must lie in (0, 1]"
            )
        if self.discopop_tau <= 0 or self.ref_model_sync_steps < 1:
            raise TastemakerError("discopop_tau must be above 0 and ref_model_sync_steps at least 1")
        for name in ("rpo_alpha", "dpop_lambda", "loss_weights"):
            value = getattr(self, name) or 0
            if min(value if isinstance(value, tuple | list) else (value,)) < 0:
                raise TastemakerError(f"{name} is {value}; weights must not be negative")

    @property
    def losses(self) -> tuple[str, ...]:
        """The names in `loss_type`."""
        return loss_names(self.loss_type)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each."""
        return self.loss_weights or (1.0,) * len(self.losses)

    @property
    def knows_ties(self) -> bool:
        """Whether equal ranks are told from no comparison."""
        return any(LOSSES[name].knows_ties for name in self.losses)
