"""The attention function that Tastemaker registers with transformers, and what every caller of it must honour.

transformers lets a library register its own attention function; any model that dispatches through that
interface then takes a token stream of trees (or a shared-prompt decoding state) as it is. One function is
registered, under the name `IMPLEMENTATION`; what it computes is decided by the object that travels beside the
ids as the forward keyword `tree=`. A keyword and not a context variable, because gradient checkpointing
replays the keywords of the forward in the backward, on whatever thread that runs.

No mask function is registered: transformers builds no mask for an implementation it has no mask function for,
and a mask could not express siblings anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor, nn
from transformers import AttentionInterface

IMPLEMENTATION = "tastemaker"
"""What `model.set_attn_implementation` is given."""


class Attends(Protocol):
    """What may travel as `tree=`: the layout of a training stream, or the state of a decoding loop."""

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, None]:
        """Attention of one layer.

        Shapes: `query` [b, H, Tq, D], `key` [b, Hkv, Tk, D], `value` [b, Hkv, Tk, Dv], H a multiple of Hkv, Dv
        not always D. Returns `(output [b, Tq, H, Dv], None)`: heads after tokens, as transformers wants it.
        `options` are the keywords the model passed on (`scaling`, `sliding_window`, `softcap`, `s_aux`, ...);
        `AttentionRule.of` reads those that change numbers.
        """
        ...


@dataclass(frozen=True, eq=False)
class AttentionRule:
    """How a layer turns queries and keys into weights. Each field changes numbers in some family."""

    scale: float
    """What q.k is multiplied by; not always 1/sqrt(D)."""
    window: int | None = None
    """Keys at a POSITION distance of `window` or more are not seen (never a distance in the stream)."""
    softcap: float | None = None
    """Scores become c * tanh(score / c), before any mask."""
    sinks: Tensor | None = None
    """[H] a logit per head that takes part in the softmax and carries no value."""

    @staticmethod
    def of(query: Tensor, options: Mapping[str, Any]) -> AttentionRule:
        """The rule in the keywords a model passes to its attention function.

        `dropout` is ignored on purpose: Tastemaker scores and trains without dropout, so that a policy and
        its reference agree at step 0 and a batch gives the same numbers however it is cut.
        """
        scaling = cast("float | None", options.get("scaling"))
        return AttentionRule(
            scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
            window=cast("int | None", options.get("sliding_window")) or None,
            softcap=cast("float | None", options.get("softcap")) or None,
            sinks=cast("Tensor | None", options.get("s_aux")),
        )


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    tree: Attends | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The registered attention function: hands the layer to `tree`.

    Raises:
        RuntimeError: without a tree, or with a mask. Guessing "causal" here would turn a model that swallows
            its keywords into silently wrong numbers; the probe relies on this being loud.
    """
    if tree is None:
        raise RuntimeError(
            f"attention implementation {IMPLEMENTATION!r} was called without its tree: pass `tree=` to the "
            "model's forward, or return it to its own attention by set_attn_implementation('sdpa')"
        )
    if attention_mask is not None:
        raise RuntimeError(
            f"attention implementation {IMPLEMENTATION!r} takes no mask: the tree alone says who sees whom"
        )
    return tree.attend(module, query, key, value, **options)


AttentionInterface.register(IMPLEMENTATION, attend)
