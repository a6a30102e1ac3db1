"""A backbone made ready to compute: placed, frozen but for what is trained, probed, dropout off."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from tastemaker.models.adapters import AdapterSwitch, AnyModel, adapter_parameters
from tastemaker.models.assemble import Backbone, Slot
from tastemaker.models.backbone import base_of
from tastemaker.models.forward import Scorer
from tastemaker.models.offload import Offloaded
from tastemaker.models.probe import ProbeResult, probe
from tastemaker.models.weights import disable_dropout, unused_output
from tastemaker.types import Role, TastemakerError

Attention = Literal["auto", "stream", "rows"]


class Prepared:
    """One backbone made ready: placed, frozen but for what is trained, with its scorer and adapter switch."""

    def __init__(
        self,
        backbone: Backbone,
        slots: Mapping[Role, Slot],
        *,
        device: torch.device,
        attention: Attention,
        checkpointing: bool,
        offload: Path | None = None,
    ) -> None:
        """`offload`: where a CPU's weights wait while nobody reads them (see `offload.py`); None: they stay."""
        self.model: AnyModel = backbone.model
        disable_dropout(self.model)
        self.model.eval()
        self.model.requires_grad_(False)
        trained = False
        for role, slot in slots.items():
            if slot.head is not None:
                slot.head.requires_grad_(slot.trained)
            for parameter in role_parameters(role, slot).values():
                parameter.requires_grad_(True)
                trained = True
        self.model.to(cast(Any, device))
        if checkpointing and trained:
            # transformers recomputes activations in training mode only; every dropout rate is already zero
            base = cast(Any, base_of(self.model))
            newer = hasattr(base, "activation_checkpointing_enable")
            enable = base.activation_checkpointing_enable if newer else base.gradient_checkpointing_enable
            enable({"use_reentrant": False})
            self.model.train()
        self.scorer = Scorer(self.model, _layout(self.model, attention))
        self.switch = AdapterSwitch(self.model)
        folder = offload if device.type == "cpu" else None
        self.offloaded = None if offload is None else Offloaded(self.model, device, folder)

    def here(self) -> AbstractContextManager[None]:
        """Inside, the weights are on the device."""
        return nullcontext() if self.offloaded is None else self.offloaded.here()


def _layout(model: nn.Module, attention: Attention) -> ProbeResult:
    result = probe(model)
    if attention == "stream" and result.layout != "stream":
        raise TastemakerError(
            f"attention=stream was asked for, but this model cannot take it: {result.reason}. Use auto or "
            "rows: the same numbers, slower."
        )
    return replace(result, layout="rows", reason="asked for") if attention == "rows" else result


def role_parameters(role: Role, slot: Slot) -> dict[str, nn.Parameter]:
    """What a trained role trains, named `role.<name>`: adapter or weights, then its head. Empty if frozen."""
    if not slot.trained:
        return {}
    model = slot.backbone.model
    found: dict[str, nn.Parameter]
    if slot.rides is not None:
        found = {}
    elif slot.adapter is not None:
        found = weights_of(slot)
    else:
        output = None if role == "policy" else unused_output(cast(PreTrainedModel, model))
        unused = set() if output is None else {id(p) for p in output.parameters()}
        found = {n: p for n, p in model.named_parameters() if id(p) not in unused and p.is_floating_point()}
    if slot.head is not None:
        found |= {f"head.{n}": p for n, p in slot.head.named_parameters()}
    return {f"{role}.{name}": parameter for name, parameter in found.items()}


def weights_of(slot: Slot) -> dict[str, nn.Parameter]:
    """All that is a role's own, but for its head: its adapter, or the whole model."""
    model = slot.backbone.model
    if slot.adapter is None:
        return dict(model.named_parameters())
    return {n.replace(f".{slot.adapter}", ""): p for n, p in adapter_parameters(model, slot.adapter).items()}
