"""Scores of a batch: right, independent of company and cut, and cheap where they must be."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.tiny_families import BATCH, drawn, each_alone, far, furthest, gradients, tiny
from tastemaker.models.attention import IMPLEMENTATION
from tastemaker.models.backbone import HeadRule
from tastemaker.models.forward import Scorer
from tastemaker.models.heads import ScalarHead, TokenHead
from tastemaker.models.probe import Grouping, ProbeResult
from tastemaker.types import Bundles, TastemakerError, Tree

CLOSE = 5e-6
"""Exact for these models: their RMS norms and softmax run in float32 inside float64."""

STREAM = ProbeResult("stream", HeadRule("chunked"))
ROWS = ProbeResult("rows", HeadRule("chunked"))


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def scorer(llama: PreTrainedModel) -> Scorer:
    return Scorer(copy.deepcopy(llama), STREAM)


def only(batch: Bundles, tree: int, k: int) -> Bundles:
    chosen = batch.trees[tree]
    return Bundles((Tree(chosen.prompt, (chosen.responses[k],)),))


def test_B1_a_response_scores_the_same_alone_padded_and_anywhere_in_a_batch(
    llama: PreTrainedModel, scorer: Scorer
) -> None:
    truth = each_alone(llama, BATCH)
    padded = Scorer(copy.deepcopy(llama), ROWS)
    for way in (scorer, padded):
        together = way(BATCH).logps
        assert torch.allclose(together, truth, atol=CLOSE)
        alone = [
            way(only(BATCH, i, k)).logps for i, t in enumerate(BATCH.trees) for k in range(len(t.responses))
        ]
        assert torch.allclose(torch.cat(alone), truth, atol=CLOSE)
        turned = way(BATCH.take([2, 0, 1])).logps
        lengths = BATCH.lengths.tolist()
        a, b, c = truth.split([sum(lengths[:2]), lengths[2], sum(lengths[3:])])
        assert torch.allclose(turned, torch.cat([c, a, b]), atol=CLOSE)


def test_B3_shift_is_right(llama: PreTrainedModel, scorer: Scorer) -> None:
    """logps[n] is about token n given all before it: five tokens, each by its own forward of its prefix."""
    prompt, response = BATCH.trees[0].prompt, BATCH.trees[0].responses[1][:5]
    logps = scorer(Bundles((Tree(prompt, (response,)),))).logps
    for n in range(5):
        prefix = torch.cat([prompt, response[:n]])
        table = llama(input_ids=prefix[None]).logits[0, -1].log_softmax(-1)
        assert far(logps[n], table[response[n]]) < CLOSE


def test_B4_logits_are_divided_by_the_temperature(llama: PreTrainedModel, scorer: Scorer) -> None:
    tree = BATCH.trees[1]
    logits = llama(input_ids=torch.cat([tree.prompt, tree.responses[0]])[None]).logits[0, :-1]
    scores = scorer(Bundles((tree,)), temperature=0.6, entropy=True)
    table = (logits / 0.6).log_softmax(-1)
    assert torch.allclose(scores.logps, table.gather(1, tree.responses[0][:, None])[:, 0], atol=CLOSE)
    assert torch.allclose(scores.entropy, -(table.exp() * table).sum(-1), atol=CLOSE)
    assert not scores.entropy.requires_grad


@pytest.mark.parametrize("name", ["llama", "cohere", "gemma2", "phi"])
def test_B6_chunked_log_probs_equal_the_models_own_logits(name: str) -> None:
    """Scale, soft cap and bias of the head included, in value and gradient."""
    model = tiny(name)
    if model.get_output_embeddings().bias is not None:
        nn.init.normal_(model.get_output_embeddings().bias)
    ours = Scorer(copy.deepcopy(model))
    dense = Scorer(copy.deepcopy(model), ProbeResult("stream", HeadRule("whole")))
    assert ours.result.head.mode == "chunked"
    a, b = ours(BATCH, entropy=True, temperature=1.3), dense(BATCH, entropy=True, temperature=1.3)
    assert torch.allclose(a.logps, b.logps, atol=1e-10)
    assert torch.allclose(a.entropy, b.entropy, atol=1e-10)
    weight = torch.linspace(-1, 1, len(a.logps), dtype=torch.float64)
    mine, theirs = gradients(ours, (a.logps * weight).sum()), gradients(dense, (b.logps * weight).sum())
    assert furthest(mine, theirs) < 1e-6


def test_B11_siblings_and_neighbours_never_leak(scorer: Scorer) -> None:
    """Exactly: not one bit of a response's log-probs moves when everything around it does."""
    before = scorer(BATCH).logps
    for tree, k in ((0, 0), (0, 1), (1, 0), (2, 1)):
        others = drawn([(len(t.prompt), [len(r) for r in t.responses]) for t in BATCH.trees], seed=9)
        trees = [
            Tree(
                old.prompt if i == tree else new.prompt,
                tuple(
                    o if (i, j) == (tree, k) else n
                    for j, (o, n) in enumerate(zip(old.responses, new.responses, strict=True))
                ),
            )
            for i, (old, new) in enumerate(zip(BATCH.trees, others.trees, strict=True))
        ]
        after = scorer(Bundles(tuple(trees))).logps
        mine = BATCH.response == sum(BATCH.group_sizes[:tree]) + k
        assert far(after[mine], before[mine]) == 0.0
        assert bool((after != before)[~mine].all())


def test_no_gradient_reaches_a_sibling_or_a_neighbour(scorer: Scorer) -> None:
    model: Any = scorer.model
    caught: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> None:
        output.retain_grad()
        caught.append(output)

    handle = model.get_input_embeddings().register_forward_hook(keep)
    logps = scorer(BATCH).logps
    handle.remove()
    logps[BATCH.response == 1].sum().backward()
    model.zero_grad()
    moved = caught[0].grad.abs().sum(-1)[0] > 0
    prompt, first, second = 7, 6, 9
    expected = torch.zeros(BATCH.size, dtype=torch.bool)
    expected[:prompt] = True
    expected[prompt + first : prompt + first + second - 1] = True  # its last token predicts nothing
    assert torch.equal(moved, expected)


def loss_of(scores: Tensor, batch: Bundles) -> Tensor:
    return (batch.sum_by_response(scores) ** 2).sum()


def test_cutting_into_microbatches_changes_no_gradient(llama: PreTrainedModel) -> None:
    scorer = Scorer(copy.deepcopy(llama), STREAM)
    whole = gradients(scorer, loss_of(scorer(BATCH).logps, BATCH))
    pieces = list(BATCH.cut(30))
    assert len(pieces) > 1
    cut = [gradients(scorer, loss_of(scorer(piece).logps, piece)) for piece in pieces]
    assert furthest([torch.stack(g).sum(0) for g in zip(*cut, strict=True)], whole) < 1e-6


def test_order_of_trees_changes_no_gradient(llama: PreTrainedModel) -> None:
    scorer = Scorer(copy.deepcopy(llama), STREAM)
    turned = BATCH.take([2, 0, 1])
    mine = gradients(scorer, loss_of(scorer(turned).logps, turned))
    assert furthest(mine, gradients(scorer, loss_of(scorer(BATCH).logps, BATCH))) < 1e-6


def test_an_empty_prompt_is_a_lone_bos(llama: PreTrainedModel, scorer: Scorer) -> None:
    """The first token is predicted from BOS and from no neighbour, wherever the tree lies."""
    document = Tree(torch.tensor([1]), (BATCH.trees[0].responses[0],))
    batch = Bundles((BATCH.trees[2], document, BATCH.trees[0]))
    logps = scorer(batch).logps[batch.response == 3]
    assert torch.allclose(logps, each_alone(llama, Bundles((document,))), atol=CLOSE)
    with pytest.raises(TastemakerError, match="BOS"):
        scorer(Bundles((BATCH.trees[0], Tree(torch.tensor([], dtype=torch.int64), document.responses))))


def test_trees_without_responses_raise(scorer: Scorer) -> None:
    with pytest.raises(TastemakerError, match="no responses"):
        scorer(Bundles((BATCH.trees[0], Tree(torch.tensor([1, 2])))))


def hidden_alone(model: PreTrainedModel, batch: Bundles) -> list[Tensor]:
    """[prompt + response, d] last hidden states of every row, alone."""
    return [
        model.base_model(input_ids=torch.cat([t.prompt, r])[None]).last_hidden_state[0]
        for t in batch.trees
        for r in t.responses
    ]


@pytest.mark.parametrize("how", [STREAM, ROWS], ids=["stream", "rows"])
def test_C13_the_reward_is_read_at_the_last_response_token(llama: PreTrainedModel, how: ProbeResult) -> None:
    """By index: also where that token, or one inside, is the pad id or the end token."""
    tree = BATCH.trees[0]
    pads = (torch.tensor([5, 0, 0]), torch.tensor([0]), torch.tensor([2, 2]), tree.responses[0])
    batch = Bundles((Tree(tree.prompt, pads), BATCH.trees[2]))
    head = ScalarHead(32).double().init(torch.Generator().manual_seed(0))
    rewards = Scorer(copy.deepcopy(llama), how)(batch, "rewards", head=head).rewards
    truth = torch.stack([states[-1] @ head.weight[0] for states in hidden_alone(llama, batch)])
    assert torch.allclose(rewards, truth, atol=CLOSE)
    assert len(rewards.unique()) == 7


@pytest.mark.parametrize("how", [STREAM, ROWS], ids=["stream", "rows"])
def test_values_are_read_before_each_token(llama: PreTrainedModel, how: ProbeResult) -> None:
    head = ScalarHead(32, bias=True).double().init(torch.Generator().manual_seed(0))
    values = Scorer(copy.deepcopy(llama), how)(BATCH, "values", head=head).values
    prompts = [len(t.prompt) for t in BATCH.trees for _ in t.responses]
    states = [s[p - 1 : -1] for s, p in zip(hidden_alone(llama, BATCH), prompts, strict=True)]
    assert torch.allclose(values, torch.cat(states) @ head.weight[0], atol=CLOSE)


@pytest.mark.parametrize("how", [STREAM, ROWS], ids=["stream", "rows"])
def test_token_heads_see_both_states_and_sum_over_the_response(
    llama: PreTrainedModel, how: ProbeResult
) -> None:
    head = TokenHead(32, 64).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    rewards = Scorer(copy.deepcopy(llama), how)(BATCH, "rewards", head=head).rewards
    truth: list[Tensor] = []
    responses = [(len(t.prompt), r) for t in BATCH.trees for r in t.responses]
    for states, (p, r) in zip(hidden_alone(llama, BATCH), responses, strict=True):
        before = (head.bilinear[r] * states[p - 1 : -1]).sum()
        truth.append(before + (states[p:] @ head.state.weight[0]).sum() + len(r) * head.state.bias[0])
    assert torch.allclose(rewards, torch.stack(truth), atol=2e-5)


def test_rewards_without_a_head_raise(scorer: Scorer) -> None:
    with pytest.raises(TastemakerError, match="need a head"):
        scorer(BATCH, "values")


def test_the_head_never_makes_more_than_one_row_of_logits(llama: PreTrainedModel) -> None:
    scorer = Scorer(copy.deepcopy(llama), STREAM)
    made: list[int] = []
    handle = scorer.model.get_output_embeddings().register_forward_hook(
        lambda _module, _args, output: made.append(output.shape[:-1].numel())
    )
    scorer(BATCH).logps.sum().backward()
    handle.remove()
    assert sum(made) <= 1


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("how", [STREAM, ROWS], ids=["stream", "rows"])
def test_gradient_checkpointing_changes_nothing(
    llama: PreTrainedModel, reentrant: bool, how: ProbeResult
) -> None:
    """The tree is a keyword of the forward, so the recomputation in the backward sees it, too."""
    plain = Scorer(copy.deepcopy(llama), how)
    expected = gradients(plain, loss_of(plain(BATCH).logps, BATCH))
    model = copy.deepcopy(llama).train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    scorer = Scorer(model, how)
    loss_of(scorer(BATCH).logps, BATCH).backward()
    assert furthest([p.grad for p in model.parameters()], expected) < 1e-6


def lora(model: PreTrainedModel, targets: Sequence[str]) -> Any:
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=list(targets), lora_dropout=0.0))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return adapted.double().eval()


@pytest.mark.parametrize("targets", [["q_proj", "v_proj", "down_proj"], ["lm_head", "o_proj"]])
def test_peft_models_score_with_their_adapters_and_without(llama: PreTrainedModel, targets: list[str]) -> None:
    """Also an adapter on the head, whose plain weight would be the base's."""
    adapted = lora(copy.deepcopy(llama), targets)
    before = each_alone(llama, BATCH)
    with_adapter = each_alone(copy.deepcopy(adapted).merge_and_unload(), BATCH)
    assert far(with_adapter, before) > 0.1
    scorer = Scorer(adapted)
    assert scorer.result.layout == "stream"
    assert torch.allclose(scorer(BATCH).logps, with_adapter, atol=CLOSE)
    with adapted.disable_adapter():
        assert torch.allclose(scorer(BATCH).logps, before, atol=CLOSE)


def test_an_adapter_on_the_head_learns_through_chunks(
    llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tastemaker.models.backbone.MODULE_CHUNK", 5)
    adapted = lora(copy.deepcopy(llama), ["lm_head", "q_proj"])
    trained = [p for p in adapted.parameters() if p.requires_grad]
    truth = each_alone(adapted, BATCH)
    weight = torch.linspace(-1, 1, len(truth), dtype=torch.float64)
    expected = torch.autograd.grad((truth * weight).sum(), trained)
    scores = Scorer(adapted, STREAM)(BATCH, entropy=True)
    assert scores.entropy.shape == truth.shape
    mine = torch.autograd.grad((scores.logps * weight).sum(), trained)
    assert furthest(list(mine), list(expected)) < 1e-6


def test_modules_to_save_replace_the_head(llama: PreTrainedModel) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapted = get_peft_model(copy.deepcopy(llama), config).double().eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_()
    truth = each_alone(copy.deepcopy(adapted).merge_and_unload(), BATCH)
    logps = Scorer(adapted)(BATCH).logps
    assert far(logps, each_alone(llama, BATCH)) > 0.1
    assert torch.allclose(logps, truth, atol=CLOSE)


def test_prompt_learning_is_refused(llama: PreTrainedModel) -> None:
    from peft import PromptTuningConfig

    adapted = get_peft_model(
        copy.deepcopy(llama), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(TastemakerError, match="LoRA"):
        Scorer(adapted)


def test_autocast_scores_in_float32_or_wider() -> None:
    model = tiny("llama", torch.float32)
    scorer = Scorer(model)
    exact = scorer(BATCH).logps
    with torch.autocast("cpu", torch.bfloat16):
        low = scorer(BATCH).logps
        low.sum().backward()
    assert low.dtype == torch.float32
    assert 0 < float((low - exact).detach().abs().mean()) < 0.2
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_groups_of_responses_come_back_in_order(llama: PreTrainedModel) -> None:
    """However the forward is split, the numbers and their order stay."""
    truth = each_alone(llama, BATCH)
    head = ScalarHead(32).double().init(torch.Generator().manual_seed(0))
    whole = Scorer(copy.deepcopy(llama), STREAM)
    for layout in ("stream", "rows"):
        for grouping in (Grouping("alone"), Grouping("sides", 13), Grouping("equal", 13)):
            result = ProbeResult(layout, HeadRule("chunked"), grouping)
            scorer = Scorer(copy.deepcopy(llama), result)
            assert torch.allclose(scorer(BATCH, entropy=True).logps, truth, atol=CLOSE)
            rewards = scorer(BATCH, "rewards", head=head).rewards
            assert torch.allclose(rewards, whole(BATCH, "rewards", head=head).rewards, atol=CLOSE)


def test_rows_leave_the_models_attention_alone(llama: PreTrainedModel) -> None:
    model = copy.deepcopy(llama)
    Scorer(model, ROWS)
    assert model.config._attn_implementation == "eager"
    Scorer(model, STREAM)
    assert model.config._attn_implementation == IMPLEMENTATION


def test_hidden_states_without_a_head_to_watch(llama: PreTrainedModel) -> None:
    """A model that names no output embedding is still scored, from its own logits and reported states."""
    model = copy.deepcopy(llama)
    model.get_output_embeddings = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    scorer = Scorer(model)
    assert (scorer.result.layout, scorer.result.head.mode, scorer.result.catches) == ("stream", "whole", False)
    assert torch.allclose(scorer(BATCH).logps, each_alone(llama, BATCH), atol=CLOSE)
    head = ScalarHead(32).double().init(torch.Generator().manual_seed(0))
    truth = torch.stack([states[-1] @ head.weight[0] for states in hidden_alone(llama, BATCH)])
    assert torch.allclose(scorer(BATCH, "rewards", head=head).rewards, truth, atol=CLOSE)
