"""A small random model of the same family: same code and switches, few and narrow layers, weights that matter.

What a family does to a batch shows on such a specimen in milliseconds and in float32, where on the model itself
the rounding of its dtype would hide it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

SMALL = 3_000_000
"""Parameters up to which a model's specimen keeps its sizes."""
LARGE = 50_000_000
"""Parameters beyond which a shrunken model was not shrunk."""
WINDOW = 4
"""What every window becomes, so that a short probe reaches past it."""
ROPE_LIMIT = 9
"""What the original length becomes where rotary factors depend on it."""
VOCABULARY = 64
SHARED = 5
"""Layers that borrow keys and values from earlier ones, at most."""
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

Settings = dict[str, Any]

WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "attention_chunk_size",
    "window_size",
    "attention_window_size",
    "keep_window_size",
    "local_attention_window_len",
    "local_attention",
    "index_topk",
    "index_topk_blocks",
)
"""Config entries that bound how far a token sees."""

SIZES: Mapping[str, int] = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 8,
    "n_embd": 64,
    "d_model": 64,
    "word_embed_proj_dim": 64,
    "embedding_size": 64,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "attention_heads": 4,
    "head_dim": 16,
    "global_head_dim": 16,
    "kv_channels": 16,
    "rotary_dim": 8,
    "qk_head_dim": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "intermediate_size": 96,
    "intermediate_size_mlp": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "expert_ffn_hidden_size": 32,
    "ffn_hidden_size": 96,
    "ffn_dim": 96,
    "n_inner": 96,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "n_group": 2,
    "topk_group": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_num_heads": 2,
    "linear_head_dim": 16,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "mamba_d_ssm": 128,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "altup_num_inputs": 2,
    "laurel_rank": 8,
}
"""Sizes of a specimen; entries a config lacks, or has smaller, stay as they are."""

HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
PATTERNS = (
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "global_attn_every_n_layers",
    "no_rope_layer_interval",
    "attn_layer_period",
    "full_attention_interval",
)
"""Config entries that repeat every so many layers."""


def specimen(kind: type[PreTrainedModel], config: PretrainedConfig, *, sizes: bool) -> PreTrainedModel:
    """A float32 model of class `kind` on the CPU, random and in evaluation mode, windows short and, if `sizes`,
    everything else small, too. The global random state is left alone.

    Raises:
        Exception: whatever a family's own code raises over sizes it was not written for; ValueError where the
            result is still large.
    """
    settings = shrunken(config.to_dict(), sizes=sizes)
    small = type(config).from_dict(settings)
    if sizes:
        with torch.device("meta"):
            count = sum(p.numel() for p in kind(copy.deepcopy(small)).parameters())
        if count > LARGE:
            raise ValueError(f"the shrunken model still has {count} parameters")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        made = kind(small).float().eval().requires_grad_(False)
        _enlarge(made)
    return made


def shrunken(config: Settings, *, sizes: bool) -> Settings:
    """A config's settings with every window and rotary limit short and, if `sizes`, every size small; layers
    are dropped as long as each kind of layer stays.
    """
    config = {key: value for key, value in config.items() if key != "quantization_config"}
    for name in ("text_config", "per_layer_config"):
        nested: object = config.get(name)
        if name == "text_config" and isinstance(nested, dict):
            config[name] = shrunken(cast(Settings, nested), sizes=sizes)
        elif isinstance(nested, dict):
            layers = cast("dict[str, Settings]", nested)
            config[name] = {layer: _narrow(own) if sizes else _shorten(own) for layer, own in layers.items()}
    config = _shorten(config)
    if sizes:
        config = _narrow(config)
        if "text_config" not in config:
            _drop_layers(config)
    _shorten_rope(config)
    return config


def _shorten(config: Settings) -> Settings:
    """Windows reach `WINDOW` tokens at most."""
    return {
        key: min(value, WINDOW) if key in WINDOWS and isinstance(value, int) else value
        for key, value in config.items()
    }


def _narrow(config: Settings) -> Settings:
    groups = _groups(config)
    config = _shorten(config)
    for name, value in config.items():
        if isinstance(value, bool):
            continue
        if name in KEY_HEADS and isinstance(value, int):
            config[name] = groups
        elif name in TOKENS and isinstance(value, int):
            config[name] = min(value, TOKENS[name])
        elif name in TOKENS and isinstance(value, list):
            config[name] = TOKENS[name]
        elif name in SIZES and isinstance(value, int):
            config[name] = min(value, SIZES[name])
        elif name in SIZES and isinstance(value, list):
            own = cast("list[object]", value)
            config[name] = [min(SIZES[name], v) if isinstance(v, int) else v for v in own]
    if config.get("qk_rope_head_dim") and "head_dim" in config:  # there it names the rotary part
        config["head_dim"] = config["qk_rope_head_dim"]
    return config


def rope_parts(part: Any) -> list[Settings]:
    """The rotary settings of a text config (an object or its settings): one set, or one per kind of layer."""
    read = cast(Settings, part).get if isinstance(part, dict) else lambda name: getattr(part, name, None)
    rope: object = read("rope_parameters") or read("rope_scaling")
    if not isinstance(rope, dict):
        return []
    sets = cast(Settings, rope)
    return [sets, *(cast(Settings, v) for v in sets.values() if isinstance(v, dict))]


def rope_kind(rope: Settings) -> str:
    """The name of a set of rotary settings."""
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _shorten_rope(config: Settings) -> None:
    """Rotary factors that change beyond a length do so at `ROPE_LIMIT`, inside the probe's reach."""
    for rope in rope_parts(config):
        changing = rope_kind(rope) == "longrope" or "dynamic" in rope_kind(rope)
        for settings in (rope, config) if changing else ():
            if settings.get("original_max_position_embeddings"):
                settings["original_max_position_embeddings"] = ROPE_LIMIT
        if rope_kind(rope) == "longrope":
            width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
            pairs = int(width * (rope.get("partial_rotary_factor") or 1.0)) // 2
            for name in ("short_factor", "long_factor"):
                rope[name] = rope[name][:pairs]
        elif changing:
            config["max_position_embeddings"] = ROPE_LIMIT


def _groups(config: Settings) -> int:
    """Key heads of a specimen of 4 heads: all, one, or half, as in the original."""
    heads = next((config[n] for n in HEADS if config.get(n)), 4)
    own = next((config[n] for n in KEY_HEADS if config.get(n)), heads)
    return 4 if own == heads else 1 if own == 1 else 2


def _drop_layers(config: Settings) -> None:
    """Keeps the shortest run of first layers in which every kind of layer occurs, and the pattern's period."""
    name = next((n for n in LAYER_COUNTS if isinstance(config.get(n), int)), None)
    if name is None:
        raise ValueError("the config names no number of layers")
    count: int = config[name]
    own = cast("dict[str, Settings]", config.get("per_layer_config") or {})
    of_layer = {int(layer): settings for layer, settings in own.items()}
    lists = {k: cast("list[object]", v) for k, v in config.items() if isinstance(v, list) and len(v) == count}
    kinds = [repr([values[i] for values in lists.values()]) + repr(of_layer.get(i)) for i in range(count)]
    needed = max((kinds.index(kind) + 1 for kind in kinds), default=1)
    periods = [config[n] for n in PATTERNS if isinstance(config.get(n), int)]
    kept = min(count, max(2, needed, *periods, (config.get("first_k_dense_replace") or 0) + 1))
    if config.get("num_kv_shared_layers"):  # the last layers, which borrow keys of earlier ones
        config["num_kv_shared_layers"] = min(config["num_kv_shared_layers"], count - kept, SHARED)
        kept += config["num_kv_shared_layers"]
    config[name] = kept
    for key, values in lists.items():
        config[key] = values[:kept]
    if own:
        config["per_layer_config"] = {layer: of_layer[layer] for layer in of_layer if layer < kept}


def _enlarge(model: PreTrainedModel) -> None:
    """Draws matrices so large that who attends to whom shows in every log-prob (usual starting weights are so
    small that mixing up the whole batch would change little).
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(0, 1)
            elif isinstance(module, nn.Linear | Conv1D):
                inputs = module.weight.shape[1 if isinstance(module, nn.Linear) else 0]
                module.weight.normal_(0, 1.5 * inputs**-0.5)
            else:
                for parameter in module.parameters(recurse=False):
                    if parameter.dim() == 3:  # experts, stacked
                        parameter.normal_(0, parameter.shape[-1] ** -0.5)
