"""The diagnosis of every arm over its seeds, from what the study read of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tastemaker.methods import METHODS
from tastemaker.runs import Run
from tastemaker.studies.arms import Arm
from tastemaker.studies.diagnosis import ORDER as SEVERITIES
from tastemaker.studies.diagnosis import ArmEvidence, Finding, checked, diagnose

if TYPE_CHECKING:
    from tastemaker.studies.compare import Plan

Results = Mapping[str, Mapping[str, Any]]


def findings(plan: Plan, results: Results, arm: Arm, label: str) -> dict[str, Any]:
    """`diagnosis`: what was found in the arm's runs at one setting, the worst first, each with the seeds it was
    found in (its words and numbers are the first of them); `diagnosis_summary`: one sentence, which says for a
    healthy arm what was looked at.
    """
    seeds = plan.seeds
    evidence = [evidence_of(plan, results, arm, label, seed) for seed in seeds]
    found = merged([diagnose(e) for e in evidence], seeds)
    return {"diagnosis": found, "diagnosis_summary": in_words(found, evidence[0], len(seeds))}


def evidence_of(plan: Plan, results: Results, arm: Arm, label: str, seed: int) -> ArmEvidence:
    made, read = results[f"{arm.name}:{label}-{seed}"], results[f"read-{arm.name}:{label}-{seed}"]
    sft = results[f"read-sft-{seed}"]["sampled"]["summary"]
    run = Run.open(made["run"])
    return ArmEvidence(
        method=arm.method,
        settings=run.record.settings,
        metrics=run.metrics(),
        sft=sft,
        reading=read["sampled"]["summary"],
        greedy=read["greedy"]["summary"],
        watch=results.get(f"curve-{arm.name}:{label}-{seed}", {}).get("points", ()),
        pairs={**read["pairs"], "own_logp_per_token": sft["reference_logps"]["mean"]},
        stopped=made["stopped"],
        judge_is_gold=plan.spec is not None,
        proxy_optimised=arm.kind == "method" and "reward" in METHODS[arm.method].roles,
    )


def merged(by_seed: Sequence[Sequence[Finding]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One entry for each code, with its worst severity."""
    entries: dict[str, dict[str, Any]] = {}
    for seed, found in zip(seeds, by_seed, strict=True):
        for finding in found:
            entry = entries.setdefault(finding.code, {**finding.as_dict(), "seeds": []})
            entry["seeds"].append(seed)
            if SEVERITIES.index(finding.severity) < SEVERITIES.index(entry["severity"]):
                entry.update(finding.as_dict())
    return sorted(entries.values(), key=lambda e: (SEVERITIES.index(e["severity"]), -len(e["seeds"])))


def in_words(found: Sequence[Mapping[str, Any]], evidence: ArmEvidence, seeds: int) -> str:
    if found:
        told = [
            f"{entry['code'].replace('_', ' ')} ({entry['severity']}, {len(entry['seeds'])} of {seeds} seeds)"
            for entry in found
        ]
        return "; ".join(told)
    looked, missing = checked(evidence)
    left = f"; not looked at, for want of readings: {', '.join(missing)}" if missing else ""
    return f"healthy: nothing was found (looked at {', '.join(looked)}){left}"
