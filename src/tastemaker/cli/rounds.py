"""`tastemaker rounds`: sample, label, train, and again.

What needs torch is imported when the command acts, after its command line has been found right.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tastemaker.cli.catalogue import INPUTS, Option, declared_options
from tastemaker.cli.command import Command
from tastemaker.cli.help import console
from tastemaker.cli.layers import Request, UsageError, as_usage
from tastemaker.cli.progress import progress
from tastemaker.cli.training import any_stage_types, log_to, show_run

if TYPE_CHECKING:
    from rich.console import Console

    from tastemaker.studies.chain import Made


def _options() -> tuple[Option, ...]:
    own = declared_options(("studies", "rounds", "recipe.py"), "RoundsSettings", "rounds")
    return (
        Option("out", str, "the recipe's", "Folder for the stages, their runs and the pages.", "run"),
        *(Option(o.name, o.kind, "the recipe's", o.text, "run") for o in INPUTS if o.name in ("model", "data")),
        Option(
            "wait",
            float | None,
            "as long as it takes",
            "Minutes to wait for people's next label; 0: not.",
            "run",
        ),
        *own,
    )


def _rounds(request: Request) -> None:
    if not request.words:
        raise UsageError("missing: the recipe, a YAML file")
    from tastemaker.studies.rounds.recipe import load_rounds
    from tastemaker.studies.rounds.run import run_rounds

    values: dict[str, Any] = dict(request.values)
    wait = values.pop("wait", None)
    if wait is not None and wait < 0:
        raise UsageError(f"wait = {wait:g}: should be 0 or more minutes")
    with as_usage():
        rounds = load_rounds(request.words[0], values, request.stages)
    out = console()
    log_to(out, "info")

    def reported(number: int, page: Path) -> None:
        out.print(Text(f"round {number}  {page}", style="bold"), soft_wrap=True)

    run_rounds(
        rounds, wait=wait, progress=partial(progress, out), listen=partial(_show, out), reported=reported
    )
    out.print(Text(f"all rounds  {rounds.chain.out / 'report.html'}", style="bold"), soft_wrap=True)


def _show(out: Console, made: Made) -> None:
    note = " (reused: its inputs are unchanged)" * made.reused
    if made.run is not None:
        show_run(out, made.run, note)
    else:
        out.print(f"{made.folder.name}: {made.step.method}, made{note}", markup=False, soft_wrap=True)


ROUNDS = Command(
    name="rounds",
    summary="Online rounds: the policy writes, people or a judge label, a policy learns; and again.",
    usage="RECIPE.yaml [--out DIR] [--rounds N] [--wait MINUTES] [--STAGE.SETTING VALUE ...]",
    examples=(
        "tastemaker rounds recipes/rounds/dpo.yaml                  # simulated people of the embedded town",
        "tastemaker rounds recipes/rounds/people.yaml --model runs/sft --data prompts.jsonl --wait 0",
        "tastemaker rounds recipes/rounds/ppo.yaml --rounds 2 --ppo.kl-coef 0.1",
    ),
    options=_options,
    act=_rounds,
    any_stage=any_stage_types,
    words=1,
    notes=(
        "Settings of a stage: --STAGE.SETTING for all rounds, --STAGE_2.SETTING for the second. Interrupted at "
        "any moment, the same command goes on. docs/rounds.md says what a recipe holds.",
    ),
)
