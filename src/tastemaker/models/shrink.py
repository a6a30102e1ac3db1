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
    "altup_num_inputs": 2,
    "laurel_rank": 8,
}
"""Sizes of a specimen; entries a config lacks, or has smaller, stay as they are."""

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
    config = shrunken(config, sizes=sizes)
    if sizes:
        with torch.device("meta"):
            count = sum(p.numel() for p in kind(copy.deepcopy(config)).parameters())
        if count > LARGE:
            raise ValueError(f"the shrunken model still has {count} parameters")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        made = kind(config).float().eval().requires_grad_(False)
        _enlarge(made)
    return made


def shrunken(config: PretrainedConfig, *, sizes: bool) -> PretrainedConfig:
    """A copy of `config` with every window and rotary limit short and, if `sizes`, every size small; layers are
    dropped as long as each kind of layer stays.
    """
    config = copy.deepcopy(config)
    vars(config).pop("quantization_config", None)
    part: Any = config.get_text_config()
    for name in WINDOWS:
        value: object = getattr(part, name, None)
        if isinstance(value, int) and value > WINDOW:
            setattr(part, name, WINDOW)
    if sizes:
        _narrow(part)
        _drop_layers(part)
    _shorten_rope(part)
    return config


def _narrow(part: Any) -> None:
    groups = _groups(part)
    for name, size in SIZES.items():
        value: object = getattr(part, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > size:
            setattr(part, name, size)
        elif isinstance(value, list):
            setattr(
                part, name, [min(size, v) if isinstance(v, int) else v for v in cast("list[object]", value)]
            )
    for name in KEY_HEADS:
        if isinstance(getattr(part, name, None), int):
            setattr(part, name, groups)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = getattr(part, name, None)
        if not isinstance(value, int) or value >= VOCABULARY:
            setattr(part, name, None)


def rope_parts(part: Any) -> list[dict[str, Any]]:
    """The rotary settings of a text config: one set, or one per kind of layer."""
    rope: object = getattr(part, "rope_parameters", None) or getattr(part, "rope_scaling", None)
    if not isinstance(rope, dict):
        return []
    sets = cast("dict[str, Any]", rope)
    return [sets, *(cast("dict[str, Any]", v) for v in sets.values() if isinstance(v, dict))]


def _shorten_rope(part: Any) -> None:
    """Rotary factors that change beyond a length do so at `ROPE_LIMIT`, inside the probe's reach."""
    for rope in rope_parts(part):
        kind = str(rope.get("rope_type", rope.get("type", "")))
        if kind == "longrope":
            if rope.get("original_max_position_embeddings"):
                rope["original_max_position_embeddings"] = ROPE_LIMIT
            if getattr(part, "original_max_position_embeddings", None):
                part.original_max_position_embeddings = ROPE_LIMIT
            width = int(getattr(part, "head_dim", None) or part.hidden_size // part.num_attention_heads)
            width = int(width * float(rope.get("partial_rotary_factor") or 1.0)) // 2
            for name in ("short_factor", "long_factor"):
                rope[name] = rope[name][:width]
        elif "dynamic" in kind:
            part.max_position_embeddings = ROPE_LIMIT
            if rope.get("original_max_position_embeddings"):
                rope["original_max_position_embeddings"] = ROPE_LIMIT


def _groups(part: Any) -> int:
    """Key heads of a specimen of 4 heads: all, one, or half, as in the original."""
    heads = next((h for n in SIZES if "heads" in n or n == "n_head" if (h := getattr(part, n, None))), 4)
    own = next((h for n in KEY_HEADS if (h := getattr(part, n, None))), heads)
    return 4 if own == heads else 1 if own == 1 else 2


def _drop_layers(part: Any) -> None:
    """Keeps the shortest run of first layers in which every kind of layer occurs, and the pattern's period."""
    name = next((n for n in LAYER_COUNTS if isinstance(getattr(part, n, None), int)), None)
    if name is None:
        raise ValueError("the config names no number of layers")
    count: int = getattr(part, name)
    lists = {
        key: cast("list[object]", value)
        for key, value in vars(part).items()
        if isinstance(value, list) and len(cast("list[object]", value)) == count
    }
    kinds = [repr([values[i] for values in lists.values()]) for i in range(count)]
    needed = max((kinds.index(kind) + 1 for kind in kinds), default=1)
    periods = [p for n in PATTERNS if isinstance(p := getattr(part, n, None), int)]
    dense = getattr(part, "first_k_dense_replace", None)
    kept = min(count, max(2, needed, *periods, (dense if isinstance(dense, int) else 0) + 1))
    setattr(part, name, kept)
    for key, values in lists.items():
        setattr(part, key, values[:kept])


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
