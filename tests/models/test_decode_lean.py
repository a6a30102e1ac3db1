"""The lean forward gives the logits of the model's own code, or stands back."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor

from models.tiny_families import tiny
from tastemaker.models import decode_lean
from tastemaker.models.adapters import AdapterSwitch, LoraSettings, attach, lora_config
from tastemaker.models.attention import IMPLEMENTATION
from tastemaker.models.decode import evaluating
from tastemaker.models.decode_ways import Ways

FAMILIES = {
    "llama": {},
    "llama biased": dict(attention_bias=True, mlp_bias=True, head_dim=6),
    "llama tied": dict(tie_word_embeddings=True, num_key_value_heads=1),
    "llama scaled rope": dict(
        rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=500.0), hidden_act="gelu"
    ),
    "mistral": {},
    "qwen2": {},
    "qwen2 windowed": dict(
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "qwen3": dict(head_dim=8),
}


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    torch.manual_seed(0)


def made(name: str, dtype: torch.dtype = torch.float64) -> transformers.PreTrainedModel:
    model = tiny(name, dtype, **FAMILIES[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases that matter
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.set_attn_implementation(IMPLEMENTATION)
    return model


def walk(model: torch.nn.Module, *, lean: bool, shared: bool, seed: int = 0) -> tuple[Tensor, bool]:
    """Logits on the way of some rows: steps, rows dropped, more added, and enough steps for every window."""
    generator = torch.Generator().manual_seed(seed)

    def ids(n: int) -> Tensor:
        return torch.randint(3, 64, (n,), generator=generator)

    with evaluating(model):
        decoder = Ways(lean=lean).of(model, 30)(shared)
        owners = [0, 0, 0, 1, 2, 2] if shared else [0, 1, 2, 3]
        found = [decoder.add([ids(n) for n in (7, 2, 11, 4)[: owners[-1] + 1]], owners, 12)]
        for _ in range(2):
            found.append(decoder.step(ids(len(found[-1]))))
        decoder.keep(torch.tensor([0, 2, 3]))
        found.append(decoder.step(ids(3)))
        found.append(decoder.add([ids(14), ids(1)], [0, 0, 1] if shared else [0, 1], 9))
        rows = 3 + len(found[-1])
        for _ in range(6):
            found.append(decoder.step(ids(rows)))
        decoder.keep(torch.tensor([1, 3, 4]))
        found.append(decoder.step(ids(3)))
        return torch.cat([part.clone() for part in found]), decoder.pure


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "alone"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_models_own_code(family, shared):
    model = made(family)
    expected, pure = walk(model, lean=False, shared=shared)
    assert not pure
    found, pure = walk(model, lean=True, shared=shared)
    assert pure
    # float32 islands (norms, rotary factors) lie in the families' own code
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("family", ["llama", "llama biased", "qwen3"])
def test_the_layout_of_weights_changes_nothing(family, monkeypatch):
    model = made(family, torch.float32)
    packed, pure = walk(model, lean=True, shared=True, seed=1)
    assert pure
    monkeypatch.setattr(decode_lean, "PACK_STEPS", 10**9)
    joined, _ = walk(model, lean=True, shared=True, seed=1)
    monkeypatch.setattr(decode_lean, "COPY_BYTES", 0)
    bare, _ = walk(model, lean=True, shared=True, seed=1)
    own, _ = walk(model, lean=False, shared=True, seed=1)
    for other in (packed, joined, bare):
        assert (other - own).abs().max() < 2e-5 * own.abs().max()


def adapted(family: str, dtype: torch.dtype, **settings: object) -> torch.nn.Module:
    model = made(family, dtype)
    model = attach(model, "policy_adapter", lora_config(LoraSettings(r=3, **settings), model))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("copies", [True, False], ids=["merged", "beside"])
@pytest.mark.parametrize("saved", [(), ("lm_head", "embed_tokens")], ids=["lora", "and saved modules"])
def test_an_active_adapter_takes_part_and_an_inactive_one_does_not(copies, saved, monkeypatch):
    model = adapted("qwen2", torch.float32, modules_to_save=saved)
    if not copies:
        monkeypatch.setattr(decode_lean, "COPY_BYTES", 0)
    switch, seen = AdapterSwitch(model), []
    for name in ("policy_adapter", None):
        with switch.use(name):
            expected, _ = walk(model, lean=False, shared=True)
            found, pure = walk(model, lean=True, shared=True)
        assert pure
        assert (found - expected).abs().max() < 5e-5 * expected.abs().max()  # the merge rounds each weight once
        seen.append(expected)
    assert (seen[0] - seen[1]).abs().max() > 0.1 * seen[0].abs().max()


def test_weights_in_bfloat16_keep_a_small_update():
    model = adapted("llama", torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(1e-2)  # far below what the rounding of a weight would leave of it
    exact = copy.deepcopy(model).float()
    switches = AdapterSwitch(model), AdapterSwitch(exact)

    def moved(which: torch.nn.Module, switch: AdapterSwitch) -> Tensor:
        with switch.use("policy_adapter"):
            on, pure = walk(which, lean=True, shared=True)
        with switch.use(None):
            off, _ = walk(which, lean=True, shared=True)
        assert pure
        return (on - off).double().flatten()

    found, expected = (moved(m, s) for m, s in zip((model, exact), switches, strict=True))
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(dtype):
    model = made("llama", dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, _ = walk(model, lean=False, shared=True)
        found, pure = walk(model, lean=True, shared=True)
    assert pure
    exact, _ = walk(made("llama", torch.float32), lean=False, shared=True)
    # not worse than the model's own code at the same precision
    assert (found - exact).abs().mean() < 1.5 * (expected - exact).abs().mean()


def hooked(model: torch.nn.Module) -> None:
    model.get_submodule("model.layers.1.mlp").register_forward_hook(lambda *_: None)


def replaced(model: torch.nn.Module) -> None:
    layer = model.get_submodule("model.layers.0")
    layer.forward = layer.forward


def another_part(model: torch.nn.Module) -> None:
    model.get_submodule("model.layers.0.mlp").extra = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("change", [hooked, replaced, another_part])
def test_what_is_not_known_is_left_to_the_model(change: Callable[[torch.nn.Module], None]):
    model = made("llama")
    change(model)
    assert not walk(model, lean=True, shared=True)[1]


def test_recomputed_activations_do_not_matter():
    model = made("llama", torch.float32)
    expected, _ = walk(model, lean=True, shared=True)
    model.enable_input_require_grads()
    found, pure = walk(model, lean=True, shared=True)
    assert pure
    assert torch.equal(found, expected)


def test_a_dora_adapter_is_left_to_the_model():
    model = made("llama", torch.float32)
    config = lora_config(LoraSettings(r=2), model)
    config.use_dora = True
    assert not walk(attach(model, "policy_adapter", config), lean=True, shared=True)[1]


class _Halved(transformers.models.llama.modeling_llama.LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return 0.9 * super().forward(x)


def test_other_numbers_are_noticed_and_said(caplog):
    model = made("llama", torch.float32)
    model.model.layers[1].mlp.__class__ = _Halved
    with caplog.at_level(logging.WARNING):
        found, pure = walk(model, lean=True, shared=True)
    assert not pure
    assert "decoded by its own code: the lean forward is off by" in caplog.text
    assert torch.equal(found, walk(model, lean=False, shared=True)[0])


def test_a_model_is_tried_once():
    model = made("llama", torch.float32)
    forwards: list[int] = []
    own = type(model.model).forward
    ways = Ways()
    with evaluating(model), pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.model), "forward", lambda *a, **k: forwards.append(1) or own(*a, **k))
        assert ways.of(model, 5)(True).pure
        tried = len(forwards)
        assert ways.of(model, 5)(True).pure
    assert tried > 0
    assert len(forwards) == tried
