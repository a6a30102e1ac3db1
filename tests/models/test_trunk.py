"""The quicker way through the layers against the model's own code, written as plainly as can be."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.tiny_families import BATCH, each_alone, far, tiny
from tastemaker.models.adapters import AdapterSwitch
from tastemaker.models.backbone import HeadRule, hidden_states
from tastemaker.models.forward import Scorer
from tastemaker.models.layout import stream
from tastemaker.models.probe import ProbeResult
from tastemaker.types import Bundles, Tree

CLOSE = 2e-5
STREAM = ProbeResult("stream", HeadRule("chunked"))


def loss_of(logps: Tensor, batch: Bundles) -> Tensor:
    """DPO's between the first two responses of each tree, and a little of everything else."""
    sums = batch.sum_by_response(logps)
    return -torch.nn.functional.logsigmoid(0.1 * (sums[0] - sums[1])) + 0.01 * sums.square().sum()


def milder(model: Any) -> Any:
    """Weights of a usual size: large ones make rounding large."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(0.3)
    return model


def test_float32_is_exact_to_rounding() -> None:
    """Loss and every gradient against float64: full logits, each response alone, by autograd."""
    model = milder(tiny("llama", torch.float32))
    exact = copy.deepcopy(model).double()
    truth = loss_of(each_alone(exact, BATCH), BATCH)
    truth.backward()
    scorer = Scorer(model, STREAM)
    assert scorer.trunk is not None
    loss = loss_of(scorer(BATCH).logps, BATCH)
    loss.backward()
    assert abs(loss.item() - truth.item()) < 1e-5 * abs(truth.item())
    for (name, mine), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert float((mine.grad.double() - theirs.grad).norm() / theirs.grad.norm()) < 1e-5, name


def adapted(name: str, targets: Sequence[str] | str, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """With two adapters, `first` and `second`, whose updates are not zero; only they are trained."""
    found = tiny(name, dtype)
    found.requires_grad_(False)
    target = targets if isinstance(targets, str) else list(targets)
    for i, adapter in enumerate(("first", "second")):
        config = LoraConfig(r=3 + i, lora_alpha=7, target_modules=target, task_type="CAUSAL_LM", **more)
        if isinstance(found, PeftModel):
            found.add_adapter(adapter, config, autocast_adapter_dtype=False)
        else:
            found = get_peft_model(found, config, adapter, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(5)
    for part, parameter in found.named_parameters():
        if "lora_" in part:
            parameter.requires_grad_(True)
            with torch.no_grad():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return found.eval()


def trained(model: nn.Module, scorer: Scorer) -> tuple[float, dict[str, Tensor]]:
    """Loss and every gradient that is not None."""
    model.zero_grad(set_to_none=True)
    loss = loss_of(scorer(BATCH).logps, BATCH)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def without_trunk(model: nn.Module) -> Scorer:
    scorer = Scorer(model, STREAM)
    scorer.trunk = None
    return scorer


def assert_alike(model: Any, tolerance: float = 2e-5) -> dict[str, Tensor]:
    """The trunk and the model's own code: the same loss, the same gradients of the same parameters (to within
    rounding: their RMS norms run in float32 inside float64)."""
    quick = Scorer(model, STREAM)
    assert quick.trunk is not None
    mine, found = trained(model, quick)
    theirs, wanted = trained(model, without_trunk(model))
    assert abs(mine - theirs) < tolerance * abs(theirs)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).norm()) <= tolerance * float(gradient.norm()), name
    return found


TARGETS = ["all-linear", ["q_proj", "v_proj"], ["k_proj", "up_proj", "o_proj"], ["down_proj"]]


@pytest.mark.parametrize("targets", TARGETS, ids=str)
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_adapters_ride_along(name: str, targets: Sequence[str] | str) -> None:
    model = adapted(name, targets)
    switch = AdapterSwitch(model)
    losses: dict[str | None, float] = {}
    for active in ("first", "second"):
        with switch.use(active):
            found = assert_alike(model)
            losses[active] = trained(model, Scorer(model, STREAM))[0]
        assert found and all(f".{active}." in part for part in found)
    with switch.use(None), torch.no_grad():
        quick, own = Scorer(model, STREAM), without_trunk(model)
        assert quick.trunk is not None
        assert far(quick(BATCH).logps, own(BATCH).logps) < CLOSE
        losses[None] = loss_of(quick(BATCH).logps, BATCH).item()
    assert len({round(x, 4) for x in losses.values()}) == 3


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_all_weights_learn_alike(name: str) -> None:
    model = tiny(name)
    if name == "qwen3":  # its heads' norms start as ones, which hide a mistake in their order
        with torch.no_grad():
            for part, parameter in model.named_parameters():
                if part.endswith(("q_norm.weight", "k_norm.weight")):
                    parameter.copy_(torch.linspace(0.5, 1.5, len(parameter)))
    assert len(assert_alike(model)) == len(list(model.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_with_adapters_is_no_worse_than_the_models_own(dtype: torch.dtype) -> None:
    """Against float64; in bfloat16 as a run has it: base in bfloat16, adapters in float32, autocast."""
    exact = milder(adapted("llama", "all-linear"))
    _, truth = trained(exact, without_trunk(exact))
    model = copy.deepcopy(exact).float()
    for part, parameter in model.named_parameters():
        if dtype == torch.bfloat16 and "lora_" not in part:
            parameter.data = parameter.data.to(dtype)

    def error(scorer: Scorer) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            _, found = trained(model, scorer)
        assert found.keys() == truth.keys()
        squares = [((found[n].double() - t).square().sum(), t.square().sum()) for n, t in truth.items()]
        return float(sum(a for a, _ in squares) / sum(b for _, b in squares)) ** 0.5

    mine, theirs = error(Scorer(model, STREAM)), error(without_trunk(model))
    assert Scorer(model, STREAM).trunk is not None
    assert mine < (1e-5 if dtype == torch.float32 else 1.3 * theirs)


def test_weights_that_are_not_kept_for_the_backward_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tastemaker.models.trunk.KEEP_BYTES", 0)
    model = adapted("qwen2", "all-linear")
    assert_alike(model)
    trunk = Scorer(model, STREAM).trunk
    assert trunk is not None and not trunk.layers[0].keep
    assert_alike(tiny("qwen3"))


def test_checkpointing_recomputes_with_the_adapter_that_was_on() -> None:
    model = adapted("llama", "all-linear").train()
    with AdapterSwitch(model).use("second"):
        plain = assert_alike(model)
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        found = assert_alike(model)
    for name, gradient in plain.items():
        assert torch.allclose(found[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("more", [{"use_dora": True}, {"lora_dropout": 0.2}, {"lora_bias": True}], ids=str)
def test_adapters_that_are_more_than_lora_go_their_own_way(more: dict[str, Any]) -> None:
    model = adapted("qwen2", ["q_proj", "v_proj"], **more)
    model.train("lora_dropout" in more)
    quick, own = Scorer(model, STREAM), without_trunk(model)
    with AdapterSwitch(model).use("first"), torch.no_grad():
        torch.manual_seed(0)
        mine = quick(BATCH).logps
        torch.manual_seed(0)
        assert torch.equal(mine, own(BATCH).logps)


def test_merged_adapters_are_part_of_the_weights() -> None:
    model = adapted("llama", "all-linear")
    model.set_adapter("first")
    before = without_trunk(model)(BATCH).logps.detach()
    model.merge_adapter(["first"])
    quick = Scorer(model, STREAM)
    assert quick.trunk is not None
    assert far(quick(BATCH).logps, before) < CLOSE


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("which", ["distinct", "last"])
def test_the_last_layer_works_for_what_is_read_alone(which: str, checkpointing: bool) -> None:
    """Chosen states and all their gradients are those of the model's own code, at less arithmetic."""
    model = adapted("llama", "all-linear")
    base: Any = model.get_base_model()
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    ids = torch.randint(5, 40, (60,), generator=torch.Generator().manual_seed(4))
    tree = Tree(prompt=ids[:49], responses=(ids[49:55], ids[55:]), ended=(True, True))
    laid = stream(Bundles((tree,) * 4), torch.device("cpu"))
    rows = getattr(laid, which)
    trunk = Scorer(model, STREAM).trunk
    assert trunk is not None
    weights = torch.randn(
        len(rows), base.config.hidden_size, generator=torch.Generator().manual_seed(3)
    ).double()

    def worked(states: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor], int]:
        model.zero_grad(set_to_none=True)
        with FlopCounterMode(display=False) as counter:
            found = states()
            (found * weights).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return found.detach(), gradients, counter.get_total_flops()

    mine, found, spent = worked(lambda: trunk(laid, rows))
    own, wanted, _ = worked(lambda: hidden_states(base, laid).index_select(0, rows))
    whole = worked(lambda: trunk(laid).index_select(0, rows))[2]
    assert len(found) == len(wanted) > 0
    for a, b in zip([mine, *found], [own, *wanted], strict=True):
        assert float((a - b).norm()) <= CLOSE * float(b.norm())
    layers = len(trunk.layers)
    assert spent < whole * (1 - 0.25 / layers), (spent, whole)


def test_rewards_of_last_tokens_learn_as_by_full_autograd() -> None:
    model = milder(tiny("llama", torch.float32))
    exact = copy.deepcopy(model).double()
    head = torch.linspace(-1, 1, model.config.hidden_size)

    def learned(states: Tensor, under: Any) -> tuple[float, list[Tensor]]:
        loss = torch.nn.functional.softplus(-(states @ head.to(states.dtype))).sum()
        loss.backward()
        return loss.item(), [p.grad.double() for p in under.parameters() if p.grad is not None]

    laid = stream(BATCH, torch.device("cpu"))
    trunk = Scorer(model, STREAM).trunk
    assert trunk is not None
    responses = [torch.cat([t.prompt, r])[None] for t in BATCH.trees for r in t.responses]
    full = torch.cat([exact.model(ids).last_hidden_state[:, -1] for ids in responses])
    truth, wanted = learned(full, exact)
    assert len(wanted) > 2
    loss, found = learned(trunk(laid, laid.last), model)
    assert abs(loss - truth) < 1e-5 * abs(truth)
    for mine, theirs in zip(found, wanted, strict=True):
        assert float((mine - theirs).norm()) < 1e-5 * float(theirs.norm())
