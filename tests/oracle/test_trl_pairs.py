"""The pair methods against TRL 1.16: the same model, reference and batch, loss and gradient in float32.

TRL is no dependency: `make test-oracle` installs it; without it this is skipped. Where our definition differs
on purpose the difference itself is pinned.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from methods.cases import start
from tastemaker.config import TrainSettings
from tastemaker.methods import CPO, DPO, ORPO, SimPO
from tastemaker.models import RoleModels, build_roles
from tastemaker.training.distributed import World
from tastemaker.training.loop import Updates
from tastemaker.types import Bundles, Method, Tree

pytest.importorskip("trl", reason="TRL is not installed (make test-oracle installs it)")
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]

PAD = 0
TOLERANCE = 1e-5


def trees(prompt_tokens: int | None = None) -> tuple[Tree, ...]:
    """Four pairs, uneven in all lengths."""
    generator = torch.Generator().manual_seed(5)

    def ids(length: int) -> Tensor:
        return torch.randint(5, 250, (length,), generator=generator)

    shapes = ((3, 4, 7), (6, 5, 2), (1, 3, 3), (4, 1, 6))
    return tuple(
        Tree(prompt=ids(prompt_tokens or p), responses=(ids(w), ids(v)), ended=(True, True), row=i)
        for i, (p, w, v) in enumerate(shapes)
    )


def bundles(of: tuple[Tree, ...]) -> Bundles:
    ranks = torch.tensor([0, 1] * len(of))
    return Bundles(trees=of, response_columns={"rank": ranks}, tree_columns={"position": torch.arange(len(of))})


def padded(of: tuple[Tree, ...], side: int) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, attended, is response) [B, L], padded on the right."""
    rows = [torch.cat([t.prompt, t.responses[side]]) for t in of]
    width = max(len(t.prompt) + max(len(r) for r in t.responses) for t in of)
    ids = torch.full((len(rows), width), PAD)
    attended, response = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, (row, tree) in enumerate(zip(rows, of, strict=True)):
        ids[i, : len(row)] = row
        attended[i, : len(row)] = 1
        response[i, len(tree.prompt) : len(row)] = 1
    return ids, attended, response


@pytest.fixture(scope="module")
def models() -> tuple[LlamaForCausalLM, LlamaForCausalLM, Any]:
    """Policy, reference (moved a little away) and tokenizer."""
    policy, tokenizer = start(0, torch.float32)
    reference = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy, reference, tokenizer


Gradients = Mapping[str, Tensor]


def ours(
    method: Method, models: tuple[LlamaForCausalLM, LlamaForCausalLM, Any], of: tuple[Tree, ...]
) -> tuple[float, Gradients, dict[str, float]]:
    """(loss, gradient by parameter, metrics) of one whole batch."""
    policy, reference, tokenizer = models
    built: RoleModels = build_roles(
        method.roles,
        method.trains,
        policy=(policy, tokenizer),  # pyright: ignore[reportArgumentType]
        reference=(reference, tokenizer) if "reference" in method.roles else None,  # pyright: ignore[reportArgumentType]
        dtype="float32",
        **method.model_options(),  # pyright: ignore[reportArgumentType]
    )
    with torch.no_grad():
        ready = method.prepare(built, bundles(of), lambda x: x)
    parameters = built.trainable("policy")
    updates = Updates(
        method, built, torch.optim.SGD(parameters.values(), lr=0.0), TrainSettings(), 0.0, World()
    )
    counts = updates.unit_counts(ready)
    total, metrics = 0.0, {}
    for micro in ready.cut(25):  # in microbatches, which must not matter
        value, _ = updates.backward(micro, counts)
        total += float(value)
    _, sums = updates.backward(ready.take(range(len(ready))), dict.fromkeys(counts, 1e30))  # metrics alone
    metrics = {n: float(m.total) / m.count for n, m in sums.items() if m.kind == "mean" and m.count}
    grads = {n.removeprefix("policy."): p.grad for n, p in parameters.items() if p.grad is not None}
    return total, grads, metrics


def trainer(kind: str, models: Any, tmp: Any, **options: Any) -> Any:
    """A TRL trainer over copies of the models."""
    from datasets import Dataset

    policy, reference, tokenizer = models
    data = Dataset.from_list([{"prompt": "the cat", "chosen": " sat", "rejected": " ran"}] * 4)
    common = {"output_dir": str(tmp), "report_to": [], "bf16": False, "use_cpu": True}
    common |= {"gradient_checkpointing": False}
    if kind == "dpo":
        from trl import DPOConfig, DPOTrainer

        return DPOTrainer(
            model=copy.deepcopy(policy),
            ref_model=copy.deepcopy(reference),
            args=DPOConfig(**common, **options),
            train_dataset=data,
            processing_class=tokenizer,
        )
    if kind == "cpo":
        from trl.experimental.cpo import CPOConfig as Config
        from trl.experimental.cpo import CPOTrainer as Trainer
    else:
        from trl.experimental.orpo import ORPOConfig as Config
        from trl.experimental.orpo import ORPOTrainer as Trainer
    args = Config(**common, **options)
    model = copy.deepcopy(policy)
    return Trainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)


def theirs(trained: Any, of: tuple[Tree, ...]) -> tuple[float, Gradients, dict[str, float]]:
    """The same from a TRL trainer, given the batch as its collator would."""
    model = trained.model.train(False)
    model.zero_grad(set_to_none=True)
    sides = [padded(of, 0), padded(of, 1)]
    if hasattr(trained, "_compute_loss"):
        ids, attended, response = (torch.cat(both) for both in zip(*sides, strict=True))
        inputs = {"input_ids": ids, "attention_mask": attended, "completion_mask": response}
        loss = trained._compute_loss(model, inputs, False)
        metrics = {n: v[-1] for n, v in trained._metrics["eval"].items()}
    else:
        batch: dict[str, Tensor] = {}
        for name, (ids, attended, response) in zip(("chosen", "rejected"), sides, strict=True):
            batch |= {
                f"{name}_input_ids": ids,
                f"{name}_attention_mask": attended,
                f"{name}_labels": ids.masked_fill(response == 0, -100),
            }
        loss, metrics = trained.get_batch_loss_metrics(model, batch, "train")
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), grads, metrics


def assert_equal(a: tuple[float, Gradients, Any], b: tuple[float, Gradients, Any], scale: float = 1.0) -> None:
    assert a[0] == pytest.approx(b[0] * scale, abs=TOLERANCE, rel=TOLERANCE)
    assert a[1].keys() == b[1].keys()
    largest = max(float(g.abs().max()) for g in b[1].values())
    assert largest > 1e-6
    for name, gradient in a[1].items():
        apart = float((gradient - scale * b[1][name]).abs().max())
        assert apart <= TOLERANCE * max(1.0, largest), (name, apart)


METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen")
S = {"label_smoothing": 0.1}
SAME: list[dict[str, Any]] = [
    {"loss_type": "sigmoid"},
    {"loss_type": "hinge"},
    {"loss_type": "exo_pair", "label_smoothing": 1e-3},
    {"loss_type": "nca_pair"},
    {"loss_type": "robust", **S},
    {"loss_type": "bco_pair"},
    {"loss_type": "sppo_hard"},
    {"loss_type": "aot", **S},
    {"loss_type": "aot_unpaired", **S},
    {"loss_type": "apo_zero"},
    {"loss_type": "apo_down"},
    {"loss_type": "discopop", "discopop_tau": 0.1},
    {"loss_type": "sft"},
    {"loss_type": "sigmoid_norm"},
    {"loss_type": "sigmoid", "f_divergence_type": "forward_kl"},
    {"loss_type": "hinge", "f_divergence_type": "js_divergence"},
    {"loss_type": "sigmoid_norm", "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
    {"loss_type": "sigmoid", "f_divergence_type": "alpha_divergence"},
    {"loss_type": "sigmoid", "ld_alpha": 0.4},
    {"loss_type": "apo_zero", "ld_alpha": 0.0},
    {"loss_type": "aot", "ld_alpha": 0.5},
    {"loss_type": "sigmoid", "use_weighting": True},
    {"loss_type": "apo_down", "use_weighting": True, "ld_alpha": 0.5},
    {"loss_type": ("sigmoid", "bco_pair", "sft"), "loss_weights": (0.8, 0.2, 1.0)},
    {"loss_type": ("aot", "robust"), "loss_weights": (0.5, 0.5), **S},
]


@pytest.mark.parametrize("options", SAME, ids=lambda o: "-".join(map(str, o.values())))
def test_dpos_losses_and_switches(options: dict[str, Any], models: Any, tmp_path: Any):
    of = trees()
    mine = ours(DPO(beta=0.3, **options), models, of)
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    its = theirs(trainer("dpo", models, tmp_path, beta=0.3, **listed), of)
    assert_equal(mine, its)
    if "ld_alpha" not in options:  # under LD-DPO, logps/* are whole responses here and weighted sums in TRL
        for name in METRICS:
            assert mine[2][name] == pytest.approx(its[2][name], abs=1e-4), name
    assert mine[2]["entropy"] == pytest.approx(its[2]["entropy"], abs=1e-4)


def test_every_loss_type_of_trl_was_compared(models: Any, tmp_path: Any):
    with pytest.raises(ValueError, match="Unknown loss type") as caught:
        theirs(trainer("dpo", models, tmp_path, loss_type=["no_such"]), trees())
    listed = str(caught.value).split("[", 1)[1].rstrip("].").replace("'", "").split(", ")
    compared = {
        n for o in SAME for n in ([o["loss_type"]] if isinstance(o["loss_type"], str) else o["loss_type"])
    }
    assert set(listed) - compared == {"ipo"}  # pinned below


def test_ipo_is_the_papers_and_ipo_norm_is_trls(models: Any, tmp_path: Any):
    of = trees()
    trl = theirs(trainer("dpo", models, tmp_path, beta=0.3, loss_type=["ipo"]), of)
    assert_equal(ours(DPO(beta=0.3, loss_type="ipo_norm"), models, of), trl)
    assert abs(ours(DPO(beta=0.3, loss_type="ipo"), models, of)[0] - trl[0]) > 1e-2
    # with responses of one token the two are one
    short = tuple(Tree(prompt=t.prompt, responses=tuple(r[:1] for r in t.responses), row=t.row) for t in of)
    its = theirs(trainer("dpo", models, tmp_path, beta=0.3, loss_type=["ipo"]), short)
    assert_equal(ours(DPO(beta=0.3, loss_type="ipo"), models, short), its)


def test_trls_sigmoid_ignores_label_smoothing_and_ours_is_cdpo(models: Any, tmp_path: Any):
    of = trees()
    trl = theirs(trainer("dpo", models, tmp_path, beta=0.3, loss_type=["sigmoid"], label_smoothing=0.1), of)
    assert_equal(ours(DPO(beta=0.3), models, of), trl)
    smoothed = ours(DPO(beta=0.3, label_smoothing=0.1), models, of)
    assert abs(smoothed[0] - trl[0]) > 1e-3
    # CPO's sigmoid does smooth in TRL, by the formula used here
    options = {"beta": 0.3, "label_smoothing": 0.1, "cpo_alpha": 0.0}
    assert_equal(ours(CPO(**options), models, of), theirs(trainer("cpo", models, tmp_path, **options), of))


def test_an_sft_part_beside_wpo_fails_in_trl_and_goes_unweighed_here(models: Any, tmp_path: Any):
    of = trees()
    trl = trainer("dpo", models, tmp_path, loss_type=["sigmoid", "sft"], use_weighting=True)
    with pytest.raises(RuntimeError, match="single memory location"):
        theirs(trl, of)
    parts = [DPO(beta=0.3, use_weighting=True), DPO(beta=0.3, loss_type="sft")]
    both = DPO(beta=0.3, loss_type=("sigmoid", "sft"), use_weighting=True)
    alone = sum(ours(part, models, of)[0] for part in parts)
    assert ours(both, models, of)[0] == pytest.approx(alone, abs=TOLERANCE, rel=TOLERANCE)


CPO_SAME: list[dict[str, Any]] = [
    {"loss_type": "sigmoid"},
    {"loss_type": "sigmoid", "cpo_alpha": 0.4, "label_smoothing": 0.1},
    {"loss_type": "hinge"},
    {"loss_type": "simpo", "simpo_gamma": 0.7, "beta": 2.0},
    {"loss_type": "simpo", "cpo_alpha": 0.0, "alpha": 0.25, "beta": 2.0},
    {"loss_type": "sigmoid", "alpha": 0.02},
]


@pytest.mark.parametrize("options", CPO_SAME, ids=lambda o: "-".join(map(str, o.values())))
def test_cpos_losses(options: dict[str, Any], models: Any, tmp_path: Any):
    of = trees()
    options = {"beta": 0.3, **options}
    mine, its = (ours(CPO(**options), models, of), theirs(trainer("cpo", models, tmp_path, **options), of))
    assert_equal(mine, its)
    for name in ("rewards/chosen", "rewards/margins", *(["nll_loss"] if options.get("cpo_alpha", 1.0) else [])):
        assert mine[2][name] == pytest.approx(its[2][name], rel=1e-4, abs=1e-4), name


def test_simpo_is_cpos_without_likelihood_and_trls_ipo_is_ipo_norm(models: Any, tmp_path: Any):
    of = trees()
    options = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}
    assert_equal(ours(SimPO(), models, of), theirs(trainer("cpo", models, tmp_path, **options), of))
    its = theirs(trainer("cpo", models, tmp_path, loss_type="ipo", beta=0.3), of)
    assert_equal(ours(CPO(loss_type="ipo_norm", beta=0.3), models, of), its)
    assert abs(ours(CPO(loss_type="ipo", beta=0.3), models, of)[0] - its[0]) > 1e-2


def test_orpo(models: Any, tmp_path: Any):
    """Prompts of one token have nothing to predict: there TRL's likelihood term is the response's alone."""
    of = trees(prompt_tokens=1)
    its = theirs(trainer("orpo", models, tmp_path, beta=0.4), of)
    mine = ours(ORPO(beta=0.4), models, of)
    assert_equal(mine, its)
    for name in ("nll_loss", "log_odds_ratio", "log_odds_chosen", "rewards/margins"):
        assert mine[2][name] == pytest.approx(its[2][name], rel=1e-4, abs=1e-4), name


def test_trls_orpo_trains_on_the_prompt_too_and_ours_does_not(models: Any, tmp_path: Any):
    of = trees()
    mine, its = ours(ORPO(beta=0.4), models, of), theirs(trainer("orpo", models, tmp_path, beta=0.4), of)
    assert mine[2]["log_odds_ratio"] == pytest.approx(its[2]["log_odds_ratio"], abs=1e-4)
    assert mine[0] - mine[2]["nll_loss"] == pytest.approx(its[0] - its[2]["nll_loss"], abs=1e-4)
    ids, attended, _ = padded(of, 0)
    with torch.no_grad():
        whole = models[0](ids, attention_mask=attended, labels=ids.masked_fill(attended == 0, -100)).loss
    assert its[2]["nll_loss"] == pytest.approx(float(whole), abs=1e-4)
    assert abs(mine[2]["nll_loss"] - its[2]["nll_loss"]) > 1e-2


def test_a_moved_reference_is_trls(models: Any):
    from trl.trainer.callbacks import SyncRefModelCallback

    policy, reference, tokenizer = models
    built = build_roles(
        ("policy", "reference"),
        ("policy",),
        policy=(policy, tokenizer),  # pyright: ignore[reportArgumentType]
        reference=(reference, tokenizer),  # pyright: ignore[reportArgumentType]
        dtype="float32",
        moving_reference=0.6,
    )
    built.mix("reference", "policy", 0.6)
    target = copy.deepcopy(reference)
    SyncRefModelCallback._sync_target_model(policy, target, 0.6)
    mine = dict(built.slot("reference").backbone.model.named_parameters())
    for name, parameter in target.named_parameters():
        torch.testing.assert_close(mine[name].detach(), parameter.detach(), rtol=1e-6, atol=1e-7)
