"""A lean forward for decoding Llama-like models: their own weights, far fewer steps around the matrix products.

One token a row is so little work that what surrounds the matrix products decides the time: a layer of
transformers' code takes some 75 tensor operations and 15 module calls, the same layer here some 25. On the CPU
in float32 the products themselves go through oneDNN, which where the machine is not Intel's is about twice as
fast as the BLAS that PyTorch calls (2.3 times on Zen 5).

Only structures named in `LEAN` are recognised, part by part (`recognise`): a part more, a hook, a quantised or
sharded weight, an adapter other than plain LoRA, and the model's own code decodes. Attention is not read off
the structure: its rule (scale, window, soft cap, sinks) is what the model itself passed to its attention
function in the trial that compares both ways (`decode_ways`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import SiLUActivation

from tastemaker.models.attention import AttentionRule
from tastemaker.models.backbone import base_of

LEAN = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Families whose layers this forward knows; compared with their own code in the tests."""
COPY_BYTES = 2**28
"""Weights that may be copied for the time of a call (joined projections, merged adapters, oneDNN's layout)."""
PACK_STEPS = 24
"""Steps from which bringing weights into oneDNN's layout pays."""
ROWS = 32
"""What oneDNN is told of the rows to come; it decides nothing but speed."""
HARMLESS = frozenset({"make_inputs_require_grads"})
"""Hooks that change no number: what transformers hangs on the embedding where activations are recomputed."""

_PARTS = {
    "layer": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "attention": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}


class Unknown(Exception):
    """The model has a part that this forward does not know; the message says which."""


class Attention(Protocol):
    """`decode_state.DecodeState`, as far as a forward sees it."""

    def apply(
        self, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule, *, last: bool = False
    ) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class _Linear:
    weight: Tensor
    bias: Tensor | None
    updates: tuple[tuple[Tensor, Tensor], ...]
    """Low-rank pairs (A [r, in], B [out, r], scaled) beside the weight."""
    product: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    width: int

    def __call__(self, x: Tensor) -> Tensor:
        y = self.product(x, self.weight, self.bias)
        for a, b in self.updates:
            y = y + self.product(self.product(x, a, None), b, None)
        return y


@dataclass(frozen=True, eq=False)
class _Norm:
    """Root mean square over the last axis (Zhang and Sennrich 2019)."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return torch.rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass(frozen=True, eq=False)
class _Layer:
    before_attention: _Norm
    qkv: tuple[_Linear, ...]
    """One joined projection, or three."""
    heads: tuple[int, int, int]
    """Query heads, key heads, width of a head."""
    query_norm: _Norm | None
    key_norm: _Norm | None
    out: _Linear
    before_mlp: _Norm
    gate: _Linear
    up: _Linear
    down: _Linear
    activation: Callable[[Tensor], Tensor]


class LeanForward:
    """The forward itself; made by `recognise` for as long as the weights stand still."""

    def __init__(
        self,
        embedding: Tensor,
        layers: Sequence[_Layer],
        norm: _Norm,
        head: _Linear,
        rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        compute: torch.dtype,
        kind: object,
    ):
        self.compute = compute
        """The dtype that products are made in."""
        self.kind = kind
        """Equal for forwards that differ in their weights alone."""
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head
        self._rotary = rotary
        self._table: tuple[Tensor, Tensor] | None = None
        self.rules: Sequence[AttentionRule] = ()
        """Of each attention call."""

    def reach(self, tokens: int) -> None:
        """Makes rotary factors for positions up to `tokens`."""
        if self._table is not None and len(self._table[0]) >= tokens:
            return
        places = torch.arange(tokens, device=self._embedding.device)
        cos, sin = self._rotary(self._embedding[:1, None], places.unsqueeze(0))
        half = cos.shape[-1] // 2
        # rotate_half(x) * sin is x with its halves swapped times this
        self._table = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)

    def __call__(
        self, ids: Tensor, positions: Tensor, state: Attention, *, flat: bool, last: Tensor | None = None
    ) -> Tensor:
        """Logits [n, V] of tokens `ids` [n] at `positions` [n], or of those at the indices `last`.

        `flat`: they are a stream of prompts; else one token of each row. Call it where autocast is off.
        """
        assert self._table is not None
        cos, sin = (table.index_select(0, positions).unsqueeze(1) for table in self._table)
        x = F.embedding(ids, self._embedding)
        for i, (layer, rule) in enumerate(zip(self._layers, self.rules, strict=True)):
            h = self._in(layer.before_attention(x))
            only = last if i == len(self._layers) - 1 else None  # behind it nothing asks for the other tokens
            attended = self._attend(layer, rule, h, (cos, sin), state, flat, only)
            x = (x if only is None else x.index_select(0, only)) + layer.out(attended)
            h = self._in(layer.before_mlp(x))
            x = x + layer.down(layer.activation(layer.gate(h)).mul_(layer.up(h)))
        return self._head(self._in(self._norm(x)))

    def _in(self, x: Tensor) -> Tensor:
        return x if x.dtype == self.compute else x.to(self.compute)

    def _attend(
        self,
        layer: _Layer,
        rule: AttentionRule,
        h: Tensor,
        turn: tuple[Tensor, Tensor],
        state: Attention,
        flat: bool,
        last: Tensor | None,
    ) -> Tensor:
        heads, groups, width = layer.heads
        tokens = h.shape[0]
        made = [linear(h) for linear in layer.qkv]
        qkv = (made[0] if len(made) == 1 else torch.cat(made, dim=1)).view(tokens, -1, width)
        turned, value = qkv[:, : heads + groups], qkv[:, heads + groups :]
        if layer.query_norm is not None and layer.key_norm is not None:
            turned = torch.cat([layer.query_norm(turned[:, :heads]), layer.key_norm(turned[:, heads:])], dim=1)
        turned = self._in(torch.addcmul(turned * turn[0], turned.roll(width // 2, -1), turn[1]))
        query, key = turned[:, :heads], turned[:, heads:]
        if last is not None:
            key, value = (x.transpose(0, 1).unsqueeze(0) for x in (key, value))
            query = query.index_select(0, last).unsqueeze(2)
            return state.apply(query, key, value, rule, last=True).reshape(last.shape[0], heads * width)
        if flat:
            query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
        else:
            query, key, value = query.unsqueeze(2), key.unsqueeze(2), value.unsqueeze(2)
        return state.apply(query, key, value, rule).reshape(tokens, heads * width)


def recognise(model: nn.Module, steps: int = 1) -> LeanForward:
    """The lean forward of `model` with its weights, active adapter and autocast dtype of this moment, for
    about `steps` steps.

    Raises:
        Unknown: where a part of the model is not known; `Unknown` says which.
    """
    base: Any = base_of(model)
    config: Any = base.config.get_text_config()
    if config.model_type not in LEAN:
        raise Unknown(f"{config.model_type} has no lean forward")
    for name, module in model.named_modules():
        own: Any = module
        hooks = {*own._forward_hooks.values(), *own._forward_pre_hooks.values()}
        if {getattr(hook, "__name__", "") for hook in hooks} - HARMLESS or "forward" in vars(own):
            raise Unknown(f"{name or type(module).__name__} has a hook or another forward")
    core = base.model
    _only(core, {"embed_tokens", "layers", "norm", "rotary_emb"}, "the backbone")
    made = _Maker(base, steps)
    layers = [made.layer(layer) for layer in core.layers]
    embedding = _chosen(core.embed_tokens)
    if type(embedding) is not nn.Embedding or embedding.max_norm is not None:
        raise Unknown(f"its embedding is a {type(embedding).__name__}")
    head = made.packed(made.linear(base.get_output_embeddings()))
    norm, kind = _norm(core.norm), (made.compute, tuple(made.adapted))
    return LeanForward(_plain(embedding.weight), layers, norm, head, core.rotary_emb, made.compute, kind)


class _Maker:
    """Reads layers off a model, copying weights as far as the allowance goes."""

    def __init__(self, base: nn.Module, steps: int):
        weights = [p for p in base.parameters() if p.is_floating_point()]
        device = weights[0].device
        own = cast("nn.Module", cast(Any, base).get_output_embeddings())
        self.compute = next(p.dtype for p in own.parameters() if p.is_floating_point())
        if torch.is_autocast_enabled(device.type) and self.compute != torch.float64:
            self.compute = torch.get_autocast_dtype(device.type)
        self.adapted: list[int] = []
        """Of each linear layer: how many adapters compute in it."""
        self._product = _product(device, self.compute)
        itemsize = torch.empty(0, dtype=self.compute).element_size()
        self._copies = sum(p.numel() for p in weights) * itemsize <= COPY_BYTES
        self._packs = self._copies and steps >= PACK_STEPS and _packs(device, self.compute)

    def layer(self, layer: nn.Module) -> _Layer:
        part: Any = layer
        _only(part, _PARTS["layer"], "a layer")
        attention, mlp = part.self_attn, part.mlp
        normed = {"q_norm", "k_norm"} & {name for name, _ in attention.named_children()}
        if len(normed) == 1:
            raise Unknown(f"its attention has {normed} alone")
        _only(attention, _PARTS["attention"] | normed, "its attention")
        _only(mlp, _PARTS["mlp"], "its mlp")
        qkv = [self.linear(attention.get_submodule(f"{name}_proj")) for name in "qkv"]
        width = int(attention.head_dim)
        if any(linear.width % width for linear in qkv) or qkv[1].width != qkv[2].width:
            raise Unknown("its heads do not divide its projections")
        return _Layer(
            before_attention=_norm(part.input_layernorm),
            qkv=self.joined(qkv),
            heads=(qkv[0].width // width, qkv[1].width // width, width),
            query_norm=_norm(attention.q_norm, width) if normed else None,
            key_norm=_norm(attention.k_norm, width) if normed else None,
            out=self.packed(self.linear(attention.o_proj)),
            before_mlp=_norm(part.post_attention_layernorm),
            gate=self.packed(self.linear(mlp.gate_proj)),
            up=self.packed(self.linear(mlp.up_proj)),
            down=self.packed(self.linear(mlp.down_proj)),
            activation=F.silu if isinstance(mlp.act_fn, nn.SiLU | SiLUActivation) else mlp.act_fn,
        )

    def linear(self, module: nn.Module) -> _Linear:
        """A linear layer with what an active LoRA adapter adds to it.

        The update is merged where that loses nothing (float32 and wider) and may be copied; in a shorter dtype
        a small update would vanish in the rounding of the weight, so there it stays beside it.
        """
        module = _chosen(module)
        pairs: list[tuple[Tensor, Tensor]] = []
        if type(module) is LoraLinear:
            pairs, inner = updates_of(module), module.get_base_layer()
        else:
            inner = module
        if type(inner) is not nn.Linear:
            raise Unknown(f"it has a {type(inner).__name__}")
        self.adapted.append(len(pairs))
        weight, bias = _plain(inner.weight).to(self.compute), cast("Tensor | None", inner.bias)
        if pairs and self._copies and self.compute in (torch.float32, torch.float64):
            for a, b in pairs:
                weight = torch.addmm(weight, b.to(weight.dtype), a.to(weight.dtype))
            pairs = []
        low_rank = tuple((a.to(self.compute), b.to(self.compute)) for a, b in pairs)
        bias = None if bias is None else _plain(bias).to(self.compute)
        return _Linear(weight, bias, low_rank, self._product, weight.shape[0])

    def packed(self, linear: _Linear) -> _Linear:
        """With the weight in oneDNN's own layout if that pays: each product would bring it there again."""
        if not self._packs:
            return linear
        return replace(linear, weight=torch.ops.mkldnn._reorder_linear_weight(linear.weight, ROWS))

    def joined(self, parts: Sequence[_Linear]) -> tuple[_Linear, ...]:
        """The same projections as one, where weights may be copied."""
        biased = [part.bias is not None for part in parts]
        if not self._copies or any(part.updates for part in parts) or any(biased) != all(biased):
            return tuple(self.packed(part) for part in parts)
        bias = torch.cat([cast(Tensor, part.bias) for part in parts]) if all(biased) else None
        weight = torch.cat([part.weight for part in parts])
        return (self.packed(_Linear(weight, bias, (), self._product, len(weight))),)


def _product(device: torch.device, dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """x, W, b -> x W^T + b, for plain and (where `_packs`) packed W."""
    if not _packs(device, dtype):
        return F.linear
    one: Any = torch.ops.mkldnn._linear_pointwise.default

    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return one(x, weight, bias, "none", [], "")

    return product


def _packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products go through oneDNN by name, which also knows weights in a layout of its own."""
    ops: Any = torch.ops.mkldnn
    known = hasattr(ops, "_linear_pointwise") and hasattr(ops, "_reorder_linear_weight")
    able = {torch.float32: lambda: True, torch.bfloat16: lambda: bool(ops._is_mkldnn_bf16_supported())}
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and known and able.get(dtype, bool)()


def updates_of(module: LoraLinear) -> list[tuple[Tensor, Tensor]]:
    """(A, scaled B) of the adapters that compute now, with their gradients. Raises Unknown; see there."""
    layer: Any = module
    if layer.disable_adapters or layer.merged:
        if layer.disable_adapters and layer.merged:
            raise Unknown("an adapter is merged into weights that are to be used without it")
        return []
    pairs: list[tuple[Tensor, Tensor]] = []
    for name in layer.active_adapters:
        if name not in layer.lora_A:
            continue
        # a variant (DoRA and its kin) computes something else with the same tensors
        biased = layer.lora_A[name].bias is not None or layer.lora_B[name].bias is not None
        if name in layer.lora_variant or layer.fan_in_fan_out or biased:
            raise Unknown("its adapter is not plain LoRA")
        pairs.append((layer.lora_A[name].weight, layer.scaling[name] * layer.lora_B[name].weight))
    return pairs


def _chosen(module: nn.Module) -> nn.Module:
    """The copy of a module that computes, where an adapter brings one of its own."""
    if not isinstance(module, ModulesToSaveWrapper):
        return module
    wrapper: Any = module
    own = [name for name in wrapper.active_adapters if name in wrapper.modules_to_save]
    if wrapper.disable_adapters or not own:
        return wrapper.original_module
    return wrapper.modules_to_save[own[0]]


def _norm(module: nn.Module, width: int | None = None) -> _Norm:
    module = _chosen(module)
    names = [name for name, _ in module.named_parameters()]
    eps = getattr(module, "variance_epsilon", None)
    if not type(module).__name__.endswith("RMSNorm") or names != ["weight"] or eps is None:
        raise Unknown(f"it normalises by {type(module).__name__}")
    weight = _plain(cast(Tensor, module.weight))
    if width is not None and weight.shape != (width,):
        raise Unknown("it normalises queries and keys over more than a head")
    return _Norm(weight, float(eps))


def _plain(weight: Tensor) -> Tensor:
    """A weight as it lies in memory; Unknown where it is sharded, quantised or absent."""
    if type(weight) not in (nn.Parameter, Tensor) or weight.is_meta or not weight.is_floating_point():
        raise Unknown(f"a weight is a {type(weight).__name__} of {weight.dtype}")
    return weight.detach()


def _only(module: nn.Module, names: set[str], what: str) -> None:
    found = {name for name, _ in module.named_children()}
    if found != names:
        raise Unknown(f"{what} has other parts ({', '.join(sorted(found ^ names))})")
