"""Finds out, at load, how a model may be fed: as a stream of trees or as plain rows; and what its head does.

Class flags do not tell (families that swallow a keyword claim to support every attention backend), so the
model is tried. A small random specimen of its family, in float32, must give the same log-probs as each response
alone through the family's own attention; siblings and neighbours must not leak; every window its config names
must have reached the attention function. The model itself is then tried once on a few tokens, to the tolerance
of its dtype. Whatever raises, differs or cannot be checked is fed as rows.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tastemaker.models.attention import IMPLEMENTATION
from tastemaker.models.backbone import (
    HeadRule,
    attention_of,
    base_of,
    dense_logps,
    forget_rope,
    head_logps,
    hidden_states,
    measure_head,
    whole_logits,
)
from tastemaker.models.decode import evaluating
from tastemaker.models.layout import Stream, TreeLayout, restoring, rows, stream
from tastemaker.models.shrink import SMALL, WINDOWS, rope_kind, rope_parts, specimen
from tastemaker.types import Bundles, Tree

_NAMES = """
    afmoe apertus arcee biogpt bitnet cohere cohere2 cwm deepseek_v3 diffllama ernie4_5 ernie4_5_moe exaone4
    exaone_moe flex_olmo gemma gemma2 gemma3_text gemma3n_text gemma4_text glm glm4 glm4_moe glm4_moe_lite gpt2
    gpt_bigcode gpt_neox gpt_oss granite granite_swa granitemoe granitemoeshared helium hunyuan_v1_dense
    hyperclovax jetmoe llama mimo_v2_flash minicpm3 minimax_m2 ministral mistral mixtral modernbert-decoder
    nanochat olmo olmo2 olmo3 olmoe opt persimmon phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3
    solar_open starcoder2 vaultgemma youtu
"""
TESTED = frozenset(_NAMES.split())
"""Families whose stream was compared with float64 rows, gradients too, and whose code has no rule beyond those
the config names. Outside it a word is logged: no short probe can see an unnamed threshold.
"""

EXACT = 1e-3
"""Largest difference of log-probs in float32 that is still rounding, in units of what another prompt changes; a
mix-up costs a third of that unit and more."""
LEAK = 1e-5
"""How far a log-prob may move when only siblings and neighbours change, in the same unit."""
ROUNDING = {torch.float64: 1e-3, torch.float32: 5e-3}
"""Mean difference of log-probs in the model's own dtype that is still rounding, in nats; `COARSE` elsewhere."""
COARSE = 0.15

Lay = Callable[[Bundles, torch.device, Sequence[int]], Stream]
"""`layout.stream` or `layout.rows`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which responses may share a forward.

    `sides` (longrope): never some up to `limit` tokens and some beyond. `equal` (dynamic NTK): beyond `limit`
    only equal lengths. Rotary factors there depend on the longest row of the batch, whatever the layout.
    """

    kind: Literal["together", "sides", "equal", "alone"] = "together"
    limit: int = 0

    def groups(self, batch: Bundles) -> list[list[int]]:
        """Indices of responses by forward, ascending in each."""
        lengths = [len(t.prompt) + len(r) for t in batch.trees for r in t.responses]
        if self.kind == "together":
            return [list(range(len(lengths)))]
        keyed: dict[int, list[int]] = {}
        for i, length in enumerate(lengths):
            beyond = length > self.limit
            key = i if self.kind == "alone" else length * beyond if self.kind == "equal" else int(beyond)
            keyed.setdefault(key, []).append(i)
        return list(keyed.values())


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How a model is fed, and why."""

    layout: Literal["stream", "rows"]
    head: HeadRule
    grouping: Grouping = field(default_factory=Grouping)
    catches: bool = True
    """Whether what enters the output embedding can be caught; else the last reported hidden state is used."""
    reason: str = ""
    """Why not the stream, in words."""
    tested: bool = True
    """Whether the family is on the list of those compared in full."""


def probe(model: nn.Module) -> ProbeResult:
    """Decides how `model` (a PreTrainedModel, or one in peft's wrapper) is fed, and leaves it as it is.

    The specimen is tried once per class and config in a process; the model itself on every call, on some fifty
    tokens.
    """
    base = base_of(model)
    config: PretrainedConfig = base.config
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # families without the interface announce it at every attempt
    try:
        with evaluating(base):
            result = _of_family(_Family.of(base))
            result = _Trial(base, exact=False).result() if result is None else _confirmed(base, result)
    finally:
        transformers_logging.set_verbosity(before)
    result = replace(result, tested=config.get_text_config().model_type in TESTED)
    if result.layout == "stream" and not result.tested:
        log.warning(
            "%s is not among the families compared in full. Its probe passed, so it takes the stream; a rule "
            "that its config does not name and that begins beyond a few tokens would go unnoticed",
            config.get_text_config().model_type,
        )
    return result


@dataclass(frozen=True)
class _Family:
    """What a specimen is made from; families are told apart by class and settings."""

    kind: type[PreTrainedModel]
    settings: str
    small: bool
    config: PretrainedConfig = field(compare=False)

    @staticmethod
    def of(model: PreTrainedModel) -> _Family:
        small = sum(p.numel() for p in model.parameters()) <= SMALL
        config = copy.deepcopy(model.config)
        return _Family(type(model), json.dumps(config.to_dict(), sort_keys=True, default=str), small, config)


@lru_cache(maxsize=64)
def _of_family(family: _Family) -> ProbeResult | None:
    """What a specimen of the family says; None where none can be made."""
    try:
        tried = specimen(family.kind, family.config, sizes=not family.small)
        return _Trial(tried, exact=True).result()
    except Exception as error:
        # sizes tied in ways unknown here, or any other fault of a family's own code: the model itself is tried
        log.info("no small specimen of %s could be tried (%s)", family.kind.__name__, error)
        return None


def _logps(model: PreTrainedModel, batch: Bundles, lay: Lay, head: HeadRule, grouping: Grouping) -> Tensor:
    """[N] log-probs by one way, in whatever attention the model has now."""
    device = next(model.parameters()).device
    groups = grouping.groups(batch)
    parts: list[Tensor] = []
    for group in groups:
        laid = lay(batch, device, group)
        forget_rope(model)
        if head.mode == "whole":
            parts.append(dense_logps(whole_logits(model, laid), laid.targets)[0])
        else:
            hidden = hidden_states(model, laid)[laid.source]
            parts.append(head_logps(model, head, hidden, laid.targets)[0])
    order, _ = restoring(groups, batch.lengths.tolist())
    return torch.cat(parts)[order.to(device)]


class _Witness(TreeLayout):
    """A layout that remembers how it was called."""

    def __init__(self, layout: TreeLayout) -> None:
        super().__init__(layout.extents, layout.branch, layout.position)
        self.calls = 0
        self.windows: set[int] = set()

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, None]:
        self.calls += 1
        window = options.get("sliding_window")
        if isinstance(window, int):
            self.windows.add(window)
        return super().attend(module, query, key, value, **options)


class _Trial:
    """One model and one small batch: every way to its log-probs, held against each response alone."""

    def __init__(self, model: PreTrainedModel, *, exact: bool) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.rope = _rope_grouping(model.config)
        self.batch = _trial_batch(model)
        whole = HeadRule("whole")
        with attention_of(model):
            self.truth = self.logps(self.batch, rows, whole, Grouping("alone"))
            # what rounding alone does to the same rows in another batch
            self.noise = 0.0 if exact else self.apart(self.logps(self.batch, rows, whole, self.rope))
            self.power = self._power()
        self.tolerance = EXACT * self.power + 4 * self.noise

    def logps(self, batch: Bundles, lay: Lay, head: HeadRule, grouping: Grouping) -> Tensor:
        return _logps(self.model, batch, lay, head, grouping)

    def apart(self, logps: Tensor) -> float:
        return float((logps - self.truth).abs().max())

    def result(self) -> ProbeResult:
        with attention_of(self.model):
            head, grouping, catches = self.plain()
        problem = self.stream_problem(head)
        if problem is None:
            return ProbeResult("stream", head, self.rope, catches)
        return ProbeResult("rows", head, grouping, catches, problem)

    def plain(self) -> tuple[HeadRule, Grouping, bool]:
        """What plain rows need: the first way through the head, and of sharing forwards, that is right."""
        whole = HeadRule("whole")
        catches = _catches(self.model, self.batch)
        heads = [_measured(self.model), whole] if catches else [whole]
        for grouping in (self.rope, Grouping("alone")):
            for head in heads:
                if self.apart(self.logps(self.batch, rows, head, grouping)) <= self.tolerance:
                    return head, grouping, catches
        return whole, Grouping("alone"), catches

    def stream_problem(self, head: HeadRule) -> str | None:
        """Why the stream would be wrong, or None."""
        if not torch.isfinite(self.truth).all():
            return "its log-probs are not finite, so nothing could be compared"
        if self.power < 80 * self.noise:
            return "its log-probs hardly depend on the prompt, so that a mix-up could not be seen"
        seen: list[_Witness] = []

        def watched(batch: Bundles, device: torch.device, only: Sequence[int]) -> Stream:
            laid = stream(batch, device, only)
            seen.append(_Witness(cast(TreeLayout, laid.tree)))
            return replace(laid, tree=seen[-1])

        try:
            with attention_of(self.model, IMPLEMENTATION):
                logps = self.logps(self.batch, watched, head, self.rope)
                leak = self.leak(head)
        except Exception as error:
            # anything a family's own code raises means the same: it does not take the stream
            return f"it does not take the stream: {error}"
        if any(w.calls == 0 for w in seen):
            return "its attention does not go through transformers' interface"
        if not self.apart(logps) <= self.tolerance:
            return f"its log-probs as a stream are off by {self.apart(logps):.2g} nats"
        if not leak <= LEAK * self.power + 4 * self.noise:
            return f"other responses leak into a response's log-probs ({leak:.2g} nats)"
        return _unseen_window(self.model.config, set().union(*(w.windows for w in seen)))

    def _power(self) -> float:
        """By how much log-probs move with another prompt."""
        others = Bundles(tuple(replace(t, prompt=t.prompt.flip(0)) for t in self.batch.trees))
        moved = self.logps(others, rows, HeadRule("whole"), Grouping("alone"))
        return float((moved - self.truth).abs().mean())

    def leak(self, head: HeadRule) -> float:
        """By how much a response's log-probs move when everything but itself and its prompt changes."""
        worst = 0.0
        plain = self.logps(self.batch, stream, head, self.rope)
        for tree, k in ((0, 1), (2, 1)):
            changed: list[Tree] = []
            for i, t in enumerate(self.batch.trees):
                own = tuple(r if (i, j) == (tree, k) else r.flip(0) for j, r in enumerate(t.responses))
                changed.append(replace(t, prompt=t.prompt if i == tree else t.prompt.flip(0), responses=own))
            moved = self.logps(Bundles(tuple(changed)), stream, head, self.rope)
            mine = self.batch.response == sum(self.batch.group_sizes[:tree]) + k
            worst = max(worst, float((moved - plain)[mine.to(self.device)].abs().max()))
        return worst


def _trial_batch(model: PreTrainedModel) -> Bundles:
    """Three trees with prompts of 7, 1 and 5 tokens and six responses."""
    vocabulary = int(cast(Any, model.config).get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(0)

    def ids(n: int) -> Tensor:
        return torch.randperm(max(vocabulary, n), generator=generator)[:n] % vocabulary

    shapes = ((7, (6, 4)), (1, (9,)), (5, (3, 5, 2)))
    return Bundles(tuple(Tree(ids(prompt), tuple(ids(n) for n in own)) for prompt, own in shapes))


def _confirmed(model: PreTrainedModel, result: ProbeResult) -> ProbeResult:
    """`result`, or what is left of it once the model itself, weights, dtype and adapters, was tried."""
    if result.grouping.limit:
        result = replace(result, grouping=_rope_grouping(model.config))  # the specimen's limit was shrunk, too
    batch = _trial_batch(model)
    whole = HeadRule("whole")
    with attention_of(model):
        truth = _logps(model, batch, rows, whole, result.grouping)
    tolerance = ROUNDING.get(next(model.parameters()).dtype, COARSE)
    result = replace(result, catches=result.catches and _catches(model, batch))
    as_rows = replace(result, layout="rows", reason=result.reason or "on the model itself its numbers are off")
    for candidate in (result, replace(result, head=whole), as_rows):
        if candidate.head.mode == "chunked" and not candidate.catches:
            continue
        streamed = candidate.layout == "stream"
        try:
            with attention_of(model, IMPLEMENTATION if streamed else None):
                lay = stream if streamed else rows
                logps = _logps(model, batch, lay, candidate.head, candidate.grouping)
        except Exception as error:
            # as in the trial of the specimen: whatever is raised, this way is not open
            log.info("%s failed its own trial as %s: %s", type(model).__name__, candidate.layout, error)
            continue
        if float((logps - truth).abs().mean()) <= tolerance:
            return candidate
    return replace(as_rows, head=whole)


def _measured(model: PreTrainedModel) -> HeadRule:
    try:
        return measure_head(model)
    except Exception as error:
        # a forward that cannot live with a head of constants; the model's own logits serve
        log.info("the head of %s cannot be measured (%s)", type(model).__name__, error)
        return HeadRule("whole")


def _catches(model: PreTrainedModel, batch: Bundles) -> bool:
    """Whether what enters the output embedding can be caught."""
    try:
        with attention_of(model):
            hidden_states(model, rows(batch, next(model.parameters()).device, [0]))
    except Exception as error:
        # a model that names no output embedding, or does not call it as others do; its own logits serve
        log.info("the output embedding of %s cannot be watched (%s)", type(model).__name__, error)
        return False
    return True


def _rope_grouping(config: Any) -> Grouping:
    """What rotary factors that follow the longest row ask for."""
    part = config.get_text_config()
    for rope in rope_parts(part):
        if rope_kind(rope) == "longrope":
            own = rope.get("original_max_position_embeddings")
            own = own or getattr(part, "original_max_position_embeddings", None)
            return Grouping("sides", int(own or part.max_position_embeddings))
        if "dynamic" in rope_kind(rope):
            return Grouping("equal", int(part.max_position_embeddings))
    return Grouping()


def _unseen_window(config: Any, seen: set[int]) -> str | None:
    """A window that the config names and the attention function never met, in words."""
    part = config.get_text_config()
    layers = list(part.per_layer_config) if getattr(part, "is_heterogeneous", False) else [part]
    kinds = cast("list[str]", getattr(part, "layer_types", None) or [])
    unused = set(kinds) == {"full_attention"} or getattr(part, "use_sliding_window", None) is False
    for name in WINDOWS:
        if unused and not name.startswith("index"):
            continue
        for value in {getattr(layer, name, None) for layer in layers}:
            if not isinstance(value, int) or value <= 0:
                continue
            if not seen & {value, value - 1, value // 2, value // 2 + 1}:
                return f"its config names {name}={value}, which its attention does not pass on"
    return None
