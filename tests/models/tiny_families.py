"""Tiny random models of many families, in float64 with weights large enough that attention matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tastemaker.types import Bundles, Tree

WINDOW = 5
SIZES: dict[str, Any] = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
ALTERNATING = ["sliding_attention", "full_attention"]
FULL: Mapping[str, object] = {"rope_type": "default", "rope_theta": 10000.0}

STREAM: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen2 windowed": dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=0),
    "qwen3": dict(head_dim=8),
    "mistral": dict(sliding_window=WINDOW),
    "gemma2": dict(
        sliding_window=WINDOW,
        head_dim=8,
        query_pre_attn_scalar=8,
        layer_types=ALTERNATING,
        final_logit_softcapping=3.0,
        attn_logit_softcapping=2.0,
    ),
    "gemma3_text": dict(sliding_window=WINDOW, head_dim=8, query_pre_attn_scalar=8, layer_types=ALTERNATING),
    "gpt2": dict(n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt_neox": dict(rotary_pct=0.5),
    "phi3": dict(sliding_window=WINDOW),
    "olmo2": {},
    "mixtral": dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "granite": dict(
        attention_multiplier=0.3, logits_scaling=2.0, residual_multiplier=0.7, embedding_multiplier=1.5
    ),
    "cohere": dict(logit_scale=0.25),
    "cohere2": dict(logit_scale=0.25, sliding_window=WINDOW, layer_types=ALTERNATING),
    "gpt_oss": dict(
        sliding_window=WINDOW,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=ALTERNATING,
        rope_parameters=dict(FULL),
    ),
    "deepseek_v3": dict(
        num_key_value_heads=4,
        q_lora_rank=12,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=6,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        moe_intermediate_size=16,
        n_shared_experts=1,
    ),
    "phi": {},
    "opt": dict(ffn_dim=48, word_embed_proj_dim=32),
    "starcoder2": dict(sliding_window=WINDOW),
}
"""Families that take the stream, with their peculiarities switched on."""

ROWS: dict[str, dict[str, Any]] = {
    "falcon": dict(alibi=False, new_decoder_architecture=False, multi_query=True),
    "falcon alibi": dict(alibi=True, new_decoder_architecture=False, multi_query=False),
    "bloom": dict(n_layer=2, n_head=4),
    "gptj": dict(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64),
    "gpt_neo": dict(num_layers=2, attention_types=[[["global", "local"], 1]], num_heads=4, window_size=WINDOW),
    "mamba": dict(state_size=4, conv_kernel=3, expand=2, time_step_rank=4),
    "llama4_text": dict(
        head_dim=8,
        intermediate_size_mlp=48,
        num_local_experts=2,
        num_experts_per_tok=1,
        attention_chunk_size=WINDOW,
        layer_types=["chunked_attention", "full_attention"],
        no_rope_layers=[1, 0],
        moe_layers=[1],
    ),
    "qwen2_moe windowed": dict(
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=2,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "lfm2": dict(layer_types=["conv", "full_attention"]),
    "stablelm": {},
}
"""Families for which the stream would be wrong."""

BLOWN_UP = 1.5


def tiny(name: str, dtype: torch.dtype = torch.float64, **more: Any) -> PreTrainedModel:
    """The family `name` (its first word is the model type), evaluated by its own eager attention."""
    settings = {**SIZES, **{**STREAM, **ROWS}.get(name, {}), **more}
    config = AutoConfig.for_model(name.split()[0], **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        enlarge(model)
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # the fused ones lack float64
    return model.to(dtype).eval()


def enlarge(model: nn.Module) -> None:
    """Matrices so large that mixing up the batch costs whole nats."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_()
            elif isinstance(module, nn.Linear | Conv1D):
                inputs = module.weight.shape[isinstance(module, nn.Linear)]
                module.weight.normal_(0, BLOWN_UP * inputs**-0.5)
            else:
                for parameter in module.parameters(recurse=False):
                    if parameter.dim() == 3:
                        parameter.normal_(0, parameter.shape[-1] ** -0.5)


def drawn(shapes: Sequence[tuple[int, Sequence[int]]], seed: int = 0) -> Bundles:
    """Trees of random ids: (prompt length, response lengths) each."""
    generator = torch.Generator().manual_seed(seed)

    def ids(n: int) -> Tensor:
        return torch.randint(3, 64, (n,), generator=generator)

    return Bundles(tuple(Tree(ids(prompt), tuple(ids(n) for n in own)) for prompt, own in shapes))


BATCH = drawn(((7, (6, 9)), (1, (12,)), (11, (3, 13, 1))))
"""Uneven groups, a lone context token, a response of one token, rows well beyond every window."""


def each_alone(model: PreTrainedModel, batch: Bundles) -> Tensor:
    """[N] log-probs by the plainest way: every prompt + response through the model's own forward, alone."""
    found: list[Tensor] = []
    for tree in batch.trees:
        for response in tree.responses:
            row = torch.cat([tree.prompt, response])
            logits = model(input_ids=row[None], use_cache=False).logits[0].double()
            table = logits.log_softmax(-1)
            for n in range(len(tree.prompt), len(row)):
                found.append(table[n - 1, row[n]])
    return torch.stack(found)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of all parameters, zeros where one takes no part."""
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def furthest(mine: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference of gradients, in units of the largest entry of `theirs`."""
    scale = max(float(g.abs().max()) for g in theirs)
    return max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True)) / scale


def far(mine: Tensor, theirs: Tensor) -> float:
    """Largest difference."""
    return float((mine.detach() - theirs.detach()).abs().max())
