"""From what a run asks for to its roles: `build_roles`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tastemaker.models.adapters import LoraSettings
from tastemaker.models.assemble import Plan, ValueInit, assemble
from tastemaker.models.heads import HeadKind
from tastemaker.models.load import Source
from tastemaker.models.prepared import Attention
from tastemaker.models.roles import RoleModels
from tastemaker.types import Role, TastemakerError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def build_roles(
    roles: Sequence[Role],
    trains: Sequence[Role],
    *,
    policy: Source | None,
    reference: Source | None = None,
    reward: Source | None = None,
    lora: LoraSettings | None = None,
    head: HeadKind = "last",
    heads: int = 1,
    objectives: Sequence[str] = (),
    value_init: ValueInit = "reward",
    value_head: bool = False,
    dtype: str | torch.dtype = "auto",
    frozen_dtype: str | torch.dtype = "auto",
    four_bits: bool = False,
    device: str | torch.device = "auto",
    attention: Attention = "auto",
    token_budget: int = 16384,
    gradient_checkpointing: bool = False,
    seed: int = 0,
    trust_remote_code: bool = False,
    revision: str | None = None,
    moving_reference: float | None = None,
    offload: Path | None = None,
) -> RoleModels:
    """Loads what `roles` need and shares weights between them.

    `policy` is the model the run starts from, whichever role it trains; a model given in memory is copied,
    never changed. `reference` None means the start itself: a frozen copy of those very weights (with LoRA
    the base with adapters off, or a frozen copy of the adapter started from). `reward` is a reward run or a
    reward model, needed where `reward` is a role and not trained; where it is trained, `head` names its
    kind (`heads`: how many an ensemble has; `objectives`: what each of its scores is about). `value_init` says
    where a value model starts; with `value_head` it is a head on the policy's own states and nothing more. A
    start that is a LoRA run continues its adapter.

    `dtype` auto: float32 on the CPU, bfloat16 elsewhere (a float64 model stays float64). With bfloat16 the
    trained weights stay float32 masters under autocast and frozen weights are stored in bfloat16.
    `frozen_dtype`: of roles that are not trained and share no weights with one that is. `four_bits` keeps the
    backbone under LoRA adapters in 4 bits.
    `moving_reference` gives the reference weights of its own that `mix` may move, and says by what share.
    `offload`: a frozen reference or reward model with weights of its own waits elsewhere between its passes:
    on a CPU in a file under this folder, with CUDA in the host's memory.
    `token_budget` bounds the forward passes of `score`. Fresh adapters and heads are drawn from `seed`.

    Raises TastemakerError for what the user can mend; see `load_causal`.
    """
    placed = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    plan = Plan(
        roles=roles,
        trains=trains,
        policy=policy,
        reference=reference,
        reward=reward,
        lora=lora,
        head=head,
        heads=heads,
        objectives=objectives,
        value_init=value_init,
        value_head=value_head,
        compute=_compute_dtype(dtype, placed),
        frozen=None if frozen_dtype == "auto" else _compute_dtype(frozen_dtype, placed),
        four_bits=four_bits,
        seed=seed,
        trust_remote_code=trust_remote_code,
        revision=revision,
        moving_reference=moving_reference,
    )
    return RoleModels(
        assemble(plan),
        device=placed,
        attention=attention,
        token_budget=token_budget,
        gradient_checkpointing=gradient_checkpointing,
        moving=("reference",) if moving_reference is not None else (),
        offload=offload,
    )


def _compute_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype | None:
    if isinstance(dtype, str) and dtype != "auto":
        if dtype not in DTYPES:
            raise TastemakerError(f"dtype {dtype!r} is not known; choose auto, {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    if isinstance(dtype, torch.dtype):
        return dtype
    return None if device.type == "cpu" else torch.bfloat16
