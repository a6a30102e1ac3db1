"""The one function from (model, batch) to what a method needs: log-probs, rewards, values.

Backbone and head run inside one module's forward, so that sharded and replicated wrappers see every parameter
used where they expect it. Which layout the model is fed was decided by the probe.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from tastemaker.models.attention import IMPLEMENTATION
from tastemaker.models.backbone import (
    base_of,
    dense_logps,
    forget_rope,
    head_logps,
    hidden_states,
    last_layer,
    use_attention,
    whole_logits,
)
from tastemaker.models.heads import Head, StepHead, TokenHead
from tastemaker.models.layout import Stream, restoring, rows, stream
from tastemaker.models.probe import ProbeResult, probe
from tastemaker.models.trunk import trunk_of
from tastemaker.types import Bundles, Scores, TastemakerError

Want = Literal["logps", "rewards", "values"]


class Scorer(nn.Module):
    """A causal language model that scores bundles. Wrap this, not the model, for data-parallel or sharded runs.

    The model is used as it is and stays the caller's: adapters may be switched between calls (a forward and its
    backward under the same ones), gradient checkpointing may be on, autocast may be. Only its attention
    implementation is set, once, where the probe found that it takes the stream.
    """

    def __init__(self, model: nn.Module, result: ProbeResult | None = None) -> None:
        """`model`: a PreTrainedModel, or one in peft's wrapper. `result`: of `probe(model)`, made if absent."""
        super().__init__()
        self.model = model
        self.result = probe(model) if result is None else result
        if self.result.layout == "stream":
            use_attention(base_of(model), IMPLEMENTATION)
        self.trunk = (
            trunk_of(base_of(model)) if self.result.layout == "stream" and self.result.catches else None
        )

    def forward(
        self,
        batch: Bundles,
        want: Want = "logps",
        *,
        head: Head | None = None,
        beside: Head | None = None,
        temperature: float = 1.0,
        entropy: bool = False,
    ) -> Scores:
        """Scores every response of `batch`, with gradient where grad mode is on.

        `logps` gives logps [N] (log-softmax of logits / temperature, in float32 or wider) and, if asked,
        entropy [N]. `rewards` gives rewards [R]: `head` on the hidden state of each response's last token, by
        index, or a `TokenHead`'s scores summed over the response; with a `StepHead` it gives values [N], of the
        state at each token. `values` gives values [N]: `head` on the state before each token. With `beside`,
        `logps` gives that head's values [N] too, out of the same forward pass.

        Raises:
            TastemakerError: see `layout.stream`; and rewards or values without a head.
        """
        device = next(self.model.parameters()).device
        if want != "logps" and head is None:
            raise TastemakerError(
                f"{want} need a head: pass head=, a ScalarHead or TokenHead of the model's width"
            )
        lay = stream if self.result.layout == "stream" else rows
        groups = self.result.grouping.groups(batch)
        if len(groups) == 1:
            return self._score(lay(batch, device), want, head, beside, temperature, entropy)
        laids = (lay(batch, device, only) for only in groups)
        parts = [self._score(laid, want, head, beside, temperature, entropy) for laid in laids]
        return _reassemble(parts, *restoring(groups, batch.lengths.tolist()))

    def _states(self, laid: Stream, rows: Tensor | None) -> Tensor:
        """[S, d] what enters the output embedding at the distinct `rows`; None: at all [T, d]."""
        if self.trunk is not None:
            return self.trunk(laid, rows)
        model = base_of(self.model)
        states = hidden_states(model, laid) if self.result.catches else last_layer(model, laid)
        return states if rows is None else states.index_select(0, rows)

    def _before(self, laid: Stream) -> Tensor:
        """[N, d] of the state before each response token."""
        states = self._states(laid, laid.distinct)
        return states if len(laid.distinct) == len(laid.place) else states.index_select(0, laid.place)

    def _score(
        self,
        laid: Stream,
        want: Want,
        head: Head | None,
        beside: Head | None,
        temperature: float,
        entropy: bool,
    ) -> Scores:
        model = base_of(self.model)
        rule = self.result.head
        if self.result.grouping.kind == "equal":
            forget_rope(model)
        if want == "logps" and rule.mode == "whole":
            logits = whole_logits(model, laid)
            logps, entropies = dense_logps(logits, laid.targets, temperature=temperature, entropy=entropy)
            # what enters such a model's head is not at hand where its logits are: a pass of its own
            values = None if beside is None else cast(Tensor, cast(nn.Module, beside)(self._before(laid)))
            return Scores(logps=logps, entropy=entropies, values=values)
        if want == "logps":
            before = self._before(laid)
            logps, entropies = head_logps(
                model, rule, before, laid.targets, temperature=temperature, entropy=entropy
            )
            values = None if beside is None else cast(Tensor, cast(nn.Module, beside)(before))
            return Scores(logps=logps, entropy=entropies, values=values)
        if want == "values":
            return Scores(values=cast(Tensor, cast(nn.Module, head)(self._before(laid))))
        if isinstance(head, StepHead):
            return Scores(values=head(self._states(laid, laid.at)))
        if isinstance(head, TokenHead):
            hidden = self._states(laid, None)
            before, at = hidden.index_select(0, laid.source), hidden.index_select(0, laid.at)
            scores = head.token_scores(before, at, laid.targets)
            rewards = torch.zeros(len(laid.last), dtype=scores.dtype, device=scores.device)
            return Scores(rewards=rewards.index_add(0, laid.response, scores))
        return Scores(rewards=cast(nn.Module, head)(self._states(laid, laid.last)))


def _reassemble(parts: list[Scores], tokens: Tensor, responses: Tensor) -> Scores:
    """The scores of groups of responses, in the batch's order again."""

    def joined(pieces: list[Tensor | None], order: Tensor) -> Tensor | None:
        there = [p for p in pieces if p is not None]
        return torch.cat(there).index_select(0, order.to(there[0].device)) if there else None

    return Scores(
        logps=joined([p.logps for p in parts], tokens),
        entropy=joined([p.entropy for p in parts], tokens),
        values=joined([p.values for p in parts], tokens),
        rewards=joined([p.rewards for p in parts], responses),
    )
