"""A quicker way through the layers of the common pre-norm shape, for training and scoring over streams.

A layer is computed in halves (`functional.layers`), each one autograd step, instead of some forty operations.
Which models may be is tried, not looked up: one with the usual parts and nothing else is run both ways on a
few tokens, and only if the hidden states agree is it computed this way from then on. LoRA adapters ride along,
whichever is switched on when the trunk is called. Everything else (hooks, other norms, other adapters) goes
through the model's own code, as generation does. Weights stay where they are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from tastemaker.functional.joined import Kind
from tastemaker.functional.layers import GatedMLP, Output, Project, rotation
from tastemaker.models.backbone import hidden_states
from tastemaker.models.decode import evaluating
from tastemaker.models.decode_lean import Unknown, updates_of
from tastemaker.models.layout import Stream, TreeLayout, stream
from tastemaker.types import Bundles, Tree

log = logging.getLogger(__name__)

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
GATES = ("gate_proj", "up_proj", "down_proj")
HEAD_NORMS = ("q_norm", "k_norm")
KEEP_BYTES = 2**26
"""Layers of at most this size keep the copies of their weights that products read from the forward to the
backward; of larger ones they would be a good part of the peak, and making them again costs a hundredth."""
ROW_STEP = 64
"""On a CPU the stream is filled up with empty rows to a multiple of this: for every new number of rows oneDNN
writes the code of a dozen products anew, and keeps it."""
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest difference of hidden states, against their largest number, that is still rounding (norms run in
float32 inside float64 models); `COARSE` in half precision."""
COARSE = 5e-2


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

    def __init__(self, module: nn.Module, options: Mapping[str, Any], *, keep: bool) -> None:
        """`keep`: whether copies of weights may wait for the backward."""
        part = cast(Any, module)
        self.attention = part.self_attn
        self.options = dict(options)
        self.keep = keep
        self.norms = (part.input_layernorm, part.post_attention_layernorm)
        self.head_norms = [
            getattr(part.self_attn, name) for name in HEAD_NORMS if hasattr(part.self_attn, name)
        ]
        self.projections: list[nn.Module] = [getattr(part.self_attn, name) for name in PROJECTIONS]
        self.gates: list[nn.Module] = [getattr(part.mlp, name) for name in GATES]
        width = int(part.self_attn.head_dim)
        self.heads, self.key_heads = (len(_linear(self.projections[i]).weight) // width for i in (0, 1))

    def check(self) -> None:
        """Raises Unknown where an adapter, as it stands, is not to be computed this way."""
        for module in (*self.projections, *self.gates):
            _update(module)

    def __call__(
        self, x: Tensor, angles: Tensor, tree: TreeLayout, dtype: torch.dtype, rows: Tensor | None = None
    ) -> Tensor:
        """[T, d] -> [T, d], or [S, d] of the `rows` [S] alone: the others give keys and values and no more."""
        first, second = self.norms
        tokens = len(tree.branch)
        kind = Kind(dtype, _epsilon(first), self.heads, self.key_heads, keep=self.keep)
        kind, tensors = _tensors(kind, self.projections[:3], self.head_norms)
        query, key, value = cast("tuple[Tensor, ...]", Project.apply(x, first.weight, angles, kind, *tensors))
        packed = (h[:tokens].transpose(0, 1)[None] for h in (query, key, value))
        heads = tree.attend(self.attention, *packed, **self.options)[0].reshape(tokens, -1)
        if rows is not None:
            x, heads = x.index_select(0, rows), heads.index_select(0, rows)
        elif len(x) > tokens:
            heads = nn.functional.pad(heads, (0, 0, 0, len(x) - tokens))
        kind, tensors = _tensors(Kind(dtype, 0.0, keep=self.keep), self.projections[3:])
        x = cast(Tensor, Output.apply(x, heads, kind, *tensors))
        kind, tensors = _tensors(Kind(dtype, _epsilon(second), keep=self.keep), self.gates)
        return cast(Tensor, GatedMLP.apply(x, second.weight, kind, *tensors))


def _tensors(
    kind: Kind, modules: Sequence[nn.Module], head_norms: Sequence[nn.Module] = ()
) -> tuple[Kind, list[Tensor]]:
    """What a half is given: weights, norms of heads, biases, and the updates of the adapter that computes now.

    Raises:
        Unknown: an adapter that is more than LoRA, or in a state in which only its own code knows what to do.
    """
    linears = [_linear(module) for module in modules]
    tensors = [linear.weight for linear in linears] + [cast(Tensor, norm.weight) for norm in head_norms]
    biases = [bias for linear in linears if (bias := cast("Tensor | None", linear.bias)) is not None]
    updates = [_update(module) for module in modules]
    lows = [tensor for pair in updates if pair is not None for tensor in pair]
    kind = kind._replace(
        biased=bool(biases), head_norms=bool(head_norms), updates=tuple(pair is not None for pair in updates)
    )
    return kind, tensors + biases + lows


def _linear(module: nn.Module) -> nn.Linear:
    """The linear layer itself, under its adapters."""
    return cast(nn.Linear, module.get_base_layer() if isinstance(module, LoraLinear) else module)


def _update(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """(A [r, in], B [out, r] times its scale) of the active adapters, None without any."""
    if not isinstance(module, LoraLinear):
        return None
    part = cast(Any, module)
    if module.training and any(getattr(d, "p", 0.0) > 0 for d in part.lora_dropout.values()):
        raise Unknown("its adapter has dropout")
    pairs = updates_of(module)
    if len(pairs) < 2:
        return pairs[0] if pairs else None
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1)


class Trunk:
    """From ids to what enters the output embedding, for one model. Made by `trunk_of`."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[Layer]) -> None:
        self.model = model
        self.core = cast(Any, model).model
        self.layers = tuple(layers)

    def __call__(self, laid: Stream, rows: Tensor | None = None) -> Tensor:
        """[T, d] hidden states of the stream, normed, with the adapter that is switched on; of the distinct
        `rows` [S] alone where they are given, which spares the last layer most of its work on all others.
        """
        assert laid.tree is not None
        try:
            for layer in self.layers:
                layer.check()
        except Unknown as reason:
            log.debug("%s goes through its own layers: %s", type(self.model).__name__, reason)
            states = hidden_states(self.model, laid)
            return states if rows is None else states.index_select(0, rows)
        x = self.core.embed_tokens(laid.ids)
        device = x.device.type
        dtype = _linear(self.layers[0].projections[0]).weight.dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
        cos, sin = self.core.rotary_emb(x, laid.positions)
        x, tokens = x[0], x.shape[1]
        spare = -tokens % ROW_STEP if device == "cpu" else 0
        x, cos, sin = (nn.functional.pad(t, (0, 0, 0, spare)) for t in (x, cos[0], sin[0]))
        angles = rotation(cos, sin)
        filled = None
        if rows is not None:
            filled = nn.functional.pad(rows, (0, -len(rows) % ROW_STEP if device == "cpu" else 0))
        again = bool(self.core.training and getattr(self.core, "gradient_checkpointing", False))
        with torch.autocast(device, enabled=False):
            for layer in self.layers:
                last = filled if layer is self.layers[-1] else None
                if again and torch.is_grad_enabled():
                    x = cast(Any, checkpoint)(layer, x, angles, laid.tree, dtype, last, use_reentrant=False)
                else:
                    x = layer(x, angles, laid.tree, dtype, last)
        return self.core.norm(x[: tokens if rows is None else len(rows)])


def trunk_of(model: PreTrainedModel) -> Trunk | None:
    """The quicker way through `model`, which takes the stream; None where there is none that agrees."""
    try:
        modules = [(module, _checked(module)) for module in _layers(model)]
        laid = _few_tokens(model)
        recorded = Recording(cast(TreeLayout, laid.tree))
        with torch.no_grad(), evaluating(model):
            own = hidden_states(model, replace(laid, tree=recorded))
            size = sum(p.numel() * p.element_size() for layer, _ in modules for p in layer.parameters())
            keep = size <= KEEP_BYTES
            layers = [Layer(layer, recorded.options[attention], keep=keep) for layer, attention in modules]
            trunk = Trunk(model, layers)
            found = trunk(laid)
    except (Unknown, KeyError, AttributeError, TypeError, RuntimeError) as reason:
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
            raise Unknown(f"{type(module).__name__} has a hook or another forward")
    if type(core.embed_tokens) is not nn.Embedding:
        raise Unknown("its embedding is not a plain one")
    return list(core.layers)


def _checked(module: nn.Module) -> nn.Module:
    """The layer's attention, its parts all plain; raises Unknown otherwise."""
    part = cast(Any, module)
    _only(module, {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
    normed = {name for name, _ in part.self_attn.named_children()} & set(HEAD_NORMS)
    if len(normed) == 1:
        raise Unknown("queries or keys alone are normed")
    _only(part.self_attn, {*PROJECTIONS, *normed})
    _only(part.mlp, {*GATES, "act_fn"})
    if not isinstance(part.mlp.act_fn, nn.SiLU | SiLUActivation):
        raise Unknown(f"its gate is {type(part.mlp.act_fn).__name__}, not SiLU")
    linears = [getattr(part.self_attn, n) for n in PROJECTIONS] + [getattr(part.mlp, n) for n in GATES]
    if any(type(linear) is not nn.Linear and type(linear) is not LoraLinear for linear in linears):
        raise Unknown("a projection is more than a linear layer and its LoRA adapters")
    linears = [_linear(linear) for linear in linears]
    if any(type(linear) is not nn.Linear for linear in linears):
        raise Unknown("a projection is more than a linear layer")
    biased = ["bias" in dict(linear.named_parameters()) for linear in linears]
    if any(biased[4:]) or len(set(biased[:3])) != 1:
        raise Unknown("its biases are not where they usually are")
    for norm in (part.input_layernorm, part.post_attention_layernorm):
        if [name for name, _ in norm.named_parameters()] != ["weight"]:
            raise Unknown("its norm has more than a weight")
    for name in normed:
        norm = getattr(part.self_attn, name)
        if [n for n, _ in norm.named_parameters()] != ["weight"] or norm.weight.shape != (
            part.self_attn.head_dim,
        ):
            raise Unknown("its heads' norm is not over a head's width alone")
        if _epsilon(norm) != _epsilon(part.input_layernorm):
            raise Unknown("its heads' norm has an epsilon of its own")
    return cast(nn.Module, part.self_attn)


def _only(module: nn.Module, names: set[str]) -> None:
    found = {name for name, _ in module.named_children()}
    if found != names:
        raise Unknown(f"{type(module).__name__} has {sorted(found ^ names)} more or less than usual")


def _epsilon(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)
