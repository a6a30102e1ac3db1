"""Tiny random models of several families, and what teacher forcing says about what they wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import transformers

import tastemaker.models.attention as attention
from tastemaker.types import Bundles, Role, Tree

VOCABULARY = 31
_SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXTRA: dict[str, dict[str, object]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 5},
    "Gemma2": {"sliding_window": 5, "head_dim": 8, "query_pre_attn_scalar": 5, "attn_logit_softcapping": 2.0},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "GptOss": {"sliding_window": 5, "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 2},
    "GPTNeoX": {"rotary_pct": 0.5},
    "Cohere": {"logit_scale": 0.25},
    "DiffLlama": {},
    "DeepseekV3": {
        "num_key_value_heads": 4,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 6,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    },
    "Falcon": {"alibi": True, "new_decoder_architecture": False, "multi_query": True},
    "Mamba": {"state_size": 4},
    "Bloom": {"n_head": 4, "n_layer": 2},
    "Rwkv": {"attention_hidden_size": 32, "context_length": 64},
    "RecurrentGemma": {
        "attention_window_size": 6,
        "num_hidden_layers": 3,
        "head_dim": 8,
        "num_key_value_heads": 1,
    },
    "MiniMax": {
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "Qwen2Moe": {
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 0,
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
}
Build = Callable[..., transformers.PreTrainedModel]


class OneModel:
    """The part of the models' protocol that a generator needs; records when the scope is open."""

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.roles: list[str] = []
        self.open = False

    def generation_model(self, role: Role):
        self.roles.append(role)
        return self.model, self._scope()

    @contextmanager
    def _scope(self) -> Iterator[None]:
        self.open = True
        try:
            yield
        finally:
            self.open = False


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


@pytest.fixture(scope="session")
def build() -> Build:
    """build(family, dtype=..., own_attention=False, **config): weights scaled up so that attention matters."""

    def make(
        family: str,
        *,
        dtype: torch.dtype = torch.float32,
        own_attention: bool = False,
        seed: int = 3,
        **more: object,
    ) -> transformers.PreTrainedModel:
        torch.manual_seed(seed)
        config = getattr(transformers, f"{family}Config")(**{**_SIZE, **_EXTRA[family], **more})
        kind = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
        model = getattr(transformers, f"{family}{kind}")(config).to(dtype).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    parameter.mul_(8.0)
                elif "sinks" in name:
                    parameter.add_(1.0)
        if not own_attention:
            model.set_attn_implementation(attention.IMPLEMENTATION)
        return model

    return make


@pytest.fixture(scope="session")
def wrap() -> Callable[[torch.nn.Module], OneModel]:
    return OneModel


@pytest.fixture(scope="session")
def prompts() -> Callable[..., Bundles]:
    """prompts(lengths, first_row=0): trees of random ids above the special ones, numbered."""

    def make(lengths: list[int], first_row: int = 0) -> Bundles:
        generator = torch.Generator().manual_seed(5 + first_row)
        return Bundles(
            tuple(
                Tree(torch.randint(3, VOCABULARY, (length,), generator=generator), row=first_row + i)
                for i, length in enumerate(lengths)
            )
        )

    return make


@pytest.fixture(scope="session")
def teacher_forced() -> Callable[..., torch.Tensor]:
    """Log-probabilities [N] of the responses, each row alone through the model's stock attention."""

    def score(model: transformers.PreTrainedModel, batch: Bundles, temperature: float = 1.0) -> torch.Tensor:
        before = model.config._attn_implementation
        if before == attention.IMPLEMENTATION:
            model.set_attn_implementation("eager")
        rows: list[torch.Tensor] = []
        for tree in batch.trees:
            for response in tree.responses:
                ids = torch.cat([tree.prompt, response])[None]
                with torch.no_grad():
                    logits = model(input_ids=ids, use_cache=False).logits[0, len(tree.prompt) - 1 : -1]
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                logps = (logits / temperature).log_softmax(-1)
                rows.append(logps[torch.arange(len(response)), response])
        if before == attention.IMPLEMENTATION:
            model.set_attn_implementation(before)
        return torch.cat(rows)

    return score
