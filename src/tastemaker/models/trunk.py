"""A quicker way through the layers of the common pre-norm shape, for training and scoring over streams.

A layer is computed in halves (`functional.layers`), each one autograd step, instead of some forty operations.
Which models may be is tried, not looked up: one with the usual parts and nothing else is run both ways on a
few tokens, and only if the hidden states agree is it computed this way from then on. Everything else (adapters,
hooks, other norms) goes through the model's own code, as generation does. Weights stay where they are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tastemaker.functional.layers import GatedMLP, Kind, Output, Project, rotation
from tastemaker.models.backbone import hidden_states
from tastemaker.models.decode import evaluating
from tastemaker.models.layout import Stream, TreeLayout, stream
from tastemaker.types import Bundles, Tree

log = logging.getLogger(__name__)

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
GATES = ("gate_proj", "up_proj", "down_proj")
ROW_STEP = 64
"""On a CPU the stream is filled up with empty rows to a multiple of this: for every new number of rows oneDNN
writes the code of a dozen products anew, and keeps it."""
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest difference of hidden states, against their largest number, that is still rounding (norms run in
float32 inside float64 models); `COARSE` in half precision."""
COARSE = 5e-2


class Unusual(Exception):
    """The model has a part that this way does not know; the message names it."""


class Recording(TreeLayout):
    """A layout that keeps the keywords each layer's attention was called with."""

    def __init__(self, tree: TreeLayout) -> None:
        super().__init__(tree.extents, tree.branch, tree.position)
        self.options: dict[nn.Module, dict[str, Any]] = {}

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, None]:
        self.options[module] = options
        return super().attend(module, query, key, value, **options)


class Layer:
    """One layer's modules, and how its attention is to be called."""

    def __init__(self, module: nn.Module, options: Mapping[str, Any]) -> None:
        part = cast(Any, module)
        self.attention = part.self_attn
        self.options = dict(options)
        self.norms = (part.input_layernorm, part.post_attention_layernorm)
        self.projections: list[nn.Linear] = [getattr(part.self_attn, name) for name in PROJECTIONS]
        self.gates: list[nn.Linear] = [getattr(part.mlp, name) for name in GATES]
        width = int(part.self_attn.head_dim)
        self.heads, self.key_heads = (self.projections[i].weight.shape[0] // width for i in (0, 1))

    def __call__(self, x: Tensor, angles: Tensor, tree: TreeLayout, dtype: torch.dtype) -> Tensor:
        """[T, d] -> [T, d]"""
        first, second = self.norms
        *qkv, out = self.projections
        tokens = len(tree.branch)
        kind = Kind(dtype, _epsilon(first), self.heads, self.key_heads)
        weights = [linear.weight for linear in qkv]
        weights += [bias for linear in qkv if (bias := cast("Tensor | None", linear.bias)) is not None]
        query, key, value = cast("tuple[Tensor, ...]", Project.apply(x, first.weight, angles, kind, *weights))
        packed = (h[:tokens].transpose(0, 1)[None] for h in (query, key, value))
        heads = tree.attend(self.attention, *packed, **self.options)[0].reshape(tokens, -1)
        if len(x) > tokens:
            heads = nn.functional.pad(heads, (0, 0, 0, len(x) - tokens))
        x = cast(Tensor, Output.apply(x, heads, out.weight, out.bias))
        kind = Kind(dtype, _epsilon(second))
        return cast(Tensor, GatedMLP.apply(x, second.weight, kind, *(g.weight for g in self.gates)))


class Trunk:
    """From ids to what enters the output embedding, for one model. Made by `trunk_of`."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[Layer]) -> None:
        self.core = cast(Any, model).model
        self.layers = tuple(layers)

    def __call__(self, laid: Stream) -> Tensor:
        """[T, d] hidden states of the stream, normed."""
        assert laid.tree is not None
        x = self.core.embed_tokens(laid.ids)
        device = x.device.type
        dtype = self.layers[0].projections[0].weight.dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
        cos, sin = self.core.rotary_emb(x, laid.positions)
        x, tokens = x[0], x.shape[1]
        spare = -tokens % ROW_STEP if device == "cpu" else 0
        x, cos, sin = (nn.functional.pad(t, (0, 0, 0, spare)) for t in (x, cos[0], sin[0]))
        angles = rotation(cos, sin)
        again = bool(self.core.training and getattr(self.core, "gradient_checkpointing", False))
        with torch.autocast(device, enabled=False):
            for layer in self.layers:
                if again and torch.is_grad_enabled():
                    x = cast(Any, checkpoint)(layer, x, angles, laid.tree, dtype, use_reentrant=False)
                else:
                    x = layer(x, angles, laid.tree, dtype)
        return self.core.norm(x[:tokens])


def trunk_of(model: PreTrainedModel) -> Trunk | None:
    """The quicker way through `model`, which takes the stream; None where there is none that agrees."""
    try:
        modules = [(module, _checked(module)) for module in _layers(model)]
        laid = _few_tokens(model)
        recorded = Recording(cast(TreeLayout, laid.tree))
        with torch.no_grad(), evaluating(model):
            own = hidden_states(model, replace(laid, tree=recorded))
            trunk = Trunk(model, [Layer(layer, recorded.options[attention]) for layer, attention in modules])
            found = trunk(laid)
    except (Unusual, KeyError, AttributeError, TypeError, RuntimeError) as reason:
        log.debug("%s goes through its own layers: %s", type(model).__name__, reason)
        return None
    tolerance = TOLERANCE.get(own.dtype, COARSE)
    if not bool((found - own).abs().max() <= tolerance * own.abs().max()):
        log.info("%s goes through its own layers: in halves they give other numbers", type(model).__name__)
        return None
    return trunk


def _few_tokens(model: PreTrainedModel) -> Stream:
    """A tree with two responses and a lone one, of arbitrary tokens."""
    ids = torch.randint(
        model.config.get_text_config().vocab_size, (24,), generator=torch.Generator().manual_seed(0)
    )
    a, b, c, d, e = ids.split([7, 5, 3, 5, 4])
    trees = (
        Tree(prompt=a, responses=(b, c), ended=(True, True)),
        Tree(prompt=d, responses=(e,), ended=(True,)),
    )
    return stream(Bundles(trees=trees), next(model.parameters()).device)


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    core = cast(Any, model).model
    _only(core, {"embed_tokens", "layers", "norm", "rotary_emb"})
    for module in core.layers.modules():  # the embedding and the last norm are called, so theirs run
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            raise Unusual(f"{type(module).__name__} has a hook or another forward")
    if type(core.embed_tokens) is not nn.Embedding:
        raise Unusual("its embedding is not a plain one")
    return list(core.layers)


def _checked(module: nn.Module) -> nn.Module:
    """The layer's attention, its parts all plain; raises Unusual otherwise."""
    part = cast(Any, module)
    _only(module, {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
    _only(part.self_attn, set(PROJECTIONS))
    _only(part.mlp, {*GATES, "act_fn"})
    linears = [getattr(part.self_attn, n) for n in PROJECTIONS] + [getattr(part.mlp, n) for n in GATES]
    if any(type(linear) is not nn.Linear for linear in linears):
        raise Unusual("a projection is more than a linear layer")
    biased = [linear.bias is not None for linear in linears]
    if any(biased[4:]) or len(set(biased[:3])) != 1:
        raise Unusual("its biases are not where they usually are")
    for norm in (part.input_layernorm, part.post_attention_layernorm):
        if [name for name, _ in norm.named_parameters()] != ["weight"]:
            raise Unusual("its norm has more than a weight")
    return cast(nn.Module, part.self_attn)


def _only(module: nn.Module, names: set[str]) -> None:
    found = {name for name, _ in module.named_children()}
    if found != names:
        raise Unusual(f"{type(module).__name__} has {sorted(found ^ names)} more or less than usual")


def _epsilon(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)
