"""From trees to model inputs: one flat stream without padding, or plain right-padded rows, same numbers.

The shift from a response token to the hidden state that predicts it happens here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tastemaker.models.attention import AttentionRule
from tastemaker.models.blocks import Extent, Plan, block_attention, make_plan
from tastemaker.models.flex import FlexMask, flex_attention, flex_usable
from tastemaker.models.varlen import Chains, varlen_attention, varlen_usable
from tastemaker.types import Bundles, TastemakerError

FLASH_TOKENS = 1536
"""Mean tokens of a tree from which fused attention is faster on a CPU in float32. Measured there and back, 8
heads of 64, time of fused over blocked: 1.13 at 512 tokens, 0.96 at 1,024, 0.89 at 2,048, 0.83 at 4,096; in
bfloat16 2.2 at 256, 1.2 at 1,024, 1.3 at 4,096, 1.0 at 8,192."""


class TreeLayout:
    """Who sees whom in a stream of T tokens, and the attention that honours it.

    Token i sees token j when both lie in one tree, j is not after i, and j is in the prompt or in i's own
    response. Built once per microbatch; what a layer needs beyond that (its window, its heads) is planned at
    its first call and kept.
    """

    def __init__(self, extents: Sequence[Extent], branch: Tensor, position: Tensor) -> None:
        """`branch` [T] int64: 0 in prompts, the response's number from 1 elsewhere (unique in the stream);
        `position` [T] int64: responses continue from their prompt's end. Both on the target device.
        """
        self.extents = tuple(extents)
        self.branch = branch
        self.position = position
        self.reach = max(e.prompt + max(e.responses, default=0) for e in extents)
        """Positions of the longest prompt with response: no window of that length or more hides anything."""
        self._plans: dict[tuple[int, int, int | None], Plan] = {}
        self._masks: dict[int | None, FlexMask] = {}
        self._chains = Chains.of(extents, branch.device)

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, None]:
        """See `Attends.attend`: here b = 1 and Tq = Tk = T."""
        if query.shape[0] != 1 or query.shape[2] != len(self.branch) or key.shape[2] != len(self.branch):
            raise RuntimeError(
                f"the layout of {len(self.branch)} tokens met queries {tuple(query.shape)} and keys "
                f"{tuple(key.shape)}: the model changed its input before attention"
            )
        rule = AttentionRule.of(query, options)
        window = rule.window if rule.window is not None and rule.window < self.reach else None
        if self._chains is not None and varlen_usable(query, value, rule):
            windowed = replace(rule, window=window)
            return varlen_attention(query, key, value, self._chains, windowed).transpose(1, 2), None
        if flex_usable(query, value):
            mask = self._masks.get(window)
            if mask is None:
                mask = self._masks[window] = FlexMask.of(self.extents, self.branch, self.position, window)
            return flex_attention(query, key, value, mask, rule).transpose(1, 2), None
        if self.flash_pays(query, value) and window is None and rule.softcap is None and rule.sinks is None:
            return self._flash(query, key, value, rule.scale).transpose(1, 2), None
        heads = (query.shape[1], key.shape[1], window)
        plan = self._plans.get(heads)
        if plan is None:
            plan = self._plans[heads] = make_plan(self.extents, self.branch, self.position, *heads)
        # not x[0], whose backward copies into zeros
        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        return block_attention(q, k, v, plan, rule).unsqueeze(0), None

    def flash_pays(self, query: Tensor, value: Tensor) -> bool:
        """Whether PyTorch's fused attention is the faster: on a CPU in float32 for long chains, and never in
        bfloat16 (see FLASH_TOKENS).
        """
        if value.device.type != "cpu" or value.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        chains = (
            self._chains is not None and query.shape[-1] == value.shape[-1]
        )  # else there is no fused kernel
        return chains and len(self.branch) >= FLASH_TOKENS * len(self.extents)

    def _flash(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[1, H, T, Dv], tree by tree: each is one causal row."""
        grouped = query.shape[1] != key.shape[1]
        parts = (x.split([e.prompt + e.responses[0] for e in self.extents], 2) for x in (query, key, value))
        return torch.cat(
            [
                nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=scale, enable_gqa=grouped
                )
                for q, k, v in zip(*parts, strict=True)
            ],
            2,
        )


@dataclass(frozen=True, eq=False)
class Stream:
    """What a model is fed, and where its answers lie. Indices count the flattened [b * t] hidden states."""

    ids: Tensor
    """[b, t] int64: [1, T] as a stream, one row per response otherwise."""
    positions: Tensor
    """[b, t] int64"""
    tree: TreeLayout | None
    """None for plain rows, which run through the model's own attention without any mask."""
    source: Tensor
    """[N] int64: the hidden state that predicts response token n."""
    distinct: Tensor
    """[S] int64, ascending: the states in `source`, each once (siblings share their prompt's last)."""
    place: Tensor
    """[N] int64: where in `distinct` each of `source` stands."""
    at: Tensor
    """[N] int64: the hidden state of response token n itself."""
    targets: Tensor
    """[N] int64"""
    response: Tensor
    """[N] int64: which response a token belongs to, counting those laid out."""
    last: Tensor
    """[R] int64: each response's last token, by index and never by a pad id."""


def stream(batch: Bundles, device: torch.device, only: Sequence[int] | None = None) -> Stream:
    """The trees end to end, every prompt once. `only`: ascending indices of the responses to lay out, all of
    them by default; N and R then count those alone, and trees left without response are left out.

    Raises:
        TastemakerError: a tree without responses, without context token, or with an empty response.
    """
    segments: list[Tensor] = []
    lengths: list[int] = []
    origins: list[int] = []  # position of each segment's first token
    branches: list[int] = []
    extents: list[Extent] = []
    before: list[int] = []  # for each response: the stream index of its prompt's last token
    at = number = 0
    for prompt_ids, responses in _chosen(batch, only):
        prompt = len(prompt_ids)
        own = tuple(len(r) for r in responses)
        segments += [prompt_ids, *responses]
        lengths += [prompt, *own]
        origins += [0, *[prompt] * len(own)]
        branches += [0, *range(number + 1, number + len(own) + 1)]
        before += [at + prompt - 1] * len(own)
        extents.append(Extent(at, prompt, own))
        at += prompt + sum(own)
        number += len(own)
    length, origin, kind = torch.tensor([lengths, origins, branches])
    start = length.cumsum(0) - length
    position = torch.arange(at) - torch.repeat_interleave(start - origin, length)
    branch = torch.repeat_interleave(kind, length)
    tokens = (branch > 0).nonzero().squeeze(1)
    own_length = length[kind > 0]
    source = tokens - 1
    source[own_length.cumsum(0) - own_length] = torch.tensor(before)
    ids = torch.cat([s.to("cpu", torch.int64) for s in segments])
    last = (start + length - 1)[kind > 0]
    distinct, place = source.unique(return_inverse=True)
    on_device = [x.to(device) for x in (ids, position, branch, source, distinct, place, tokens, last)]
    ids, position, branch, source, distinct, place, tokens, last = on_device
    return Stream(
        ids=ids[None],
        positions=position[None],
        tree=TreeLayout(extents, branch, position),
        source=source,
        distinct=distinct,
        place=place,
        at=tokens,
        targets=ids[tokens],
        response=branch[tokens] - 1,
        last=last,
    )


def rows(batch: Bundles, device: torch.device, only: Sequence[int] | None = None) -> Stream:
    """The same responses as right-padded rows, prompt repeated: for models that cannot take the stream.

    No mask is made: a causal row never sees the padding on its right, whatever layers the model has. Padding
    repeats the row's last token, so no pad id is needed. `only` and errors as for `stream`.
    """
    pairs = [(p, r) for p, responses in _chosen(batch, only) for r in responses]
    prompts = torch.tensor([len(p) for p, _ in pairs])
    lengths = torch.tensor([len(r) for _, r in pairs])
    whole = [torch.cat([p, r]).to("cpu", torch.int64) for p, r in pairs]
    width = max(len(w) for w in whole)
    ids = torch.stack([nn.functional.pad(w, (0, width - len(w)), value=int(w[-1])) for w in whole])
    first = torch.arange(len(pairs)) * width + prompts
    skipped = torch.repeat_interleave(first - lengths.cumsum(0) + lengths, lengths)
    at = torch.arange(int(lengths.sum())) + skipped
    return Stream(
        ids=ids.to(device),
        positions=torch.arange(width, device=device).expand(len(pairs), width),
        tree=None,
        source=(at - 1).to(device),
        distinct=(at - 1).to(device),
        place=torch.arange(len(at), device=device),
        at=at.to(device),
        targets=ids.reshape(-1)[at].to(device),
        response=torch.repeat_interleave(torch.arange(len(pairs)), lengths).to(device),
        last=(first + lengths - 1).to(device),
    )


def restoring(groups: Sequence[Sequence[int]], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(token order [N], response order [R]): what to index the concatenated answers of groups of responses by,
    to have them in the batch's order. `groups` hold response indices, `lengths` [R] each response's tokens.
    """
    order = [i for group in groups for i in group]
    starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
    tokens = [n for i in order for n in range(starts[i], starts[i + 1])]
    return torch.tensor(tokens).argsort(), torch.tensor(order).argsort()


def _chosen(batch: Bundles, only: Sequence[int] | None) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Prompts with their chosen responses, in order."""
    _check(batch)
    if only is None:
        return [(t.prompt, t.responses) for t in batch.trees]
    wanted = set(only)
    number = 0
    chosen: list[tuple[Tensor, tuple[Tensor, ...]]] = []
    for tree in batch.trees:
        kept = tuple(r for k, r in enumerate(tree.responses) if number + k in wanted)
        number += len(tree.responses)
        if kept:
            chosen.append((tree.prompt, kept))
    return chosen


def _check(batch: Bundles) -> None:
    for i, tree in enumerate(batch.trees):
        where = f"tree {i} of the batch (data row {tree.row})"
        if len(tree.prompt) == 0:
            raise TastemakerError(
                f"{where} has an empty prompt: its first response token would be predicted from a neighbour. "
                "Give it at least one context token, the BOS where the prompt is empty"
            )
        if not tree.responses:
            raise TastemakerError(
                f"{where} has no responses, so there is nothing to score: let a generator complete it first"
            )
        if any(len(r) == 0 for r in tree.responses):
            raise TastemakerError(f"{where} has an empty response: drop it, or end it with the end token")
    if not batch.trees:
        raise TastemakerError("the batch has no trees: nothing to score")
