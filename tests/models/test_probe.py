"""How models are fed is found by trying: every family here is right, and those that cannot take the stream are
found. Numbers and gradients are held against every response alone through the family's own eager attention.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)
from transformers.models.llama import modeling_llama

from models.tiny_families import BATCH, ROWS, STREAM, drawn, each_alone, enlarge, far, furthest, gradients, tiny
from tastemaker.models import probe as probing
from tastemaker.models.attention import IMPLEMENTATION
from tastemaker.models.backbone import HeadRule, measure_head
from tastemaker.models.forward import Scorer
from tastemaker.models.probe import Grouping, ProbeResult, probe
from tastemaker.models.shrink import shrunken, specimen
from tastemaker.types import Bundles, Tree

CLOSE = 1e-5
"""Exact for these families: eager softmax, most norms and rotary factors run in float32 inside float64."""


def checked(name: str, **more: Any) -> tuple[ProbeResult, float, float]:
    """(how the family is fed, largest error of a log-prob, largest relative error of a gradient)."""
    model = tiny(name, **more)
    reference = copy.deepcopy(model)
    truth = each_alone(reference, BATCH)
    scorer = Scorer(model)
    logps = scorer(BATCH).logps
    assert logps is not None
    weight = torch.linspace(-1, 1, len(truth), dtype=torch.float64)
    wrong = furthest(gradients(model, (logps * weight).sum()), gradients(reference, (truth * weight).sum()))
    return scorer.result, far(logps, truth), wrong


@pytest.mark.parametrize("name", STREAM)
def test_families_that_take_the_stream(name: str) -> None:
    result, error, gradient_error = checked(name)
    assert (result.layout, result.reason, result.tested) == ("stream", "", True)
    assert result.head.mode == "chunked"
    assert error < CLOSE
    assert gradient_error < CLOSE


OWN_CODE, OFF = "own attention code", "as a stream are off"
REASONS = {
    "falcon": OWN_CODE,
    "falcon alibi": OWN_CODE,
    "bloom": OWN_CODE,
    "gptj": OWN_CODE,
    "gpt_neo": OWN_CODE,
    "mamba": "not go through transformers' interface",
    "llama4_text": OFF,
    "qwen2_moe windowed": OFF,
    "lfm2": OFF,
    "stablelm": "without its tree",
}


@pytest.mark.parametrize("name", ROWS)
def test_families_for_which_the_stream_would_be_wrong(name: str) -> None:
    result, error, gradient_error = checked(name)
    assert result.layout == "rows"
    assert REASONS[name] in result.reason
    assert error < CLOSE
    assert gradient_error < CLOSE


@pytest.mark.parametrize("name", ["mamba", "llama4_text", "qwen2_moe windowed", "lfm2"])
def test_the_rejected_stream_really_is_wrong(name: str) -> None:
    """The verdict has content: forced through the stream, these are off by tenths of a nat, silently."""
    model = tiny(name)
    truth = each_alone(copy.deepcopy(model), BATCH)
    logps = Scorer(model, ProbeResult("stream", HeadRule("chunked")))(BATCH).logps
    assert logps is not None
    assert far(logps, truth) > 0.1


@pytest.mark.parametrize(
    ("name", "key"), [("qwen2_moe windowed", "sliding_window"), ("llama4_text", "attention_chunk_size")]
)
def test_windows_longer_than_any_probe_are_found(name: str, key: str) -> None:
    """A window of 1000 changes nothing a short batch could see; the specimen's is short."""
    assert probe(tiny(name, **{key: 1000})).layout == "rows"
    assert probe(tiny("mistral", sliding_window=1000)).layout == "stream"


def test_a_window_that_never_reaches_attention_is_found_by_its_name() -> None:
    """Even where the numbers agree: here the config of a family without windows names one."""
    result = probe(tiny("llama", sliding_window=7))
    assert result.layout == "rows"
    assert "sliding_window" in result.reason
    assert probe(tiny("qwen2", sliding_window=7, use_sliding_window=False)).layout == "stream"


def test_windows_count_positions_in_long_trees() -> None:
    """Blocks of a long tree drop keys beyond the window: by position, in every response alike."""
    model = tiny("mistral", max_position_embeddings=512, sliding_window=20)
    batch = drawn(((130, (150, 5, 140)), (10, (60, 60))))
    truth = each_alone(copy.deepcopy(model), batch)
    logps = Scorer(model)(batch).logps
    assert logps is not None
    assert far(logps, truth) < CLOSE


LONGROPE = {
    "original_max_position_embeddings": 16,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.2, 1.3, 1.5],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "factor": 4.0,
    },
}
DYNAMIC = {
    "max_position_embeddings": 16,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}


@pytest.mark.parametrize(
    ("name", "settings", "grouping"),
    [("phi3", LONGROPE, Grouping("sides", 16)), ("llama", DYNAMIC, Grouping("equal", 16))],
    ids=["longrope", "dynamic"],
)
def test_rotary_factors_that_follow_the_longest_row(
    name: str, settings: dict[str, Any], grouping: Grouping
) -> None:
    """Such models are wrong in any shared forward across the original length, padding included."""
    batch = drawn(((7, (6, 9, 20)), (1, (12, 30)), (11, (3, 13, 1)), (20, (12, 3))))
    model = tiny(name, **settings)
    fresh = [copy.deepcopy(model) for _ in range(sum(batch.group_sizes))]
    alone = [
        each_alone(fresh[n], Bundles((Tree(t.prompt, (r,)),)))
        for n, (t, r) in enumerate((t, r) for t in batch.trees for r in t.responses)
    ]
    truth = torch.cat(alone)
    scorer = Scorer(model)
    assert (scorer.result.layout, scorer.result.grouping) == ("stream", grouping)
    for _ in range(2):  # what was scored before must not matter either
        logps = scorer(batch).logps
        assert logps is not None
        assert far(logps, truth) < CLOSE
    for layout in ("stream", "rows"):
        naive = Scorer(copy.deepcopy(fresh[0]), ProbeResult(layout, scorer.result.head))(batch).logps
        assert naive is not None
        assert far(naive, truth) > 0.1


def test_longer_limits_than_the_probes_are_kept() -> None:
    settings = copy.deepcopy(LONGROPE)
    settings["original_max_position_embeddings"] = 40
    assert probe(tiny("phi3", **settings)).grouping == Grouping("sides", 40)
    assert probe(tiny("llama")).grouping == Grouping("together")


class Leaky(LlamaForCausalLM):
    """A family whose layers mix a little of every token into the next, beside its attention."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        def mix(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            return output + 0.3 * output.roll(1, dims=1).cumsum(1) / output.shape[1] ** 0.5

        handle = self.model.layers[0].mlp.register_forward_hook(mix)
        try:
            return super().forward(*args, **kwargs)
        finally:
            handle.remove()


def small_llama(kind: type[LlamaForCausalLM] = LlamaForCausalLM, **more: Any) -> LlamaForCausalLM:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(**{**sizes, "num_attention_heads": 4, "max_position_embeddings": 64, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
        enlarge(model)
    return model


def test_a_leak_beside_attention_is_found() -> None:
    result = probe(small_llama(Leaky))
    assert result.layout == "rows"
    assert result.grouping.kind == "alone"  # its rows depend on their width, too


class Odd(LlamaForCausalLM):
    """A family that does to its logits what no scale and no soft cap does."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + torch.linspace(0, 3, output.logits.shape[-1])
        return output


def test_leaks_are_looked_for_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the log-probs of the one batch happened to agree."""
    monkeypatch.setattr(probing._Trial, "apart", lambda *_: 0.0)
    probing._of_family.cache_clear()
    assert "leak" in probe(tiny("lfm2")).reason
    probing._of_family.cache_clear()


class Both(LlamaForCausalLM):
    """A family with a scale and a soft cap on its logits."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = 2.0 * torch.tanh(output.logits * 0.7 / 2.0)
        return output


def test_a_scale_and_a_soft_cap_together() -> None:
    model = small_llama(Both)
    truth = each_alone(copy.deepcopy(model), BATCH)
    scorer = Scorer(model)
    assert scorer.result.head == HeadRule("chunked", pytest.approx(0.7), pytest.approx(2.0))
    logps = scorer(BATCH).logps
    assert logps is not None
    assert far(logps, truth) < 1e-4
    z = torch.linspace(-9, 9, 50)
    assert torch.allclose(scorer.result.head.transform(z), 2.0 * torch.tanh(z * 0.35))


def test_unknown_logit_transforms_are_left_to_the_model() -> None:
    model = small_llama(Odd)
    scorer = Scorer(model)
    assert (scorer.result.layout, scorer.result.head.mode) == ("stream", "whole")
    truth = each_alone(small_llama(Odd), BATCH)
    logps = scorer(BATCH).logps
    assert logps is not None
    assert far(logps, truth) < CLOSE
    rows = Scorer(small_llama(Odd), ProbeResult("rows", HeadRule("whole")))(BATCH).logps
    assert rows is not None
    assert far(rows, truth) < CLOSE


@pytest.mark.parametrize(
    ("name", "scale", "softcap"),
    [("llama", 1.0, None), ("cohere", 0.25, None), ("granite", 0.5, None), ("gemma2", 1.0, 3.0)],
)
def test_the_heads_transform_is_measured(name: str, scale: float, softcap: float | None) -> None:
    rule = measure_head(tiny(name))
    assert rule.mode == "chunked"
    assert rule.scale == pytest.approx(scale, abs=1e-9)
    assert rule.softcap == (None if softcap is None else pytest.approx(softcap, abs=1e-9))


def test_small_models_keep_their_sizes_and_lose_their_windows() -> None:
    settings = tiny("mistral", sliding_window=1000).config.to_dict()
    short = shrunken(settings, sizes=False)
    assert short["sliding_window"] == 4
    assert {k: v for k, v in short.items() if k != "sliding_window"} == {
        k: v for k, v in settings.items() if k != "sliding_window"
    }


def test_big_models_are_probed_on_a_small_specimen() -> None:
    """Sizes shrink, kinds of layers and switches stay."""
    big = {
        "vocab_size": 50_000,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "sliding_window": 512,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"] * 20,
    }
    made = specimen(Gemma2ForCausalLM, Gemma2Config(**big), sizes=True)
    assert sum(p.numel() for p in made.parameters()) < 200_000
    assert set(made.config.layer_types) == {"sliding_attention", "full_attention"}
    assert made.config.sliding_window == 4
    assert made.config.num_attention_heads == 2 * made.config.num_key_value_heads
    assert made.config.final_logit_softcapping == 30.0
    moe = Qwen2MoeConfig(sliding_window=4096, use_sliding_window=True, max_window_layers=28)
    family = probing._Family(Qwen2MoeForCausalLM, "", False, moe)
    result = probing._of_family(family)
    assert result is not None
    assert result.layout == "rows"


def test_without_a_specimen_the_model_itself_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object, **_options: object) -> PreTrainedModel:
        raise ValueError("no specimen")

    monkeypatch.setattr(probing, "specimen", fails)
    probing._of_family.cache_clear()
    assert probe(tiny("gemma2", torch.float32)).layout == "stream"
    assert probe(tiny("gemma2", torch.float32)).head.softcap == pytest.approx(3.0)
    assert probe(tiny("qwen2_moe windowed")).layout == "rows"
    assert probe(tiny("mamba", torch.float32)).layout == "rows"
    assert probe(tiny("phi3", **LONGROPE)).grouping == Grouping("sides", 16)
    probing._of_family.cache_clear()


def test_the_model_itself_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of this model alone, which its family does not have, still turns it to rows."""
    model = tiny("llama", torch.float32)
    layer = model.model.layers[0].self_attn
    plain = layer.forward

    def without_tree(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("tree", None)
        layer.config = copy.copy(layer.config)
        layer.config._attn_implementation_internal = "sdpa"
        return plain(*args, **kwargs)

    monkeypatch.setattr(layer, "forward", without_tree)
    result = probe(model)
    assert result.layout == "rows"
    assert "itself" in result.reason


def test_probing_changes_nothing() -> None:
    model = small_llama(attention_dropout=0.1).train()
    model.lm_head.eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    implementation = model.config._attn_implementation
    probing._of_family.cache_clear()
    probe(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.config._attn_implementation == implementation
    assert model.training
    assert not model.lm_head.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.lm_head._forward_hooks
    assert not model.lm_head._forward_pre_hooks
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_scored_model_can_be_probed_again() -> None:
    model = tiny("mistral")
    assert Scorer(model).result == probe(model)
    assert model.config._attn_implementation == IMPLEMENTATION


def test_a_family_is_tried_once_in_a_process() -> None:
    probing._of_family.cache_clear()
    probe(small_llama())
    probe(small_llama())
    assert probing._of_family.cache_info().misses == 1
    probe(small_llama(num_key_value_heads=2))
    assert probing._of_family.cache_info().misses == 2


def test_untested_families_get_a_word(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING, logger="tastemaker.models.probe"):
        probe(small_llama())
        assert not caplog.records
        monkeypatch.setattr(probing, "TESTED", frozenset())
        assert not probe(small_llama()).tested
    assert "llama" in caplog.text


def test_low_precision_models_take_the_stream() -> None:
    for model in (small_llama().bfloat16(), tiny("gemma2", torch.bfloat16), tiny("gpt2", torch.bfloat16)):
        assert probe(model).layout == "stream"


def test_gpt2_with_its_own_upcast_is_right_either_way() -> None:
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, reorder_and_upcast_attn=True)
    model = GPT2LMHeadModel(config).eval()
    truth = each_alone(copy.deepcopy(model), BATCH)
    logps = Scorer(model)(BATCH).logps
    assert logps is not None
    assert far(logps, truth) < 1e-4


def test_what_the_model_was_made_for_is_untouched_by_the_registry() -> None:
    """Other models of the same process keep their own attention."""
    other = small_llama()
    Scorer(small_llama())
    assert other.config._attn_implementation in ("sdpa", "eager")
    assert modeling_llama.ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] is not None
