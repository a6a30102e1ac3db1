"""What a diagnosis looks at, and what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from tastemaker.methods import METHODS
from tastemaker.studies.diagnosis.limits import LIMITS
from tastemaker.studies.overoptimisation import Difference, finite, read_curve

Severity = Literal["note", "warning", "problem"]
Outcome = Literal["better", "worse", "same", "unknown"]
Summary = Mapping[str, Mapping[str, float | None]]
"""Column of a policy's readings -> mean, se, n."""


@dataclass(frozen=True)
class Finding:
    """One thing that went wrong, or that one should know."""

    code: str
    severity: Severity
    """problem: the policy is worse for it, or the result cannot be trusted; warning: it may well be; note: it
    did no harm here."""
    text: str
    """In plain language, with its numbers."""
    numbers: Mapping[str, float]
    remedy: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self) | {"numbers": {k: float(v) for k, v in self.numbers.items() if finite(v)}}


@dataclass(frozen=True, kw_only=True)
class ArmEvidence:
    """Everything known of one run of one arm. What was not read is left empty, and not checked."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Flat: beta or kl_coef, learning_rate, response_length, ..."""
    metrics: Sequence[Mapping[str, Any]] = ()
    """The lines of the run's metrics, in order."""
    sft: Summary = field(default_factory=dict[str, Mapping[str, float | None]])
    """The SFT policy's readings, sampled on the test prompts."""
    reading: Summary = field(default_factory=dict[str, Mapping[str, float | None]])
    """The arm's, sampled on the same prompts."""
    greedy: Summary = field(default_factory=dict[str, Mapping[str, float | None]])
    """The arm's, greedily; quoted beside what is found."""
    watch: Sequence[Mapping[str, Any]] = ()
    """Its curve, from step 0 on; see `overoptimisation.read_curve`."""
    pairs: Mapping[str, Any] | None = None
    """`train` and `held_out`: `evaluation.read_pairs` on either; `own_logp_per_token`: of the SFT policy's own
    samples, under itself."""
    stopped: str | None = None
    """Why the run ended before its time."""
    judge_is_gold: bool = True
    proxy_optimised: bool | None = None
    """Whether `watch`'s proxy is the reward that the arm maximised; None: if it learns from its own samples."""

    # ---------------------------------------------------------------------------------------- readings

    def mean(self, name: str, of: Literal["reading", "sft", "greedy"] = "reading") -> float | None:
        """The mean of a column."""
        value = getattr(self, of).get(name, {}).get("mean")
        return float(value) if finite(value) else None

    def change(self, name: str) -> Difference | None:
        """The arm less the SFT policy, with the error of independent means (an upper bound: the prompts are
        the same).
        """
        before, after = self.mean(name, "sft"), self.mean(name)
        if before is None or after is None:
            return None
        errors = [s.get(name, {}).get("se") for s in (self.sft, self.reading)]
        return Difference(before, after, math.hypot(*(e if finite(e) else math.nan for e in errors)))

    @cached_property
    def outcome(self) -> Outcome:
        """What became of the judge's score against the SFT policy's."""
        change = self.change("score")
        if change is None:
            return "unknown"
        return "better" if change.z > LIMITS.clear else "worse" if change.z < -LIMITS.clear else "same"

    @property
    def judge(self) -> str:
        return "the judge" if self.judge_is_gold else "the judge (a proxy)"

    @cached_property
    def curve(self) -> dict[str, Any]:
        """What `watch` says of over-optimisation."""
        optimised = self.online if self.proxy_optimised is None else self.proxy_optimised
        return read_curve(self.watch, judge=self.judge, optimised=optimised)

    def scores(self) -> str:
        """The judge's score before and after, in words; empty where it was not read."""
        change = self.change("score")
        if change is None:
            return ""
        error = f" ± {1.96 * change.error:.2f}" if finite(change.error) else ""
        return f"{self.judge} went from {change.before:+.2f} to {change.after:+.2f}{error}"

    # ---------------------------------------------------------------------------------------- training

    @property
    def online(self) -> bool:
        """Whether the arm learns from its own samples, and not from the pairs."""
        if self.method in METHODS:
            return METHODS[self.method].online
        return any(name.startswith("objective/") for name in self.columns)

    @cached_property
    def columns(self) -> frozenset[str]:
        return frozenset(name for line in self.metrics for name in line)

    def series(self, name: str) -> list[float]:
        """The known values of a metric, in order."""
        return [float(line[name]) for line in self.metrics if finite(line.get(name))]

    def late(self, name: str, share: float = 0.5) -> list[float]:
        """The last `share` of them."""
        values = self.series(name)
        return values[len(values) - max(1, round(len(values) * share)) :] if values else []

    @property
    def weight(self) -> tuple[str, float] | None:
        """The setting that holds the policy near the reference, and its value (the last, where it adapts)."""
        adapted = self.series("objective/kl_coef")
        if finite(self.settings.get("kl_target")) and adapted:
            return "kl_coef", adapted[-1]
        for name in ("kl_coef", "beta"):
            value = self.settings.get(name)
            if finite(value):
                return name, float(value)
        return None

    def weight_words(self) -> str:
        return f"{self.weight[0]} = {self.weight[1]:g}" if self.weight else "the KL weight"


def more_weight(evidence: ArmEvidence) -> str:
    """How to hold the policy nearer: the setting to change, and what to try."""
    target = evidence.settings.get("kl_target")
    if finite(target):
        return f"lower kl_target (it is {target:g} nats)"
    if evidence.weight is None:
        return "raise the KL weight"
    name, value = evidence.weight
    return f"raise {name}" + (f" (try {3 * value:.2g})" if value > 0 else "")


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean of a stretch of metrics, and its standard error from their scatter (0 for a single one)."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, 0.0
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)


def between(before: Sequence[float], after: Sequence[float]) -> Difference:
    """The difference of two stretches of a metric."""
    (a, a_error), (b, b_error) = mean_error(before), mean_error(after)
    return Difference(a, b, math.hypot(a_error, b_error))


def graded(
    evidence: ArmEvidence, *, better: Severity = "note", same: Severity = "warning", worse: Severity = "problem"
) -> Severity:
    """How bad something is, by what became of the judge's score."""
    return {"better": better, "worse": worse}.get(evidence.outcome, same)  # pyright: ignore[reportReturnType]


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def joined(*parts: str) -> str:
    """Clauses that are there, with semicolons."""
    return "; ".join(p for p in parts if p)
