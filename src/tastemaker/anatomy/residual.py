"""The residual stream of a model: read at chosen places, and changed while the model runs, by hooks of its
layers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from tastemaker.errors import TastemakerError
from tastemaker.types import Role

Change = Callable[[Tensor], Tensor]
"""[..., d] -> [..., d]"""
TOGETHER = 64
"""Prompts of one length read at a time."""


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a causal model, in order.

    Raises TastemakerError where they cannot be told.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    number = getattr(text, "num_hidden_layers", None)
    for _, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return list(module)
    raise TastemakerError(
        f"{type(model).__name__}: no list of {number} layers is in it, so its residual stream cannot be read. "
        "Models of the usual decoder shape can be."
    )


def residuals(model: nn.Module, prompts: Sequence[Tensor], positions: Sequence[int]) -> Tensor:
    """[P, L + 1, T, d] float32: what enters each layer (index 0: the embeddings) and what leaves the last, at
    token `positions` counted from the end (-1 the last token of the prompt).

    Prompts are read in groups of one length, without padding. Raises TastemakerError where one is shorter than
    the furthest position.
    """
    layers = decoder_layers(model)
    furthest = -min(positions)
    short = [i for i, p in enumerate(prompts) if len(p) < furthest]
    if short:
        raise TastemakerError(
            f"prompt {short[0]} has fewer than the {furthest} tokens that are read from its end."
        )
    found: list[Tensor | None] = [None] * len(prompts)
    at = list(positions)
    for indices in _by_length(prompts):
        caught: list[Tensor] = []

        def enter(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], kept: list[Tensor] = caught
        ) -> None:
            kept.append(_hidden(args, kwargs)[:, at].float())

        def leave(_: nn.Module, __: Any, output: Any, kept: list[Tensor] = caught) -> None:
            kept.append((output[0] if isinstance(output, tuple) else output)[:, at].float())

        handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
        handles.append(layers[-1].register_forward_hook(leave))
        try:
            with torch.no_grad():
                model(
                    input_ids=torch.stack([prompts[i] for i in indices]).to(device_of(model)), use_cache=False
                )
        finally:
            for handle in handles:
                handle.remove()
        together = torch.stack(caught, 1).cpu()
        for row, i in enumerate(indices):
            found[i] = together[row]
    return torch.stack(cast("list[Tensor]", found))


def last_logits(model: nn.Module, prompts: Sequence[Tensor]) -> Tensor:
    """[P, V] float32 logits of the first response token."""
    found: list[Tensor | None] = [None] * len(prompts)
    for indices in _by_length(prompts):
        ids = torch.stack([prompts[i] for i in indices]).to(device_of(model))
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids, use_cache=False).logits[:, -1].float().cpu()
        for row, i in enumerate(indices):
            found[i] = logits[row]
    return torch.stack(cast("list[Tensor]", found))


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _by_length(prompts: Sequence[Tensor]) -> Iterator[list[int]]:
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(i)
    for group in groups.values():
        for start in range(0, len(group), TOGETHER):
            yield group[start : start + TOGETHER]


# ------------------------------------------------------------------------------------------- changing


def ablate(direction: Tensor) -> Change:
    """X - r r^T x with r the unit vector of `direction` [d] (Arditi et al. 2024, arXiv:2406.11717, equation
    4).
    """
    unit = direction / direction.norm()

    def change(x: Tensor) -> Tensor:
        r = unit.to(x)
        return x - (x @ r)[..., None] * r

    return change


def add(direction: Tensor, coefficient: float = 1.0) -> Change:
    """X + coefficient * `direction`, the difference of means itself, not its unit vector (equation 3)."""

    def change(x: Tensor) -> Tensor:
        return x + coefficient * direction.to(x)

    return change


@contextmanager
def ablated(model: nn.Module, direction: Tensor) -> Generator[None]:
    """Inside, nothing can write `direction` into the residual stream: it is taken out of what enters every
    layer, of what attention and MLP add, and of what leaves the last layer, at every position.
    """
    change = ablate(direction)
    layers = decoder_layers(model)
    parts = [
        m
        for layer in layers
        for n, m in layer.named_children()
        if any(k in n for k in ("attn", "mlp", "attention"))
    ]
    with _hooked([(layer, "enter") for layer in layers] + [(m, "leave") for m in (*parts, layers[-1])], change):
        yield


@contextmanager
def added(
    model: nn.Module, direction: Tensor, layer: int, coefficient: float = 1.0, *, prompt_only: bool = False
) -> Generator[None]:
    """Inside, `direction` is added to what enters layer `layer` (the number of layers: to what leaves the
    last), at every position; with `prompt_only` in passes over more than one token, that is while the prompt
    is read and not while the answer is written token by token.
    """
    layers = decoder_layers(model)
    place = (layers[layer], "enter") if layer < len(layers) else (layers[-1], "leave")
    whole = add(direction, coefficient)

    def change(x: Tensor) -> Tensor:
        return x if prompt_only and x.shape[1] == 1 else whole(x)

    with _hooked([place], change):
        yield


@contextmanager
def _hooked(places: Sequence[tuple[nn.Module, str]], change: Change) -> Generator[None]:
    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    def leave(_: nn.Module, __: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handles = [
        module.register_forward_pre_hook(enter, with_kwargs=True)
        if where == "enter"
        else module.register_forward_hook(leave)
        for module, where in places
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


@dataclass(frozen=True, eq=False)
class Plain:
    """A model by itself, for `rollout.LocalGenerator`: it generates as it stands, hooks included."""

    model: nn.Module

    @contextmanager
    def _as_it_stands(self) -> Generator[None]:
        yield

    def generation_model(self, role: Role) -> tuple[nn.Module, Any]:
        """The model, whatever the role."""
        return self.model, self._as_it_stands()
