"""How often the comparison is wrong, and what it can see: studies whose truth is known, in numbers.

    python benchmarks/simulated_truth.py [--studies 1000]

Prints the tables of docs/compare.md: how often identical arms are given a winner, and how often a true
difference is found against what `tastemaker.studies.power` states. About 2.5 ms of CPU a study, 7 ms with four
arms.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from simulated_studies import Design, rate_of_winners, study
from tastemaker.functional import Spread
from tastemaker.studies.power import detectable, power, seeds_needed

SEEDS = (2, 3, 5, 8)
FOUR = {"levels": (0.0,) * 4, "settings": (2,) * 4}
IDENTICAL = {
    "2 arms, runs 0": {"runs": 0.0},
    "2 arms, runs 0.05": {"runs": 0.05},
    "2 arms, runs 0.15": {"runs": 0.15},
    "2 arms, runs 0.3": {"runs": 0.3},
    "2 arms, runs 0.05 and 0.3": {"runs": (0.05, 0.3)},
    "2 arms, heavy tails": {"heavy": True},
    "2 arms, 1 setting each": {"settings": (1, 1)},
    "2 arms, 4 settings each": {"settings": (4, 4)},
    "2 arms, 1 setting against 4": {"settings": (1, 4)},
    "2 arms, 1 against 4, runs 0.3": {"settings": (1, 4), "runs": 0.3},
    "4 arms": FOUR,
    "4 arms, runs 0.05 0.05 0.05 0.3": {**FOUR, "runs": (0.05, 0.05, 0.05, 0.3)},
    "4 arms, two far below": {**FOUR, "levels": (0.0, 0.0, -2.0, -2.0)},
}


def needed(studies: int, effect: float = 0.25, runs: float = 0.15) -> None:
    """What undecided studies say of the seeds that it takes, against the truth."""
    spread = Spread(seeds=2 * runs**2, prompts=0.0, within=2 * Design.answers**2)
    truth = seeds_needed(effect, spread, Design.prompts)
    print(f"\nSeeds needed for {effect} at runs {runs}: {truth}. Of undecided studies half said\n")
    print("| seeds | undecided | from | to |\n|---|---|---|---|")
    for seeds in SEEDS:
        generator = torch.Generator().manual_seed(seeds)
        design = Design(seeds=seeds, levels=(0.0, effect), runs=runs, settings=(1, 1))
        found = [study(design, generator) for _ in range(studies)]
        said = [v["pairs"][0]["power"]["seeds_needed"] or math.inf for v in found if v["winner"] is None]
        said.sort()
        quarter = len(said) // 4
        print(f"| {seeds} | {len(said) / studies:.0%} | {said[quarter]:.0f} | {said[-1 - quarter]:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    studies = parser.parse_args().studies
    torch.set_num_threads(1)
    print("Winners among identical arms, share of studies\n")
    print(f"| seeds | {' | '.join(map(str, SEEDS))} |\n|---|{'---|' * len(SEEDS)}")
    for name, changes in IDENTICAL.items():
        rates = [rate_of_winners(Design(seeds=n, **changes), studies, n) for n in SEEDS]
        print(f"| {name} | {' | '.join(f'{r:.1%}' for r in rates)} |", flush=True)
    print("\nA difference found with 80% probability, and how often it and half of it were found\n")
    print("| seeds | runs | difference | stated | found | after choosing among 2 | stated at half | found |")
    print(f"|{'---|' * 8}")
    for seeds in SEEDS:
        for runs in (0.05, 0.15, 0.3):
            # a difference of two arms has the luck of two runs and of two answers
            spread = Spread(seeds=2 * runs**2, prompts=0.0, within=2 * Design.answers**2)
            effect = detectable(spread, seeds, Design.prompts)
            found = [
                rate_of_winners(
                    Design(seeds=seeds, levels=(0.0, e), runs=runs, settings=tried), studies, seeds, "arm1"
                )
                for e, tried in ((effect, (1, 1)), (effect, (2, 2)), (effect / 2, (1, 1)))
            ]
            half = power(effect / 2, spread, seeds, Design.prompts)
            print(
                f"| {seeds} | {runs} | {effect:.2f} | 80% | {found[0]:.0%} | {found[1]:.0%} | {half:.0%} | "
                f"{found[2]:.0%} |",
                flush=True,
            )
    needed(studies)


if __name__ == "__main__":
    main()
