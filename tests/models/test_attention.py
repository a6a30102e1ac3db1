"""The registered attention function, and the block products behind it, against a dense mask written by hand."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from tastemaker.models import blocks
from tastemaker.models.attention import IMPLEMENTATION, AttentionRule, attend
from tastemaker.models.blocks import Extent, block_attention, cut_rows, cut_tree, make_plan
from tastemaker.models.flex import FlexMask, flex_attention
from tastemaker.models.layout import Stream, TreeLayout, stream
from tastemaker.models.varlen import Chains, trial, varlen_attention, varlen_usable
from tastemaker.types import Bundles, Tree

CPU = torch.device("cpu")
SHAPES = (
    (5, (3, 4)),
    (1, (1,)),
    (130, (128, 7, 60)),
    (50, (20, 20, 20, 20, 20)),
    (3, (131,)),
    (48, (48, 47, 1, 1, 9)),
)


def laid(shapes: Sequence[tuple[int, Sequence[int]]]) -> Stream:
    trees = [Tree(torch.arange(p), tuple(torch.arange(n) for n in own)) for p, own in shapes]
    return stream(Bundles(tuple(trees)), CPU)


def visible(shapes: Sequence[tuple[int, Sequence[int]]], window: int | None) -> Tensor:
    """[T, T] by the definition, token by token: (tree, response, position) of both."""
    tokens = [
        (t, k, j if k == 0 else p + j)
        for t, (p, own) in enumerate(shapes)
        for k, n in enumerate((p, *own))
        for j in range(n)
    ]
    tree, response, position = (torch.tensor(column) for column in zip(*tokens, strict=True))
    index = torch.arange(len(tokens))
    mask = (tree[:, None] == tree) & (index[:, None] >= index)
    mask &= (response == 0) | (response[:, None] == response)
    if window is not None:
        mask &= position[:, None] - position < window
    return mask


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, rule: AttentionRule) -> Tensor:
    """[T, H, D] attention with every score written out."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = torch.einsum("ihd,jhd->hij", q, k) * rule.scale
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if rule.sinks is not None:
        sinks = rule.sinks[:, None, None].expand(*scores.shape[:2], 1)
        scores = torch.cat([scores, sinks], -1)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1)[..., : len(q)], v)


def tensors(
    tokens: int, heads: int, key_heads: int, width: int, value_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

    return draw(tokens, heads, width), draw(tokens, key_heads, width), draw(tokens, key_heads, value_width)


RULES = {
    "plain": (4, 4, 8, 8, AttentionRule(0.35)),
    "grouped heads, narrow values": (4, 2, 12, 6, AttentionRule(0.7)),
    "one key head": (4, 1, 8, 8, AttentionRule(0.35)),
    "window of 5, soft cap": (4, 2, 8, 8, AttentionRule(0.7, window=5, softcap=2.0)),
    "window of 100, sinks": (
        4,
        2,
        8,
        8,
        AttentionRule(0.7, window=100, sinks=torch.linspace(-1, 2, 4).double()),
    ),
    "soft cap, sinks": (2, 1, 8, 8, AttentionRule(0.7, softcap=1.5, sinks=torch.tensor([0.3, -2.0]).double())),
    "window of 64": (2, 1, 8, 8, AttentionRule(0.35, window=64)),
}


@pytest.mark.parametrize("name", RULES)
def test_blocks_equal_the_dense_mask_in_value_and_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    *sizes, rule = RULES[name]
    layout = laid(SHAPES).tree
    assert layout is not None
    inputs = list(tensors(len(layout.branch), *sizes))
    if rule.sinks is not None:
        inputs.append(rule.sinks.clone().requires_grad_())
        rule = replace(rule, sinks=inputs[-1])
    truth = dense(*inputs[:3], visible(SHAPES, rule.window), rule)
    weight = torch.randn(truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((truth * weight).sum(), inputs)
    plan = make_plan(layout.extents, layout.branch, layout.position, sizes[0], sizes[1], rule.window)
    for ratio in (0, 1000):  # weights recomputed in the backward, weights kept for it
        monkeypatch.setattr(blocks, "KEEP_RATIO", ratio)
        ours = block_attention(*inputs[:3], plan, rule)
        assert torch.allclose(ours, truth, atol=1e-12)
        for mine, theirs in zip(torch.autograd.grad((ours * weight).sum(), inputs), expected, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-11)


@pytest.mark.parametrize("name", ["plain", "window of 5, soft cap", "window of 100, sinks", "window of 64"])
def test_flex_attention_agrees_with_the_same_layout(name: str) -> None:
    *sizes, rule = RULES[name]
    layout = laid(SHAPES).tree
    assert layout is not None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises to compile it; as an oracle it need not be fast
        q, k, v = (x.detach().transpose(0, 1)[None] for x in tensors(len(layout.branch), *sizes))
        mask = FlexMask.of(layout.extents, layout.branch, layout.position, rule.window)
        oracle = flex_attention(q, k, v, mask, rule, compiled=False)
        options = dict(scaling=rule.scale, sliding_window=rule.window, softcap=rule.softcap, s_aux=rule.sinks)
        ours, weights = attend(nn.Identity(), q, k, v, tree=layout, **options)
    assert weights is None
    assert torch.allclose(ours, oracle.transpose(1, 2), atol=1e-12)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_long_chains_in_float32_by_fused_attention(key_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tastemaker.models.layout.FLASH_TOKENS", 40)
    shapes = ((5, (30,)), (60, (40,)), (1, (9,)))
    layout = laid(shapes).tree
    assert layout is not None
    q, k, v = tensors(len(layout.branch), 4, key_heads, 8, 8)
    expected = dense(q, k, v, visible(shapes, None), AttentionRule(0.35))
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    single = [x.detach().float().requires_grad_() for x in (q, k, v)]
    packed = [x.transpose(0, 1)[None] for x in single]
    assert layout.flash_pays(packed[0], packed[2])
    found = layout.attend(nn.Identity(), *packed, scaling=0.35)[0][0]
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    for ours, theirs in zip(torch.autograd.grad((found * weight).sum(), single), wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=0)


def test_fused_attention_is_for_chains_in_float32_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tastemaker.models.layout.FLASH_TOKENS", 8)
    x = torch.zeros(1, 4, 35, 8)
    chain, tree = laid(((5, (30,)),)).tree, laid(((5, (15, 15)),)).tree
    assert chain is not None and tree is not None
    assert chain.flash_pays(x, x)
    assert not tree.flash_pays(x, x)
    assert not chain.flash_pays(x.bfloat16(), x.bfloat16())
    assert not chain.flash_pays(x, x[..., :6])


CHAINS = ((5, (30,)), (60, (40,)), (1, (9,)))


def varlen_by_definition(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    starts_k: Tensor,
    longest: int,
    longest_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """PyTorch's kernel as documented: rows are causal, of earlier keys `window_size[0]` are seen, or all."""
    assert starts.dtype == torch.int32 and torch.equal(starts, starts_k) and window_size[1] == 0
    assert longest == longest_k == int(starts.diff().max())
    assert enable_gqa == (q.shape[1] != k.shape[1])
    row = torch.bucketize(torch.arange(len(q)), starts[1:], right=True)
    apart = torch.arange(len(q))[:, None] - torch.arange(len(q))
    mask = (row[:, None] == row) & (apart >= 0)
    if window_size[0] >= 0:
        mask &= apart <= window_size[0]
    return dense(q, k, v, mask, AttentionRule(scale))


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("window", [None, 1, 7])
def test_chains_by_rows_of_different_lengths(
    key_heads: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tastemaker.models.varlen._kernel", lambda: varlen_by_definition)
    monkeypatch.setattr("tastemaker.models.layout.varlen_usable", lambda *_: True)
    layout = laid(CHAINS).tree
    assert layout is not None
    inputs = tensors(len(layout.branch), 4, key_heads, 8, 8)
    expected = dense(*inputs, visible(CHAINS, window), AttentionRule(0.35))
    packed = [x.transpose(0, 1)[None] for x in inputs]
    found = layout.attend(nn.Identity(), *packed, scaling=0.35, sliding_window=window)[0][0]
    assert torch.allclose(found, expected, atol=1e-12)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    grads, wanted = (torch.autograd.grad((x * weight).sum(), inputs) for x in (found, expected))
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(grads, wanted, strict=True))


def test_the_kernel_for_chains_takes_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own check of the arguments, which runs on tensors without numbers."""
    monkeypatch.setattr("tastemaker.models.varlen._dtype", lambda x: x.dtype)  # autocast knows no such device
    chains = Chains.of([Extent(0, p, own) for p, own in CHAINS], torch.device("meta"))
    assert chains is not None
    q, k = (torch.empty(1, heads, 145, 64, dtype=torch.bfloat16, device="meta") for heads in (4, 2))
    out = varlen_attention(q, k, k, chains, AttentionRule(0.125, 7))
    assert out.shape == q.shape and out.dtype == q.dtype


def test_the_kernel_for_chains_is_tried_before_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(kernel: object) -> bool:
        monkeypatch.setattr("tastemaker.models.varlen._kernel", lambda: kernel)
        trial.cache_clear()
        return trial(CPU, torch.bfloat16, 16)

    def one_key_more(*tensors: Tensor, window_size: tuple[int, int], **options: object) -> Tensor:
        return varlen_by_definition(*tensors, window_size=(window_size[0] + 1, 0), **options)  # pyright: ignore

    def older(*tensors: Tensor, scale: float) -> Tensor:
        raise AssertionError("never reached: it knows no window")

    assert tried(varlen_by_definition)
    assert not tried(one_key_more)
    assert not tried(older)
    trial.cache_clear()


def test_rows_of_different_lengths_are_for_plain_chains_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tastemaker.models.varlen.trial", lambda *_: True)

    def like(device: str = "cuda", dtype: torch.dtype = torch.bfloat16, width: int = 16) -> Any:
        return SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(1, 4, 35, width))

    plain = AttentionRule(0.25, window=7)
    assert varlen_usable(like(), like(), plain)
    assert not varlen_usable(like("cpu"), like("cpu"), plain)
    assert not varlen_usable(like(), like(dtype=torch.float32), plain)
    assert not varlen_usable(like(), like(width=8), plain)
    assert not varlen_usable(like(), like(), replace(plain, softcap=30.0))
    assert not varlen_usable(like(), like(), replace(plain, sinks=torch.zeros(4)))
    assert Chains.of([Extent(0, 5, (3,)), Extent(8, 5, (3, 3))], CPU) is None


def test_a_trees_blocks_hold_each_row_once_and_every_key_it_sees() -> None:
    for prompt in (1, 40, 128, 129, 300):
        for own in ((1,), (47, 1, 1), (128, 128), (30, 300, 5, 260), (129,)):
            extent = Extent(7, prompt, own)
            rows = [(begin, end) for begin, end, _, _ in cut_rows(extent)]
            assert [r[0] for r in rows] == [0, *(r[1] for r in rows[:-1])]
            assert rows[-1][1] == prompt + sum(own)
            assert all(end - begin <= 4 * blocks.ROWS for begin, end in rows)
            for window in (None, 3, 100):
                seen = visible([(prompt, own)], window)
                for b in cut_tree(extent, window):
                    keys = torch.zeros(prompt + sum(own), dtype=torch.bool)
                    keys[b.first - 7 : b.first + b.firsts - 7] = True
                    keys[b.second - 7 : b.second + b.seconds - 7] = True
                    needed = seen[b.row - 7 : b.row + b.rows - 7]
                    assert int(keys.sum()) == b.keys
                    assert not (needed & ~keys).any()
                    first = torch.cat(
                        [
                            torch.arange(b.first, b.first + b.firsts),
                            torch.arange(b.second, b.second + b.seconds),
                        ]
                    )
                    assert needed[:, first[: b.open] - 7].all()


def test_blocks_grow_with_the_keys_they_see() -> None:
    def lengths(prompt: int, *own: int) -> list[int]:
        return [end - begin for begin, end, _, _ in cut_rows(Extent(0, prompt, own))]

    assert lengths(300, 200, 60) == [64] * 4 + [128] * 2 + [48]  # the last begins where 300 + 12 are seen
    assert lengths(1000, 100) == [64] * 4 + [128] * 2 + [256] * 2 + [76]
    assert lengths(20, 30, 30) == [64, 16]


def test_many_tiny_trees_cost_few_groups() -> None:
    layout = laid([(16, (14, 14))] * 64).tree
    assert layout is not None
    plan = make_plan(layout.extents, layout.branch, layout.position, 4, 4, None)
    assert len([g for run in plan.runs for g in run.groups]) <= 4


def test_siblings_of_a_big_group_are_not_multiplied() -> None:
    layout = laid([(100, (64,) * 8)]).tree
    assert layout is not None
    plan = make_plan(layout.extents, layout.branch, layout.position, 1, 1, None)
    assert plan.scores < 1.5 * (100 * 100 + 8 * 64 * 164)


def test_bfloat16_softmax_is_wide() -> None:
    layout = laid(SHAPES).tree
    assert layout is not None
    q, k, v = (x.detach() for x in tensors(len(layout.branch), 2, 2, 16, 16))
    plan = make_plan(layout.extents, layout.branch, layout.position, 2, 2, None)
    rule = AttentionRule(0.25)
    low = [x.bfloat16() for x in (q, k, v)]
    ours = block_attention(*low, plan, rule)
    truth = dense(*(x.double() for x in low), visible(SHAPES, None), rule)
    assert ours.dtype == torch.bfloat16
    assert float((ours - truth).abs().mean()) < 4e-3


def test_autocast_decides_the_products_dtype() -> None:
    layout = laid(SHAPES[:2]).tree
    assert layout is not None
    q, k, v = (x.detach().float()[None].transpose(1, 2) for x in tensors(len(layout.branch), 2, 2, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = layout.attend(nn.Identity(), q, k, v, scaling=0.3)
    assert out.dtype == torch.bfloat16


def test_the_function_is_registered_and_never_guesses() -> None:
    x = torch.zeros(1, 1, 2, 4)
    assert AttentionInterface()[IMPLEMENTATION] is attend
    with pytest.raises(RuntimeError, match="without its tree"):
        attend(nn.Identity(), x, x, x)
    layout = laid([(1, (1,))]).tree
    with pytest.raises(RuntimeError, match="no mask"):
        attend(nn.Identity(), x, x, x, torch.zeros(2, 2), tree=layout)
    with pytest.raises(RuntimeError, match="changed its input"):
        attend(nn.Identity(), x[:, :, :1], x, x, tree=layout)


def test_the_rule_is_read_from_the_models_keywords() -> None:
    x = torch.zeros(1, 1, 2, 16)
    assert AttentionRule.of(x, {}).scale == 0.25
    rule = AttentionRule.of(x, {"scaling": 0.1, "sliding_window": 7, "softcap": 3.0, "dropout": 0.5})
    assert (rule.scale, rule.window, rule.softcap, rule.sinks) == (0.1, 7, 3.0, None)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 7])
def test_cuda_rows_of_different_lengths_are_trusted_and_equal_the_dense_mask(window: int | None) -> None:
    cuda = torch.device("cuda")
    trees = [Tree(torch.arange(p), tuple(torch.arange(n) for n in own)) for p, own in CHAINS]
    layout = stream(Bundles(tuple(trees)), cuda).tree
    assert isinstance(layout, TreeLayout)
    q, k, v = tensors(len(layout.branch), 4, 2, 64, 64)
    truth = dense(q, k, v, visible(CHAINS, window), AttentionRule(0.125))
    on = [x.detach().to(cuda, torch.bfloat16).transpose(0, 1)[None] for x in (q, k, v)]
    assert trial(cuda, torch.bfloat16, 64)
    out, _ = layout.attend(nn.Identity(), *on, scaling=0.125, sliding_window=window)
    assert torch.allclose(out[0].double().cpu(), truth, atol=3e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("path", ["flex", "blocks"])
def test_cuda_equals_the_dense_mask(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads, key_heads, _, _, rule = RULES[name]
    if path == "blocks":
        monkeypatch.setattr("tastemaker.models.layout.flex_usable", lambda *_: False)
    cuda = torch.device("cuda")
    trees = [Tree(torch.arange(p), tuple(torch.arange(n) for n in own)) for p, own in SHAPES]
    layout = stream(Bundles(tuple(trees)), cuda).tree
    assert isinstance(layout, TreeLayout)
    q, k, v = tensors(len(layout.branch), heads, key_heads, 32, 32)
    truth = dense(q, k, v, visible(SHAPES, rule.window), rule)
    weight = torch.randn(truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((truth * weight).sum(), [q, k, v])
    on = [x.detach().float().to(cuda).requires_grad_() for x in (q, k, v)]
    out, _ = layout.attend(
        nn.Identity(),
        *(x.transpose(0, 1)[None] for x in on),
        scaling=rule.scale,
        sliding_window=rule.window,
        softcap=rule.softcap,
        s_aux=None if rule.sinks is None else rule.sinks.float().to(cuda),
    )
    got = torch.autograd.grad((out[0] * weight.float().to(cuda)).sum(), on)
    assert torch.allclose(out[0].double().cpu(), truth, atol=2e-3)
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.allclose(mine.double().cpu(), theirs, atol=2e-2)
