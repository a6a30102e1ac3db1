"""The roles of preference learning over shared weights: policy, reference, reward model, value model.

`build_roles` (build.py) decides who shares what (`assemble`); `RoleModels` computes, trains and saves. Dropout
is off in every role, always: with it on, a policy differs from its own reference before the first step.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tastemaker.models import export
from tastemaker.models.adapters import AnyModel, adapter_hash, extract
from tastemaker.models.assemble import Assembly, Slot
from tastemaker.models.backbone import base_of
from tastemaker.models.flops import Counted, Spent, Stage, count
from tastemaker.models.forward import Want
from tastemaker.models.heads import HeadKind, kind_of
from tastemaker.models.prepared import Attention, Prepared, role_parameters, weights_of
from tastemaker.models.probe import ProbeResult
from tastemaker.models.weights import backbone_hash, combined_hash, model_hash, reward_hash
from tastemaker.types import Bundles, Role, Scores, TastemakerError

WANTS: Mapping[Role, Want] = {"policy": "logps", "reference": "logps", "reward": "rewards", "value": "values"}
OFFLOADED: frozenset[Role] = frozenset({"reference", "reward"})
"""Roles that are asked for whole passes and for nothing else."""
CPU_TOKENS = 2048
"""Most tokens in a forward pass without gradient on a CPU."""


@dataclass(frozen=True, slots=True)
class RoleRow:
    """One line of the table that says how roles share weights."""

    backbone: int
    """Roles with the same number share one full copy of weights."""
    adapter: str | None
    """None: the backbone's own weights (with LoRA: adapters off)."""
    head: HeadKind | None
    trained: bool
    trainable_parameters: int


class RoleModels:
    """The roles of one run. Implements `types.Models`; made by `build_roles`."""

    def __init__(
        self,
        assembly: Assembly,
        *,
        device: torch.device,
        attention: Attention,
        token_budget: int,
        gradient_checkpointing: bool,
        moving: Sequence[Role] = (),
        offload: Path | None = None,
    ) -> None:
        self.token_budget = token_budget
        self.dtype = assembly.compute
        self.reference_is_start = assembly.reference_is_start
        """Whether the reference is the policy as it stands before step 1."""
        self.notes: tuple[str, ...] = tuple(assembly.notes)
        """What the user should be told about how the roles were made."""
        self._device = device
        self._moving = tuple(moving)
        self._slots: dict[Role, Slot] = dict(assembly.slots)
        self._stored = {role: base_of(slot.backbone.model).dtype for role, slot in assembly.slots.items()}
        self._prepared: dict[int, Prepared] = {}
        self._open: list[Role] = []
        self._counted: dict[Role, Counted] = {}
        self._spent = Spent()
        offloaded: list[Role] = []
        for slot in self._slots.values():
            key = id(slot.backbone)
            if key not in self._prepared:
                sharing: dict[Role, Slot] = {
                    role: s for role, s in self._slots.items() if s.backbone is slot.backbone
                }
                still = all(r in OFFLOADED and not s.trained and r not in moving for r, s in sharing.items())
                away = offload if still else None
                offloaded += [] if away is None else sharing
                self._prepared[key] = Prepared(
                    slot.backbone,
                    sharing,
                    checkpointing=gradient_checkpointing,
                    device=device,
                    attention=attention,
                    offload=away,
                )
            if slot.head is not None:
                slot.head.to(device)
        if offload is not None and not offloaded:
            self.notes += (
                "offload_frozen: there is nothing to hold elsewhere, since no frozen reference or reward model "
                "has weights of its own.",
            )

    # ------------------------------------------------------------------------------- computing

    @property
    def device(self) -> torch.device:
        return self._device

    def exact(self, role: Role) -> bool:
        """Whether a role computes in float32 or wider; also asked of one that is released."""
        return torch.bfloat16 not in (self.dtype, self._stored[role])

    @property
    def max_positions(self) -> int | None:
        """Tokens of the longest row that the first role's model can read; None where nothing bounds it."""
        model = base_of(self._ready(self.roles[0]).model)
        return cast("int | None", getattr(model.config, "max_position_embeddings", None))

    @property
    def roles(self) -> tuple[Role, ...]:
        return tuple(self._slots)

    def sharing(self, roles: Sequence[Role]) -> list[tuple[Role, ...]]:
        """The roles in groups that one forward pass serves, one that rides on another's weights behind it."""
        groups: dict[Role, tuple[Role, ...]] = {}
        for role in roles:
            rides = self._slot(role).rides
            first = rides if rides is not None and rides in roles else role
            groups[first] = (*groups.get(first, ()), role)
        return list(groups.values())

    def forward(
        self,
        role: Role,
        batch: Bundles,
        *,
        beside: Sequence[Role] = (),
        temperature: float = 1.0,
        entropy: bool = False,
    ) -> Scores:
        """One forward pass, with gradient for what is trained. Must be called inside `scope(role)`: outside
        of it another role's adapter would compute. `beside`: roles that ride on this one (see `sharing`),
        whose scores come along.
        """
        if not self._open or self._open[-1] != role:
            raise RuntimeError(f"forward({role!r}) outside `with models.scope({role!r})`")
        slot, ready = self._slot(role), self._ready(role)
        self._count(role, batch, "updates" if torch.is_grad_enabled() else "scoring")
        heads = [self._slot(other).head for other in beside]
        return ready.scorer(
            batch,
            WANTS[role],
            head=slot.head,
            beside=heads[0] if heads else None,
            temperature=temperature,
            entropy=entropy,
        )

    def score(
        self,
        role: Role,
        batch: Bundles,
        *,
        beside: Sequence[Role] = (),
        temperature: float = 1.0,
        entropy: bool = False,
    ) -> Scores:
        """The same without gradient, in passes of at most `token_budget` tokens; on a CPU of fewer, since
        longer ones save no time there, and a run's peak of memory should be its training's.
        """
        bare = replace(batch, token_columns={}, response_columns={}, tree_columns={})
        most = min(self.token_budget, CPU_TOKENS) if self._device.type == "cpu" else self.token_budget
        with torch.no_grad(), self.scope(role):
            parts = [
                self.forward(role, micro, beside=beside, temperature=temperature, entropy=entropy)
                for micro in bare.cut(most)
            ]
        wants: list[Want] = [WANTS[r] for r in (role, *beside)]
        return _joined(parts, wants, self._device, entropy=entropy)

    @contextmanager
    def scope(self, role: Role) -> Generator[None]:
        """Inside, `role` computes; its forward and its backward both belong here. Scopes nest, and what
        computed before returns on exit, after an exception too.
        """
        slot, ready = self._slot(role), self._ready(role)
        self._open.append(role)
        try:
            with ready.here(), ready.switch.use(slot.adapter), self._autocast():
                yield
        finally:
            self._open.pop()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype in (torch.float32, torch.float64):
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.dtype)

    def generation_model(self, role: Role = "policy") -> tuple[AnyModel, AbstractContextManager[None]]:
        """(the Hugging Face or peft model, a context to generate in): the scope of `role`, single use."""
        return self._ready(role).model, self.scope(role)

    def count_rollouts(self, batch: Bundles, role: Role = "policy") -> None:
        """Counts the arithmetic of having sampled `batch`: what one pass over prompts and responses needs."""
        flops = self._counted_of(role).forward(batch, predicts=True)
        self._spent.add("rollouts", flops, sum(t.response_tokens for t in batch.trees))

    def take_spent(self) -> Spent:
        """Arithmetic and tokens since the last call."""
        return self._spent.take()

    def _count(self, role: Role, batch: Bundles, stage: Stage) -> None:
        counted, predicts = self._counted_of(role), WANTS[role] == "logps"
        shared = self._ready(role).scorer.result.layout == "stream"
        flops = counted.forward(batch, predicts=predicts, shared=shared)
        if stage == "updates":
            flops += counted.backward(batch, predicts=predicts, shared=shared)
        self._spent.add(stage, flops, batch.size)

    def _counted_of(self, role: Role) -> Counted:
        if role not in self._counted:
            self._counted[role] = count(self._ready(role).model, self._slot(role).adapter)
        return self._counted[role]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the first role: all roles share its vocabulary."""
        first = next(iter(self._slots.values()))
        return first.source.tokenizer

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a response: the tokenizer's and the generation config's."""
        slot = next(iter(self._slots.values()))
        return export.stop_tokens(slot.backbone.model, slot.source.tokenizer)

    def stop_at(self, ids: Sequence[int]) -> None:
        """Ends generated responses at these tokens too: what closes a turn in the chat template may be another
        token than the model's own end. Kept in the generation config, which is saved with the model.
        """
        for prepared in self._prepared.values():
            model = base_of(prepared.model)
            known = export.stop_tokens(model, self.tokenizer)
            cast(Any, model.generation_config).eos_token_id = sorted({*known, *ids})

    # ------------------------------------------------------------------------------- training

    def trainable(self, role: Role) -> dict[str, nn.Parameter]:
        """What an optimiser updates for `role`, by name (`role.<name>`), heads included, tied weights once."""
        return role_parameters(role, self._slot(role))

    def state(self) -> dict[str, Tensor]:
        """The weights that change in a run, themselves (not copies), by name: what a checkpoint holds."""
        return {name: p.detach() for name, p in self._changing()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave, exactly. Raises TastemakerError where names, shapes or dtypes differ."""
        trained = dict(self._changing())
        wrong = sorted(set(trained) ^ set(state)) or [
            n for n, p in trained.items() if p.shape != state[n].shape or p.dtype != state[n].dtype
        ]
        if wrong:
            raise TastemakerError(
                f"The checkpoint is of another model: {len(wrong)} weights do not match (first: {wrong[0]}). "
                "Resume with the settings it was made with."
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state[name])

    def mix(self, role: Role, towards: Role, share: float) -> None:
        """Moves a frozen role's weights: share * (those of `towards`) + (1 - share) * its own, by name. The
        role must have been built to move.
        """
        if role not in self._moving:
            raise RuntimeError(f"{role} was not built to move")
        own, other = weights_of(self._slot(role)), weights_of(self._slot(towards))
        with torch.no_grad():
            for name, parameter in own.items():
                if share == 1:
                    parameter.copy_(other[name])
                else:
                    parameter.lerp_(other[name].to(parameter.dtype), share)

    def _changing(self) -> Iterator[tuple[str, nn.Parameter]]:
        for role in self._slots:
            yield from self.trainable(role).items()
            if role in self._moving:
                yield from ((f"{role}.{name}", p) for name, p in weights_of(self._slot(role)).items())

    # ------------------------------------------------------------------------------- keeping

    def weights_hash(self, role: Role) -> str:
        """SHA-256 of all that makes the role: weights, adapter, head. A role that is not trained keeps the
        hash it was loaded with; saving a role and loading it again gives the same hash.
        """
        slot = self._slot(role)
        if not slot.trained:
            return slot.source.weights_hash
        model = slot.backbone.model
        if slot.adapter is not None:
            digest = combined_hash(slot.source.base_hash, adapter_hash(extract(cast(Any, model), slot.adapter)))
        elif slot.head is not None:
            digest = backbone_hash(cast(PreTrainedModel, model))
        else:
            digest = model_hash(model)
        return digest if slot.head is None else reward_hash(digest, slot.head)

    def save(self, role: Role, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes the role as a plain Hugging Face folder, or a peft adapter folder; see `export`."""
        export.save_role(self._slot(role), Path(folder), overwrite=overwrite)

    def slot(self, role: Role) -> Slot:
        """Where a role's weights are."""
        return self._slot(role)

    def release(self, role: Role) -> None:
        """Forgets a frozen role (a reference whose log-probabilities are all known); its memory is freed
        where no other role shares the weights.
        """
        slot = self._slot(role)
        if slot.trained or role in self._open:
            raise RuntimeError(f"{role} is in use and cannot be released")
        del self._slots[role]
        if all(other.backbone is not slot.backbone for other in self._slots.values()):
            del self._prepared[id(slot.backbone)]

    def layout(self, role: Role) -> ProbeResult:
        """How the role's model is fed, and why."""
        return self._ready(role).scorer.result

    def model_copies(self) -> int:
        """Full copies of weights held: 1 with LoRA on one base, up to 4 otherwise."""
        return len(self._prepared)

    def table(self) -> dict[Role, RoleRow]:
        """How the roles share weights."""
        order = list(self._prepared)
        return {
            role: RoleRow(
                backbone=order.index(id(slot.backbone)),
                adapter=slot.adapter,
                head=None if slot.head is None else kind_of(slot.head),
                trained=slot.trained,
                trainable_parameters=sum(p.numel() for p in self.trainable(role).values()),
            )
            for role, slot in self._slots.items()
        }

    def _slot(self, role: Role) -> Slot:
        if role not in self._slots:
            raise KeyError(f"{role} was not built or is released; the roles here are {', '.join(self._slots)}")
        return self._slots[role]

    def _ready(self, role: Role) -> Prepared:
        return self._prepared[id(self._slot(role).backbone)]


def _joined(parts: Sequence[Scores], wants: Sequence[Want], device: torch.device, *, entropy: bool) -> Scores:
    fields: dict[str, Tensor] = {}
    for name in ("logps", "entropy", "values", "rewards"):
        tensors = [t for part in parts if (t := cast("Tensor | None", getattr(part, name))) is not None]
        if tensors:
            fields[name] = torch.cat(tensors)
    if not parts:  # a process whose share of the batch is empty still takes part
        fields |= {want: torch.zeros(0, device=device) for want in wants}
        if entropy and "logps" in wants:
            fields["entropy"] = torch.zeros(0, device=device)
    return Scores(**fields)
