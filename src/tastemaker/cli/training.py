"""Commands that train: one for each method, `compare`, `run`.

What needs torch is imported when a command acts, after its command line has been found right.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler

from tastemaker.cli.catalogue import (
    CONFIG,
    INPUTS,
    REWARD,
    Declared,
    Option,
    compare_options,
    declared_methods,
    declared_options,
    declared_sample,
    train_options,
)
from tastemaker.cli.command import Command
from tastemaker.cli.help import console
from tastemaker.cli.layers import Request, Types, UsageError, as_usage
from tastemaker.cli.progress import progress
from tastemaker.cli.study import board, show_study
from tastemaker.config import (
    GROUPS,
    RECIPE_ENDINGS,
    VARIANTS,
    CompareSettings,
    method_and_settings,
    method_of,
    nearest,
    settings_from,
)

if TYPE_CHECKING:
    from tastemaker.runs import Run


# --------------------------------------------------------------------------------------------- methods


def method_command(method: Declared) -> Command:
    return Command(
        name=method.name,
        summary=method.summary,
        usage="--model M --data D [--out DIR] [--config FILE] [OPTIONS]",
        examples=(f"tastemaker {method.name} --model tiny --data data.jsonl --out runs/{method.name}",),
        options=lambda: _method_options(method),
        act=lambda request: _train(method.name, request),
        also=("method",),
        notes=("TRL's names are understood too (--model_name_or_path, --output_dir, --bf16, ...).",),
    )


def _method_options(method: Declared) -> tuple[Option, ...]:
    """What goes in, the method's own settings, the run's. The method's defaults show as defaults."""
    inputs = tuple(replace(o, default=o.default.replace("METHOD", method.name)) for o in INPUTS)
    reward = (REWARD,) if method.needs_reward else ()
    own = {o.name for o in method.options}
    of_run = [
        replace(o, default=str(method.defaults[o.name])) if o.name in method.defaults else o
        for o in train_options()
        if o.name not in own
    ]
    order = ("training", "model", "data")
    of_run.sort(key=lambda o: order.index(o.group))
    return (*inputs, *reward, CONFIG, *method.options, *of_run)


def _train(name: str, request: Request) -> None:
    from tastemaker.methods import METHODS
    from tastemaker.training import train
    from tastemaker.training.rehearsal import starting_model

    values = dict(request.values)
    inputs = {key: values.pop(key, None) for key in ("model", "data", "out", "eval_data", "reward")}
    meant = values.pop("method", name)
    if meant != name:
        raise UsageError(f"method: the file is for {meant}: `tastemaker {meant} --config ...`")
    with as_usage():
        method, settings = method_and_settings(METHODS[name], values, origin=f"tastemaker {name}")
    out = console()
    log_to(out, settings.log_level)
    with progress(out, name) as report:
        run = train(
            method,
            model=starting_model(inputs["model"], inputs["data"], method.consumes, settings.seed),
            data=inputs["data"],
            out=inputs["out"] or f"runs/{name}",
            reward=inputs["reward"],
            eval_data=inputs["eval_data"],
            settings=settings,
            progress=report,
        )
    show_run(out, run)


def show_run(out: Console, run: Run, note: str = "") -> None:
    """A line on what came of a run, and where it lies."""
    reason = f": {run.record.reason}" if run.record.reason else ""
    out.print(
        f"{run.name}: {run.method}, {run.status}{reason}{note}", markup=False, style="bold", soft_wrap=True
    )
    made = ("model    ", run.model_dir) if run.data_file is None else ("data     ", run.data_file)
    out.print(f"  {made[0]}{made[1]}", markup=False, soft_wrap=True)
    out.print(f"  metrics  {run.metrics_file}", markup=False, soft_wrap=True)
    if (run.folder / "gold.json").is_file() and not out.quiet:  # one process writes
        from tastemaker.studies.pages.gold_peak import write_peak_page

        out.print(f"  gold     {write_peak_page(run)}", markup=False, soft_wrap=True)


def log_to(out: Console, level: str) -> None:
    """Sends what the package logs to the terminal, or to the file in its place."""
    handler: logging.Handler = RichHandler(console=out, show_path=False, show_time=False)
    if out.quiet:
        handler = logging.NullHandler()
    elif not out.is_terminal:
        handler = logging.StreamHandler(out.file)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("tastemaker").setLevel(level.upper())


# --------------------------------------------------------------------------------------------- compare


def _stage_types() -> dict[str, Types]:
    """What `--stage.setting` takes in a comparison."""
    of_run = {o.name: o.kind for o in train_options()}
    stages: dict[str, Types] = {"all": of_run}
    for method in declared_methods().values():
        stages[method.name] = {**of_run, **{o.name: o.kind for o in method.options}}
    for variant in VARIANTS:
        stages[variant] = stages[method_of(variant)]
    for group in GROUPS:
        stages[group] = of_run
    return stages


def _compare(request: Request) -> None:
    asked = request.values.get("methods", ())
    known = (*declared_methods(), *GROUPS)
    unknown = [m for m in asked if method_of(m) not in known and not m.endswith(RECIPE_ENDINGS)]
    if unknown:
        close = nearest(unknown[0], known)
        hint = f"; did you mean {close[0]}?" if close else f"; there are {_names()} (or name a recipe's file)"
        raise UsageError(f"--methods: no such method: {', '.join(unknown)}{hint}")
    with as_usage():
        settings = settings_from(
            CompareSettings, {**request.values, "stages": request.stages}, origin="tastemaker compare"
        )
    from tastemaker.studies.compare import compare

    out = console()
    log_to(out, "info")
    with board(out, settings.workers or os.cpu_count() or 1) as listen:
        study = compare(settings, listen=listen)
    show_study(out, study)


def _names() -> str:
    return ", ".join(declared_methods())


COMPARE = Command(
    name="compare",
    summary="Trains the same start with several methods on the same preferences, and says what each changed.",
    usage="[--model M --data D] [--methods dpo,ppo] [--seeds N] [--out DIR] [--STAGE.SETTING VALUE ...]",
    examples=(
        "tastemaker compare                                            # the embedded town, minutes on 2 cores",
        "tastemaker compare --model tiny --data pairs.jsonl --methods dpo,ppo --seeds 3",
        "tastemaker compare --preset small --methods all-offline --seeds 3     # or dpo,dpo:ipo,simpo,...",
        "tastemaker compare --runs runs/dpo runs/ppo --data pairs.jsonl       # what is trained already",
        "tastemaker compare --sft.max-steps 50 --dpo.beta 0.05 --all.use-peft",
    ),
    options=lambda: (*compare_options(), replace(CONFIG, group="comparison")),
    act=_compare,
    stages=_stage_types,
    notes=(
        "Settings of a stage: --STAGE.SETTING, STAGE being sft, reward, a method, or all. "
        "`tastemaker METHOD --help` lists them. In a file: the stage's name with its settings below.",
    ),
)


# --------------------------------------------------------------------------------------------- pipelines


def _recipe_options() -> tuple[Option, ...]:
    """Everything a recipe's top may hold, shown briefly: the rest is for its stages."""
    out = Option("out", str, "the recipe's", "Folder for the stages' runs.", "run")
    shared = [replace(o, default="the recipe's") for o in INPUTS if o.name in ("model", "data")]
    return (out, *shared)


ADDED = ("MakePart", "MakePeople", "MakeJoin")
MAKERS = ("MakeTown", "MakePrompts", "MakeSamples", "MakeLabels", "MakeRevisions", "MakeMerge", *ADDED)
"""Classes of studies/making.py, those `ADDED` of studies/rounds/stages.py; a test holds that these are all."""


def _maker_types() -> Types:
    """Settings of stages that make things; `object`: anything goes until the class itself is at hand."""
    judge = declared_options(("training", "judging.py"), "JudgeSettings", "stage")
    files = {cls: ("rounds", "stages.py") if cls in ADDED else ("making.py",) for cls in MAKERS}
    own = [o for cls in MAKERS for o in declared_options(("studies", *files[cls]), cls, "stage")]
    return {o.name: o.kind for o in (*judge, *own)}


def any_stage_types() -> Types:
    """Settings that some stage of a chain takes."""
    types = {**_maker_types(), **{o.name: o.kind for o in (*INPUTS, REWARD, *train_options())}}
    for method in (*declared_methods().values(), declared_sample()):
        types.update({o.name: o.kind for o in method.options})
    return types


def _run(request: Request) -> None:
    if not request.words:
        raise UsageError("missing: the recipe, a YAML file")
    from tastemaker.studies.chain import is_chain
    from tastemaker.studies.pipeline import run_pipeline
    from tastemaker.studies.recipe import load_recipe

    with as_usage():
        chained = is_chain(request.words[0])
    if chained:
        _run_chain(request)
        return
    with as_usage():
        recipe = load_recipe(request.words[0], request.values, request.stages)
    out = console()
    log_to(out, "info")
    for result in run_pipeline(recipe, progress=partial(progress, out)):
        show_run(out, result.run, " (reused: its inputs are unchanged)" * result.reused)


def _run_chain(request: Request) -> None:
    """A recipe with stages that make things."""
    from tastemaker.studies.chain import load_chain, run_chain

    with as_usage():
        chain = load_chain(request.words[0], request.values, request.stages)
    out = console()
    log_to(out, "info")
    for made in run_chain(chain, progress=partial(progress, out)):
        note = " (reused: its inputs are unchanged)" * made.reused
        if made.run is not None:
            show_run(out, made.run, note)
        else:
            out.print(f"{made.folder.name}: {made.step.method}, made{note}", markup=False, style="bold")
            out.print(f"  {made.result}", markup=False, soft_wrap=True)


RUN = Command(
    name="run",
    summary="Runs a recipe: a pipeline of stages. A stage whose inputs are unchanged is reused.",
    usage="RECIPE.yaml [--model M] [--data D] [--out DIR] [--STAGE.SETTING VALUE ...]",
    examples=("tastemaker run recipes/rlhf.yaml --model tiny --data pairs.jsonl --sft.max-steps 50",),
    options=_recipe_options,
    act=_run,
    any_stage=any_stage_types,
    words=1,
    notes=(
        "Settings of a stage: --STAGE.SETTING, STAGE being a stage's name in the recipe, or all. "
        "recipes/rlhf.yaml shows what a recipe looks like.",
    ),
)
