"""Limits on length, and what happens to rows beyond them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tastemaker.data.encoding import Encoded
from tastemaker.data.problems import Unusable, nearest
from tastemaker.errors import TastemakerError

TruncationMode = Literal["keep_start", "keep_end", "drop"]
MODES: tuple[TruncationMode, ...] = ("keep_start", "keep_end", "drop")

LONG_PROMPT = "prompt longer than the limit"
LONG_ROW = "longer than max_length"
IDENTICAL_AFTER_CUT = "responses identical once cut"
IDENTICAL_TOKENS = "responses identical as tokens"
UNTRAINED = "no trained token is left"


@dataclass(frozen=True)
class Limits:
    """Lengths in tokens.

    `max_length` bounds prompt + each response (the end token included), `max_prompt_length` the prompt
    alone. "keep_start": a longer response is cut and loses its end token, a longer prompt drops the row.
    "keep_end": a longer prompt loses its beginning instead (its BOS stays), but no more than half of
    max_length makes room for a response unless max_prompt_length says so; responses are cut as above.
    "drop": a row that does not fit whole is dropped.
    """

    max_length: int = 1024
    max_prompt_length: int | None = None
    truncation_mode: TruncationMode = "keep_start"

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise TastemakerError(
                f"max_length={self.max_length}: at least 2 (one prompt and one response token)."
            )
        longest = self.max_prompt_length
        if longest is not None and not 1 <= longest < self.max_length:
            raise TastemakerError(
                f"max_prompt_length={longest}: should be at least 1 and below max_length={self.max_length}, so "
                "that a response has room."
            )
        if self.truncation_mode not in MODES:
            like = nearest(self.truncation_mode, MODES)
            raise TastemakerError(
                f"truncation_mode={self.truncation_mode!r}: should be one of {', '.join(MODES)}."
                + (f" Did you mean {like!r}?" if like else "")
            )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A row within the limits."""

    prompt: list[int]
    responses: tuple[Encoded, ...]
    cut_prompt: bool
    cut_responses: int


def fit(
    prompt: list[int], kept: int, responses: Sequence[Encoded], ranks: Sequence[int], limits: Limits
) -> Fitted:
    """Cuts a row to the limits, every response by the same rule.

    `kept` leading prompt tokens (BOS) stay when the prompt is cut from the left. Raises Unusable where the
    prompt is too long, where the cut leaves no trained token, or where differently ranked responses are
    the same tokens. A response never becomes empty.
    """
    longest = max((len(r.ids) for r in responses), default=0)
    limit = limits.max_prompt_length or limits.max_length - 1
    mode = limits.truncation_mode
    if mode == "drop" and len(prompt) + longest > limits.max_length:
        raise Unusable(LONG_ROW)
    if mode == "keep_end":
        if limits.max_prompt_length is None:
            limit = max(limits.max_length - max(longest, 1), limits.max_length // 2)
        fitted = _cut_left(prompt, kept, limit)
    else:
        fitted = prompt
    if len(fitted) > limit:
        raise Unusable(LONG_PROMPT)
    cut = tuple(r.cut(limits.max_length - len(fitted)) for r in responses)
    number = sum(len(a.ids) < len(b.ids) for a, b in zip(cut, responses, strict=True))
    if any(not any(r.trained) for r in cut):
        raise Unusable(UNTRAINED)
    _check_different(cut, ranks, number > 0)
    return Fitted(fitted, cut, len(fitted) < len(prompt), number)


def _cut_left(prompt: list[int], kept: int, limit: int) -> list[int]:
    if len(prompt) <= limit:
        return prompt
    kept = min(kept, limit)
    tail = limit - kept
    return [*prompt[:kept], *(prompt[-tail:] if tail else [])]


def _check_different(responses: Sequence[Encoded], ranks: Sequence[int], cut: bool) -> None:
    for i in range(len(responses)):
        for j in range(i):
            if ranks[i] != ranks[j] and responses[i].ids == responses[j].ids:
                raise Unusable(IDENTICAL_AFTER_CUT if cut else IDENTICAL_TOKENS)
