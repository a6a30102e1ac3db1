"""Whether an arm was optimised past the point where it got better, and by what.

A curve is what `watch` leaves of one run: readings of its policy every few steps on the same prompts, with
the mean score of the reward model (the proxy) and of the judge, their standard errors, the KL to the start
and how the answers look. The proxy rising while the judge falls is over-optimisation (Gao et al. 2022,
arXiv:2210.10760); what else moved between the judge's peak and the end says by what.

All readings answer the same prompts, so the true error of a difference is smaller than that of two
independent means; of the readings only means and errors are known, so differences are given the error of
independent means. It is too large if anything: the alarm errs on the side of silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeGuard

import torch

from tastemaker.functional import GaoFit, fit_gao
from tastemaker.functional.overoptimisation import Form
from tastemaker.studies.behaviour import movement_words, movements

Points = Sequence[Mapping[str, Any]]

ERROR_RATE = 0.005
"""Chance at which the judge may be said to fall where it does not, over all windows that could be its peak."""
CLEAR = 3.0
"""Standard errors beyond which a single difference, chosen beforehand, counts."""
RISING = 2.33
"""Standard errors for the proxy's rise, which is asked for only where the judge is known to have fallen."""
WORTH = 0.1
"""A fall counts if it loses this share of what had been gained: with many prompts any wiggle is certain."""

SPOKEN = 5
"""Behaviours named in a sentence; all of them stand in the data."""


@dataclass(frozen=True)
class Window:
    """Neighbouring readings as one: less noise, and a place on the curve."""

    points: Points

    @property
    def best(self) -> Mapping[str, Any]:
        """Its highest reading by the judge, which says where on the curve it lies."""
        return max(self.points, key=lambda p: p["score"])

    @property
    def step(self) -> int:
        return int(self.best["step"])

    def mean(self, name: str) -> tuple[float, float]:
        """Mean over its readings and the error of that mean; the error is NaN where one is not known."""
        known = [(p[name], p.get(f"{name}_se")) for p in self.points if finite(p.get(name))]
        if not known:
            return math.nan, math.nan
        errors = [e if finite(e) else math.nan for _, e in known]
        return sum(v for v, _ in known) / len(known), math.hypot(*errors) / len(known)


@dataclass(frozen=True)
class Difference:
    """`after` less `before`, in values and in standard errors."""

    before: float
    after: float
    error: float

    @property
    def change(self) -> float:
        return self.after - self.before

    @property
    def z(self) -> float:
        """0 where the error is not known: then nothing is certain."""
        if not finite(self.change) or not finite(self.error) or self.change == 0:
            return 0.0
        return self.change / self.error if self.error > 0 else math.copysign(math.inf, self.change)


def difference(name: str, before: Window, after: Window) -> Difference:
    """Of one column between two windows, with the error of independent means."""
    (a, a_error), (b, b_error) = before.mean(name), after.mean(name)
    return Difference(a, b, math.hypot(a_error, b_error))


def finite(value: object) -> TypeGuard[float]:
    """A number that can be reckoned with; metrics and readings have None or NaN where there is none."""
    return isinstance(value, int | float) and math.isfinite(value)


# ------------------------------------------------------------------------------------------- one curve


def read_curve(
    points: Points, *, form: Form = "rl", judge: str = "the judge", optimised: bool = True
) -> dict[str, Any]:
    """What the readings of one run say of over-optimisation, as plain JSON data (None where unknown).

    Args:
        points: readings in the form of `watch`, step 0 (the SFT policy) among them; any order. Without a
            proxy there is no alarm, but still a peak.
        form: the law to fit; "rl" also fits DPO.
        judge: what to call the judge.
        optimised: the proxy is the reward that the arm maximises (False for DPO, which never sees it).

    Returns:
        `points`, how many; `fits`: proxy and score -> the fitted law (`functional.GaoFit` as a dict) or None;
        `peak` of the judge's score: `measured` (the highest reading), `smoothed` (the highest mean of `window`
        neighbours, with its error), `fitted`, and `passed`, whether the end lies below it beyond errors;
        `change` of proxy and score since the start and since the peak, each `before`, `after`, `error`;
        `alarm`; `since`, "peak" or "start", what the alarm is about; `behaviours` that moved clearly, largest
        first (see `behaviour.movements`); and `text`.
    """
    known = sorted(
        (p for p in points if all(finite(p.get(n)) for n in ("step", "kl", "score"))),
        key=lambda p: p["step"],
    )
    empty = {"proxy": None, "score": None}
    result: dict[str, Any] = {
        "points": len(known),
        "fits": dict(empty),
        "peak": None,
        "change": None,
        "alarm": False,
        "since": None,
        "behaviours": [],
        "text": "too few readings to tell",
    }
    if len(known) < 3:
        return result
    result["fits"] = {name: fit_of(known, name, form) for name in empty}
    windows = windows_of(known)
    start, end = Window(known[:1]), windows[-1]
    peak = max([start, *windows], key=lambda w: w.mean("score")[0])
    since_peak = {name: difference(name, peak, end) for name in empty}
    since_start = {name: difference(name, start, end) for name in empty}
    passed = fell(since_peak["score"], peak, start, len(windows) + 1)
    since = None
    if passed and since_peak["proxy"].z > RISING:
        since = "peak"
    elif since_start["score"].z < -CLEAR and since_start["proxy"].z > CLEAR:
        since = "start"
    before = start if since == "start" else peak
    result["peak"] = peak_of(known, peak, result["fits"]["score"]) | {"passed": passed}
    result["change"] = {"start": plain_all(since_start), "peak": plain_all(since_peak)}
    result["alarm"], result["since"] = since is not None, since
    if passed or since is not None:
        result["behaviours"] = movements(known, before.points, end.points)
    result["text"] = spoken(result, peak, end, judge, "its reward" if optimised else "the reward model")
    return result


def windows_of(points: Points) -> list[Window]:
    """Runs of neighbours: a fifth of the readings, at most five of them; the last one ends at the end. The
    start is no neighbour: it is the one reading before anything happened.
    """
    width = max(1, min(5, len(points) // 5))
    after = points[1:]
    return [Window(after[i : i + width]) for i in range(len(after) - width + 1)]


def fell(change: Difference, peak: Window, start: Window, candidates: int) -> bool:
    """Whether the end lies below the peak beyond what picking the highest of `candidates` brings by itself.

    The end is one of them, so each of the others is a chance to look higher (Bonferroni).
    """
    gained = peak.mean("score")[0] - start.mean("score")[0]
    limit = NormalDist().inv_cdf(1 - ERROR_RATE / candidates)
    return change.z < -limit and -change.change > WORTH * gained


def fit_of(points: Points, name: str, form: Form) -> dict[str, Any] | None:
    """The law fitted to the gains of one score over the start, where the errors are known by them."""
    scored = [p for p in points if finite(p.get(name))]
    if not scored or scored[0] is not points[0]:
        return None
    start = points[0][name]
    errors = [p.get(f"{name}_se", math.nan) for p in scored]
    known = all(finite(e) and e > 0 for e in errors)
    fit = fit_gao(
        tensor([p["kl"] for p in scored[1:]]),
        tensor([p[name] - start for p in scored[1:]]),
        form=form,
        errors=tensor(errors[1:]) if known else None,
        shared_error=errors[0] if known else 0.0,
    )
    return as_dict(fit) if fit is not None else None


def as_dict(fit: GaoFit) -> dict[str, Any]:
    return fit._asdict()


def tensor(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def peak_of(points: Points, peak: Window, fit: Mapping[str, Any] | None) -> dict[str, Any]:
    """Where the judge's score is highest, by three ways of looking."""
    highest = max(points, key=lambda p: p["score"])
    mean, error = peak.mean("score")
    fitted = None
    if fit is not None and fit["peak_kl"] is not None:
        fitted = {"kl": fit["peak_kl"], "gain": fit["peak_gain"], "inside": fit["inside"]}
    return {
        "measured": {
            "step": int(highest["step"]),
            "kl": float(highest["kl"]),
            "score": float(highest["score"]),
            "se": plain(highest.get("score_se")),
        },
        "smoothed": {
            "step": peak.step,
            "kl": float(peak.best["kl"]),
            "score": plain(mean),
            "se": plain(error),
            "window": len(peak.points),
        },
        "fitted": fitted,
    }


def plain(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def plain_all(changes: Mapping[str, Difference]) -> dict[str, dict[str, float | None]]:
    return {
        name: {"before": plain(d.before), "after": plain(d.after), "error": plain(d.error)}
        for name, d in changes.items()
    }


def spoken(result: Mapping[str, Any], peak: Window, end: Window, judge: str, proxy: str) -> str:
    """The reading of one curve in a sentence or three."""
    since_start, since_peak = result["change"]["start"], result["change"]["peak"]
    reached = f"{end.points[-1]['kl']:.1f} nats"
    if not result["alarm"]:
        if result["peak"]["passed"]:
            return fallen_words(since_peak, peak, reached, judge, proxy) + moved_words(result["behaviours"])
        return f"no sign of over-optimisation up to {reached}: {judge} did not fall clearly"
    score = since_start["score"] if result["since"] == "start" else since_peak["score"]
    proxies = since_start["proxy"] if result["since"] == "start" else since_peak["proxy"]
    where = "the start" if result["since"] == "start" or peak.step == 0 else f"step {peak.step}"
    place = "" if where == "the start" else f" ({peak.best['kl']:.1f} nats)"
    return (
        f"over-optimised: since {where}{place} {proxy} rose from {proxies['before']:+.2f} to "
        f"{proxies['after']:+.2f} while {judge} fell from {score['before']:+.2f} to {score['after']:+.2f} "
        f"(at {reached})" + moved_words(result["behaviours"])
    )


def fallen_words(
    since: Mapping[str, Mapping[str, float | None]], peak: Window, reached: str, judge: str, proxy: str
) -> str:
    """A judge that fell without the proxy rising."""
    score, other = since["score"], since["proxy"]
    where = "the start" if peak.step == 0 else f"step {peak.step}"
    text = f"{judge} fell from {score['before']:+.2f} at {where} to {score['after']:+.2f} at {reached}"
    before, after, error = other["before"], other["after"], other["error"]
    if before is None or after is None or error is None:
        return text
    if Difference(before, after, error).z < -RISING:
        return f"{text}, and {proxy} from {before:+.2f} to {after:+.2f}: the policy got worse by both"
    return f"{text}, while {proxy} stayed where it was ({before:+.2f} to {after:+.2f})"


def moved_words(behaviours: Sequence[Mapping[str, Any]]) -> str:
    """What moved, at most so many as a sentence holds."""
    if not behaviours:
        return "; no behaviour that is watched moved clearly with it"
    return "; " + ", ".join(b["text"] for b in behaviours[:SPOKEN])


# ------------------------------------------------------------------------------------------- several seeds


def over_seeds(curves: Sequence[Mapping[str, Any]], *, judge: str = "the judge") -> dict[str, Any]:
    """The readings of one arm and setting over seeds, from `read_curve`'s results.

    `seeds`; `alarms` and `passed`, in how many; `peak_kl`, for every seed in order where its judge's smoothed
    score was highest; `behaviours`, those that moved where there was an alarm, with the `seeds` they moved in
    and the mean `before` and `after` over these, the most frequent first; and `text`.
    """
    number = len(curves)
    alarmed = [c for c in curves if c["alarm"]]
    found: dict[str, Any] = {
        "seeds": number,
        "alarms": len(alarmed),
        "passed": sum(bool(c["peak"] and c["peak"]["passed"]) for c in curves),
        "peak_kl": [c["peak"]["smoothed"]["kl"] if c["peak"] else None for c in curves],
        "behaviours": merged(alarmed),
    }
    if not curves or all(c["peak"] is None for c in curves):
        return found | {"text": "too few readings to tell"}
    if not alarmed:
        fallen = f"; {judge} fell in {found['passed']}" if found["passed"] else ""
        return found | {"text": f"no over-optimisation in {count(0, number)}{fallen}"}
    words = [f"{b['text']} ({count(b['seeds'], number)})" for b in found["behaviours"][:SPOKEN]]
    text = f"over-optimised in {count(len(alarmed), number)}: the proxy rose while {judge} fell"
    return found | {"text": text + ("; " + ", ".join(words) if words else "")}


def count(some: int, number: int) -> str:
    if number == 1:
        return "the one seed"
    return f"{some if some else 'any'} of {number} seeds"


def merged(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Behaviours of several curves by name and direction."""
    groups: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for curve in curves:
        for each in curve["behaviours"]:
            groups.setdefault((each["name"], each["after"] > each["before"]), []).append(each)
    found = [summed(name, group) for (name, _), group in groups.items()]
    return sorted(found, key=lambda b: (-b["seeds"], -b["size"]))


def summed(name: str, group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One behaviour over the seeds that it moved in."""
    means = {key: sum(b[key] for b in group) / len(group) for key in ("before", "after", "size")}
    words = movement_words(name, means["before"], means["after"])
    return {"name": name, "seeds": len(group), **means, "text": words}
