"""The only training loop. Every method runs through `fit`.

A loss gives sums by unit; the loop divides each term by that unit's count over all microbatches and
processes, so the update does not depend on how the batch is cut. Each trained role's outputs are cut off
from their graphs before the loss and their gradients are handed back role by role, so that a role's
forward and backward both happen inside its adapter scope although one loss couples them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from tastemaker.config import TrainSettings
from tastemaker.models.flops import Spent
from tastemaker.training.distributed import World
from tastemaker.training.metrics import Totals
from tastemaker.training.optim import learning_rate_factor, set_learning_rate
from tastemaker.training.rollouts import Spare, Versioned, collect
from tastemaker.types import (
    Bundles,
    Generator,
    Loss,
    Method,
    Metric,
    Models,
    Record,
    Reward,
    Role,
    Sampling,
    Scores,
    StatefulReward,
    StopTraining,
    TastemakerError,
    Unit,
)

UNITS: tuple[Unit, ...] = ("tokens", "responses", "pairs", "trees")
DIFFERENTIABLE = ("logps", "values", "rewards")


@dataclass(frozen=True)
class Batch:
    """One step's share of the data on this process."""

    step: int
    epoch: float
    bundles: Bundles
    """With the tree column `position`: the tree's place in the whole batch of all processes."""
    records: Sequence[Record]
    size: int
    """Trees in the whole batch of all processes."""
    spare: Spare | None = None
    """Other prompts, for an online method that asks for them."""


class Trained(Models, Protocol):
    """Models whose roles can be trained."""

    def trainable(self, role: Role) -> Mapping[str, nn.Parameter]: ...

    def count_rollouts(self, batch: Bundles) -> None: ...

    def take_spent(self) -> Spent: ...


@dataclass
class Step:
    """What `fit` yields after each batch."""

    number: int
    metrics: dict[str, float]
    batch: Bundles
    records: Sequence[Record]
    stop: str | None = None
    """Why the method asked to end, if it did."""


@dataclass
class Counters:
    """Running totals of a whole run; saved with checkpoints."""

    optimizer_steps: int = 0
    num_tokens: int = 0
    episodes: int = 0
    flops: dict[str, float] = field(default_factory=dict[str, float])
    """Floating-point operations by stage, over all processes; see `models.flops`."""
    tokens: dict[str, int] = field(default_factory=dict[str, int])
    """Tokens by stage; of rollouts the sampled ones."""

    def add(self, spent: Spent, world: World) -> None:
        """What all processes spent since the last step."""
        own = torch.tensor([*spent.flops.values(), *spent.tokens.values()], dtype=torch.float64)
        everyone = world.reduce(own).tolist()
        for i, stage in enumerate(spent.flops):
            self.flops[stage] = self.flops.get(stage, 0.0) + everyone[i]
            self.tokens[stage] = self.tokens.get(stage, 0) + int(everyone[len(spent.flops) + i])


@dataclass
class CountingGenerator:
    """A generator whose work is counted."""

    generator: Generator
    models: Trained
    responses: int = 0
    """Sampled so far, whether or not a method kept them."""

    def generate(self, prompts: Bundles, sampling: Sampling, *, seed: int) -> Bundles:
        batch = self.generator.generate(prompts, sampling, seed=seed)
        self.models.count_rollouts(batch)
        self.responses += len(batch.lengths)
        return batch


def fit(
    method: Method,
    models: Trained,
    source: Iterable[Batch],
    *,
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    learning_rate: float,
    total_steps: int,
    counters: Counters,
    world: World,
    generator: Generator | None = None,
    reward: Reward | None = None,
    first: Callable[[Bundles], object] | None = None,
    overhear: Callable[[Reward], Reward] | None = None,
) -> Iterator[Step]:
    """Trains on each batch of `source` and yields its metrics.

    A step is one batch; it holds `inner_epochs * mini_batches` optimiser steps. All randomness of a step
    derives from the seed and the step's number. `first` sees the first prepared batch before any update,
    `overhear` puts somebody beside the reward that a step's rollouts are given to.
    """
    updates = Updates(method, models, optimizer, settings, learning_rate, world)
    counted = None if generator is None else CountingGenerator(generator, models)
    updates.total = total_steps * method.inner_epochs * method.mini_batches
    for batch in source:
        begin = time.perf_counter()
        bundles, records = batch.bundles, batch.records
        if method.online:
            assert counted is not None and reward is not None
            counted.responses = 0
            bundles, records = collect(
                method,
                bundles,
                records,
                Versioned(counted, counters.optimizer_steps),
                reward if overhear is None else overhear(reward),
                seeds=partial(rollout_seed, settings.seed, batch.step),
                spare=batch.spare,
            )
        with torch.no_grad():
            ready = method.prepare(models, bundles.to(models.device), world.reduce)
        if first is not None:
            first(ready)
            first = None
        totals = Totals()
        totals.add(method.observe(ready))
        for epoch in range(method.inner_epochs):
            for mini in minibatches(
                ready, batch.size, method.mini_batches, step_seed(settings.seed, batch.step, epoch)
            ):
                updates.step(mini, totals, counters)
        responses = len(bundles.lengths) if counted is None else counted.responses
        tokens, episodes = world.reduce(torch.tensor([bundles.size, responses])).tolist()
        counters.num_tokens += tokens
        counters.episodes += episodes
        counters.add(models.take_spent(), world)
        metrics = totals.reduced(world)
        if isinstance(reward, StatefulReward):
            metrics |= reward.after_step(world.reduce)
        stop = None
        try:
            metrics |= method.after_step(metrics)
        except StopTraining as reason:
            stop = str(reason)
        metrics = {k: v for k, v in metrics.items() if not k.startswith("_")}
        metrics |= {"epoch": batch.epoch, "num_tokens": counters.num_tokens}
        metrics["total_flos"] = sum(counters.flops.values())
        if method.online:
            metrics["episode"] = counters.episodes
        metrics["step_time"] = time.perf_counter() - begin
        yield Step(batch.step, metrics, ready, records, stop)
        if stop is not None:
            return


@dataclass
class Updates:
    """Optimiser steps on minibatches."""

    method: Method
    models: Trained
    optimizer: torch.optim.Optimizer
    settings: TrainSettings
    learning_rate: float
    world: World
    total: int = 0

    def step(self, mini: Bundles, totals: Totals, counters: Counters) -> None:
        """One optimiser step on one minibatch: this process's share of it."""
        counts = self.unit_counts(mini)
        parameters = [p for role in self.method.trains for p in self.models.trainable(role).values()]
        losses: list[Tensor] = []
        for micro in mini.cut(self.settings.tokens_per_microbatch):
            value, metrics = self.backward(micro, counts)
            losses.append(value)
            totals.add(metrics)
        self.world.sum_gradients(parameters)
        loss = sum(losses, torch.zeros((), dtype=torch.float64, device=self.models.device))
        loss = self.world.reduce(loss)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm or float("inf"))
        # the only place where the step waits for the device
        found, length = torch.stack([loss.to(norm.device), norm.double()]).tolist()
        if not (math.isfinite(found) and math.isfinite(length)):
            raise TastemakerError(self.describe_non_finite(mini, counts, found, length))
        factor = learning_rate_factor(self.settings, counters.optimizer_steps, self.total)
        set_learning_rate(self.optimizer, self.learning_rate * factor)
        self.optimizer.step()
        # at once, since what samples and scores the next batch can use their room
        self.optimizer.zero_grad(set_to_none=True)
        counters.optimizer_steps += 1
        totals.put("loss", found)
        totals.put("grad_norm", length)
        totals.put("learning_rate", self.learning_rate * factor)

    def unit_counts(self, mini: Bundles) -> dict[Unit, float]:
        """Units in the minibatch over all processes; a unit that does not occur counts 1."""
        units = self.method.units(mini)
        counts = self.world.reduce(torch.tensor([float(units.get(u, 0)) for u in UNITS], dtype=torch.float64))
        return {u: max(1.0, c) for u, c in zip(UNITS, counts.tolist(), strict=True)}

    def backward(self, micro: Bundles, counts: Mapping[Unit, float]) -> tuple[Tensor, Mapping[str, Metric]]:
        """Adds the microbatch's gradients; returns its part of the loss and its metrics."""
        passes = self.models.sharing(self.method.trains)
        value = torch.zeros((), dtype=torch.float64, device=self.models.device)
        metrics: dict[str, Metric] = {}
        for together in [[one] for one in passes] if self.method.apart else [passes]:
            part, more = self.backward_through(together, micro, counts)
            value = value + part
            metrics |= more
        return value, metrics

    def backward_through(
        self, passes: Sequence[tuple[Role, ...]], micro: Bundles, counts: Mapping[Unit, float]
    ) -> tuple[Tensor, Mapping[str, Metric]]:
        """`backward`, for the terms of the loss that speak of these roles, grouped as `Models.sharing` does."""
        outputs: dict[Role, Scores] = {}
        for role, *beside in passes:
            with self.models.scope(role):
                outputs[role] = self.models.forward(
                    role, micro, beside=beside, temperature=self.method.scoring_temperature, entropy=True
                )
        leaves = {role: cut_off(scores) for role, scores in outputs.items()}
        wanted: list[tuple[Role, str]] = [
            (role, name)
            for role, scores in outputs.items()
            for name in DIFFERENTIABLE
            if (tensor := getattr(scores, name)) is not None and tensor.requires_grad
        ]
        loss = self.method.loss(merged(leaves.values()), micro)
        total = divided(loss, counts)
        inputs = [getattr(leaves[role], name) for role, name in wanted]
        gradients = torch.autograd.grad(total, inputs, allow_unused=True)
        for role, scores in outputs.items():
            found = {
                name: gradient
                for (owner, name), gradient in zip(wanted, gradients, strict=True)
                if owner == role and gradient is not None  # pyright: ignore[reportUnnecessaryComparison]  (unused)
            }
            if found:
                with self.models.scope(role):
                    torch.autograd.backward([getattr(scores, name) for name in found], list(found.values()))
        return total.detach().double(), loss.metrics

    def describe_non_finite(self, mini: Bundles, counts: Mapping[Unit, float], loss: float, norm: float) -> str:
        """Which rows make the loss or the gradient infinite or NaN, each tried alone."""
        rows: list[int] = []
        for i in range(len(mini)):
            self.optimizer.zero_grad(set_to_none=True)
            alone = mini.take([i])
            value, _ = self.backward(alone, counts)
            gradients = [
                p.grad
                for role in self.method.trains
                for p in self.models.trainable(role).values()
                if p.grad is not None
            ]
            if not (torch.isfinite(value) and all(bool(torch.isfinite(g).all()) for g in gradients)):
                rows.append(alone.trees[0].row)
        self.optimizer.zero_grad(set_to_none=True)
        named = f"rows {rows[:20]} of the data" if rows else "no single row; the weights or the sum overflow"
        return (
            f"the loss is {loss} and the gradient norm {norm} before optimiser step; nothing was updated. "
            f"Caused by: {named}. Lower --learning-rate or --max-grad-norm, or remove the rows; the last "
            "checkpoint is intact."
        )


def cut_off(scores: Scores) -> Scores:
    """The same numbers as leaves of a new graph."""
    fields: dict[str, Tensor] = {}
    for name in DIFFERENTIABLE:
        tensor: Tensor | None = getattr(scores, name)
        if tensor is not None:
            fields[name] = tensor.detach().requires_grad_(tensor.requires_grad)
    return Scores(entropy=scores.entropy, **fields)


def merged(scores: Iterable[Scores]) -> Scores:
    """One Scores from those of several roles, whose fields do not overlap."""
    result = Scores()
    for each in scores:
        present = {n: t for n in (*DIFFERENTIABLE, "entropy") if (t := getattr(each, n)) is not None}
        result = replace(result, **present)
    return result


def divided(loss: Loss, counts: Mapping[Unit, float]) -> Tensor:
    """The loss itself: every term over its own unit's count."""
    parts = [total / counts[unit] for total, unit in loss.terms.values()]
    return torch.stack(parts).sum()


def minibatches(ready: Bundles, size: int, number: int, seed: int) -> Iterator[Bundles]:
    """Cuts the whole batch of all processes into `number` parts at random; yields this process's share
    of each, possibly empty. With one part the order is kept.
    """
    if number == 1:
        yield ready
        return
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    place = ready.tree_columns["position"].tolist()
    for part in order.chunk(number):
        members = set(part.tolist())
        yield ready.take([i for i, p in enumerate(place) if p in members])


def rollout_seed(seed: int, step: int, attempt: int) -> int:
    """The seed of a step's rollouts; of a later attempt, where prompts are drawn again."""
    return step_seed(seed, step, -1, attempt) if attempt else step_seed(seed, step)


def step_seed(*parts: int) -> int:
    """A seed for one step, far from its neighbours' (a 63-bit mix of the parts, splitmix64)."""
    state = 0
    for part in parts:
        state = (state ^ part) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
