"""Generation in this process, by the live weights of the role that is being trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from tastemaker.models.decode import Decoder, cache_bytes_per_token, evaluating, open_decoder, position_limit
from tastemaker.models.export import stop_tokens
from tastemaker.rollout.sampling import check_sampling, draw, require_full_distribution, uniforms
from tastemaker.types import Bundles, Role, Sampling, TastemakerError, Tree

SHRINK_AT = 0.75
"""Finished rows are dropped when at most this share of the rows is still growing."""
UNIFORMS_AHEAD = 64
"""Steps whose random numbers are made at once."""


class GenerationModels(Protocol):
    """What has a model to generate with: `models.roles.RoleModels`."""

    def generation_model(self, role: Role) -> tuple[nn.Module, AbstractContextManager[None]]:
        """The causal model that plays `role`, and the scope within which it does."""
        ...


@dataclass(frozen=True)
class _Pass:
    """Rows that are decoded together, and the random streams they draw from."""

    prompts: list[Tensor]
    owners: list[int]
    """Of each row, ascending: index into `prompts`."""
    places: list[int]
    """Of each row: its index among all responses of the call, tree by tree."""
    rows: Tensor
    """[R] `Tree.row` of each row."""
    members: Tensor
    """[R] k of each row."""
    room: Tensor
    """[R] tokens each row may write."""
    seed: int

    def uniforms(self, live: Tensor, start: int, delay: Tensor | None) -> Tensor:
        """[R', UNIFORMS_AHEAD] for the rows `live`, from step `start`."""
        steps = torch.arange(start, start + UNIFORMS_AHEAD)
        positions = steps.expand(len(live), -1) if delay is None else steps - delay.cpu()[:, None]
        return uniforms(self.seed, self.rows[live], self.members[live], positions)


@dataclass(frozen=True)
class _Response:
    ids: Tensor
    logps: Tensor
    ended: bool


class LocalGenerator:
    """`types.Generator` over the weights of one role as they are at the moment of the call.

    A response holds every token the model wrote, its end token included when it wrote one (`ended`); it is cut
    (not `ended`) at `max_new_tokens`, or where the model's positions end. No token is added, masked or renamed.
    In particular pad and BOS may be drawn: forbidding them would change the
    distribution, and then `sampled_logps` would differ from what scoring the same tokens gives.

    `sampled_logps[n]` is log softmax(logits / temperature) of the token drawn, over the whole vocabulary,
    logits being the model's own in float32 or wider: what teacher forcing at that temperature says.
    At temperature 0 (greedy) it is log softmax(logits).

    Sample k of tree `row` depends on (seed, row, k) and the weights, not on the other prompts of the call,
    their order, or the process it is drawn in: position t takes u(seed, row, k, t) of `sampling.uniforms`
    through the inverse distribution function. (Rounding of matrix products may differ with their shapes, by
    about 1e-6 in float32: a token changes only when u falls that close to a boundary.) Trees with equal `row`
    and prompt therefore draw equal samples.
    """

    def __init__(
        self,
        models: GenerationModels,
        tokenizer: object | None = None,
        *,
        role: Role = "policy",
        allow_truncation: bool = False,
        cache_bytes: int = 2**31,
    ):
        """`tokenizer`: its `eos_token_id` ends responses, beside the ids of the model's generation config.
        `allow_truncation`: whether `top_k` and `top_p` may be asked for; leave it False where the samples are
        trained on. `cache_bytes`: what keys, values and logits of one pass may take; more rows than fit are
        decoded in several passes, with the same samples.
        """
        self._models = models
        self._tokenizer = tokenizer
        self._role: Role = role
        self._allow_truncation = allow_truncation
        self._cache_bytes = cache_bytes

    def generate(self, prompts: Bundles, sampling: Sampling, *, seed: int) -> Bundles:
        """Completes every prompt with `sampling.n` responses, in order; see the class.

        Trees keep their order, prompt, `row` and tree columns. Adds the token column `sampled_logps` [N].

        Raises:
            TastemakerError: settings without meaning; top_k or top_p where `allow_truncation` is False; a
                prompt that leaves no room to write; several trees without a `row`; logits that are not finite.
            ValueError: trees that have responses already.
        """
        check_sampling(sampling)
        if not self._allow_truncation:
            require_full_distribution(sampling)
        _check_prompts(prompts)
        model, scope = self._models.generation_model(self._role)
        found: dict[int, _Response] = {}
        with scope, evaluating(model):
            stop = stop_tokens(model, cast(Any, self._tokenizer))
            room = _room(prompts, sampling, position_limit(model))
            for held in self._passes(model, prompts, sampling):
                part = _pass(prompts, held, sampling.n, room, seed)
                decoder = open_decoder(model, part.prompts, part.owners, int(part.room.max()))
                responses = _decode(decoder, part, stop, sampling)
                found.update(zip(part.places, responses, strict=True))
        return _assemble(prompts, [found[i] for i in range(len(found))], sampling.n)

    def _passes(
        self, model: nn.Module, prompts: Bundles, sampling: Sampling
    ) -> Iterator[list[tuple[int, int]]]:
        """Rows (tree, k) by prompt length, cut where their keys, values and logits would pass the limit."""
        per_token = cache_bytes_per_token(model)
        per_row = sampling.max_new_tokens * per_token + _logits_bytes(model)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts.trees[i].prompt))
        held: list[tuple[int, int]] = []
        size = 0
        for i in order:
            for k in range(sampling.n):
                new = not held or held[-1][0] != i
                cost = per_row + (len(prompts.trees[i].prompt) * per_token if new else 0)
                if held and size + cost > self._cache_bytes:
                    yield held
                    held, size = [], 0
                    cost = per_row + len(prompts.trees[i].prompt) * per_token
                held.append((i, k))
                size += cost
        if held:
            yield held


def _check_prompts(prompts: Bundles) -> None:
    if any(tree.responses for tree in prompts.trees):
        raise ValueError("prompts to complete are trees without responses")
    if sum(tree.row < 0 for tree in prompts.trees) > 1:
        raise TastemakerError(
            "several prompts have no `row`, so they would share one random stream and equal prompts would draw "
            "equal samples; number them: Tree(prompt, row=i)"
        )


def _room(prompts: Bundles, sampling: Sampling, limit: int | None) -> list[int]:
    """Tokens that may follow each prompt."""
    room = [min(sampling.max_new_tokens, (limit or 2**62) - len(tree.prompt)) for tree in prompts.trees]
    for tree, tokens in zip(prompts.trees, room, strict=True):
        if tokens < 1:
            raise TastemakerError(
                f"row {tree.row}: a prompt of {len(tree.prompt)} tokens leaves no room for a response, because "
                f"this model is good for {limit} tokens; shorten the prompts (max_length)"
            )
    return room


def _logits_bytes(model: nn.Module) -> int:
    """Of one row while a token is drawn: logits, log-probabilities, probabilities and their float64 sum."""
    return 24 * int(getattr(getattr(model, "config", None), "vocab_size", 0) or 0)


def _pass(prompts: Bundles, held: Sequence[tuple[int, int]], n: int, room: Sequence[int], seed: int) -> _Pass:
    trees = list(dict.fromkeys(i for i, _ in held))
    owner = {i: at for at, i in enumerate(trees)}
    return _Pass(
        prompts=[prompts.trees[i].prompt for i in trees],
        owners=[owner[i] for i, _ in held],
        places=[i * n + k for i, k in held],
        rows=torch.tensor([prompts.trees[i].row for i, _ in held]),
        members=torch.tensor([k for _, k in held]),
        room=torch.tensor([room[i] for i, _ in held]),
        seed=seed,
    )


class _Record:
    """Tokens and log-probabilities of the rows of a pass, written a step at a time."""

    def __init__(self, rows: int):
        self._rows = rows
        self._blocks: list[tuple[Tensor, Tensor, Tensor]] = []
        """(rows [R'], positions [S, R'], tokens and log-probabilities stacked [2, S, R'] float64)."""
        self._tokens: list[Tensor] = []
        self._logps: list[Tensor] = []
        self._start = 0

    def add(self, tokens: Tensor, logps: Tensor) -> None:
        self._tokens.append(tokens)
        self._logps.append(logps)

    def close(self, live: Tensor, delay: Tensor | None) -> None:
        """Ends a stretch of steps over which the same rows were decoded."""
        steps = torch.arange(self._start, self._start + len(self._tokens))[:, None].expand(-1, len(live))
        positions = steps if delay is None else steps - delay.cpu()
        both = torch.stack([torch.stack(self._tokens).double(), torch.stack(self._logps).double()])
        self._blocks.append((live, positions, both.cpu()))
        self._start += len(self._tokens)
        self._tokens, self._logps = [], []

    def responses(self, room: Tensor, stop: Sequence[int], dtype: torch.dtype) -> list[_Response]:
        """Each row up to its first end token, or as much as it had room for."""
        width = min(int(room.max()), self._start)
        written = torch.zeros(2, self._rows, width, dtype=torch.float64)
        for live, positions, both in self._blocks:
            inside = (positions >= 0) & (positions < width)
            written[:, live.expand_as(positions)[inside], positions[inside]] = both[:, inside]
        tokens, logps = written[0].long(), written[1].to(dtype)
        behind = torch.arange(width) >= room[:, None]
        stops = torch.isin(tokens, torch.tensor(stop, dtype=torch.int64)) & ~behind
        ended = stops.any(dim=1)
        lengths = torch.where(ended, stops.int().argmax(dim=1) + 1, room).tolist()
        return [
            _Response(tokens[i, :length].clone(), logps[i, :length].clone(), over)
            for i, (length, over) in enumerate(zip(lengths, ended.tolist(), strict=True))
        ]


def _decode(decoder: Decoder, part: _Pass, stop: Sequence[int], sampling: Sampling) -> list[_Response]:
    """Steps until every row has ended or is full, dropping finished rows on the way."""
    logits = decoder.start()
    device = logits.device
    stops = torch.zeros(logits.shape[1], dtype=torch.bool)
    stops[torch.tensor([i for i in stop if i < len(stops)], dtype=torch.int64)] = True
    stops = stops.to(device)
    live = torch.arange(len(part.owners))
    room = part.room.to(device)
    # finished rows wait until dropping them pays, but none may step past the model's last position
    shrink_at = 1.0 if bool((part.room < part.room.max()).any()) else SHRINK_AT
    done = torch.zeros(len(live), dtype=torch.bool, device=device)
    record = _Record(len(live))
    ahead, step = torch.empty(0), 0
    while True:
        at = step % UNIFORMS_AHEAD
        if at == 0:
            ahead = part.uniforms(live, step, decoder.delay).to(device)
        tokens, logps = draw(logits, ahead[:, at], sampling)
        record.add(tokens, logps)
        done |= _finished(decoder.delay, room, tokens, stops, step)
        growing = len(done) - int(done.sum())
        if growing == 0:
            break
        if growing < len(done) and growing <= shrink_at * len(done):
            record.close(live, decoder.delay)
            rows = (~done).nonzero().squeeze(1)
            decoder.keep(rows)
            live, done, room = live[rows.cpu()], done[rows], room[rows]
            ahead, tokens = ahead[rows], tokens[rows]
        logits = decoder.step(tokens)
        step += 1
    record.close(live, decoder.delay)
    responses = record.responses(part.room, stop, logps.dtype)
    _check_finite(responses, part)
    return responses


def _finished(delay: Tensor | None, room: Tensor, tokens: Tensor, stops: Tensor, step: int) -> Tensor:
    """[R'] bool: rows that this step's token ends or fills."""
    if delay is None:
        return stops[tokens] | (room <= step + 1)
    return (stops[tokens] & (delay <= step)) | (room + delay <= step + 1)


def _check_finite(responses: Sequence[_Response], part: _Pass) -> None:
    for i, response in enumerate(responses):
        if not bool(torch.isfinite(response.logps).all()):
            raise TastemakerError(
                f"the model gave logits that are not finite while completing row {int(part.rows[i])} "
                f"(sample {int(part.members[i])}); its weights have probably diverged: lower the learning "
                "rate, or generate in a wider dtype"
            )


def _assemble(prompts: Bundles, responses: Sequence[_Response], n: int) -> Bundles:
    trees: list[Tree] = []
    for i, tree in enumerate(prompts.trees):
        own = responses[i * n : (i + 1) * n]
        ids, ended = tuple(r.ids for r in own), tuple(r.ended for r in own)
        trees.append(replace(tree, responses=ids, trained=None, ended=ended))
    logps = torch.cat([r.logps for r in responses]) if responses else torch.zeros(0)
    completed = Bundles(trees=tuple(trees), tree_columns=prompts.tree_columns, device=prompts.device)
    return completed.with_tokens(sampled_logps=logps.to(prompts.device))
