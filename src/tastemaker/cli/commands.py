"""The commands: what each takes, and the call of the public API it comes to.

What needs torch is imported when a command acts, after its command line has been found right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.logging import RichHandler
from rich.table import Table

from tastemaker.cli.catalogue import (
    CONFIG,
    INPUTS,
    REWARD,
    Declared,
    Option,
    compare_options,
    declared_methods,
    train_options,
)
from tastemaker.cli.help import console, show_command
from tastemaker.cli.layers import Request, Types, UsageError, as_usage, gather
from tastemaker.config import CompareSettings, settings_from

if TYPE_CHECKING:
    from tastemaker.runs import Run

FOLDER = Option("folder", str, "runs", "Folder that holds the runs.", "run")


@dataclass(frozen=True)
class Command:
    """One word after `tastemaker`."""

    name: str
    summary: str
    usage: str
    examples: tuple[str, ...]
    options: Callable[[], tuple[Option, ...]]
    act: Callable[[Request], None]
    stages: Callable[[], Mapping[str, Types]] | None = None
    """Settings by stage, given as `--stage.setting`."""
    any_stage: Callable[[], Types] | None = None
    """As `stages`, where stages have the user's own names."""
    words: int = 0
    """Words it takes beside options."""
    notes: tuple[str, ...] = ()

    def run(self, argv: Sequence[str]) -> None:
        """Reads the command line, then shows help or acts. Raises `UsageError`, `TastemakerError`."""
        options = self.options()
        request = gather(
            argv,
            {o.name: o.kind for o in options},
            stages=self.stages() if self.stages else None,
            any_stage=self.any_stage() if self.any_stage else None,
            words=self.words,
        )
        if request.help:
            show_command(self.name, self.summary, self.usage, self.examples, options, self.notes)
            return
        missing = [f"--{o.name}" for o in options if not o.default and request.values.get(o.name) is None]
        if missing:
            raise UsageError(f"missing: {', '.join(missing)}")
        self.act(request)


@cache
def commands() -> Mapping[str, Command]:
    """All commands by name. Every method is one."""
    methods = [_method_command(m) for m in declared_methods().values()]
    return {c.name: c for c in (COMPARE, *methods, RUN, RUNS, EXPORT, METHODS_LIST)}


# --------------------------------------------------------------------------------------------- methods


def _method_command(method: Declared) -> Command:
    return Command(
        name=method.name,
        summary=method.summary,
        usage="--model M --data D [--out DIR] [--config FILE] [OPTIONS]",
        examples=(f"tastemaker {method.name} --model tiny --data data.jsonl --out runs/{method.name}",),
        options=lambda: _method_options(method),
        act=lambda request: _train(method.name, request),
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
    from tastemaker.config import method_and_settings
    from tastemaker.methods import METHODS
    from tastemaker.train.run import train

    values = dict(request.values)
    inputs = {key: values.pop(key, None) for key in ("model", "data", "out", "eval_data", "reward")}
    values.pop("config", None)
    with as_usage():
        method, settings = method_and_settings(METHODS[name], values, origin=f"tastemaker {name}")
    _log_to_terminal(settings.log_level)
    if inputs["reward"] is None:
        del inputs["reward"]
    run = train(method, **{**inputs, "out": inputs["out"] or f"runs/{name}"}, settings=settings)
    _show_run(run)


def _show_run(run: Run) -> None:
    out = console()
    out.print(f"[bold]{run.name}[/]: {run.method}, {run.status}")
    out.print(f"  model  {run.model_dir}")
    out.print(f"  record {run.folder}")


def _log_to_terminal(level: str) -> None:
    handler = RichHandler(console=console(), show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("tastemaker").setLevel(level.upper())


# --------------------------------------------------------------------------------------------- compare


def _stage_types() -> dict[str, Types]:
    """What `--stage.setting` takes in a comparison."""
    of_run = {o.name: o.kind for o in train_options()}
    stages: dict[str, Types] = {"all": of_run}
    for method in declared_methods().values():
        stages[method.name] = {**of_run, **{o.name: o.kind for o in method.options}}
    return stages


def _compare(request: Request) -> None:
    unknown = [m for m in request.values.get("methods", ()) if m not in declared_methods()]
    if unknown:
        raise UsageError(f"--methods: no such method: {', '.join(unknown)}; there are {_names()}")
    values = {k: v for k, v in request.values.items() if k != "config"}
    with as_usage():
        settings = settings_from(
            CompareSettings, {**values, "stages": request.stages}, origin="tastemaker compare"
        )
    from tastemaker.studies.compare import compare

    _log_to_terminal("info")
    compare(settings)


def _names() -> str:
    return ", ".join(declared_methods())


COMPARE = Command(
    name="compare",
    summary="Trains the same start with several methods on the same preferences, and says what each changed.",
    usage="[--model M --data D] [--methods dpo,ppo] [--seeds N] [--out DIR] [--STAGE.SETTING VALUE ...]",
    examples=(
        "tastemaker compare                                            # the embedded town, minutes on 2 cores",
        "tastemaker compare --model tiny --data pairs.jsonl --methods dpo,ppo --seeds 3",
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


def _any_stage_types() -> Types:
    types = {o.name: o.kind for o in (*INPUTS, REWARD, *train_options())}
    for method in declared_methods().values():
        types.update({o.name: o.kind for o in method.options})
    return types


def _run(request: Request) -> None:
    if not request.words:
        raise UsageError("missing: the recipe, a YAML file")
    from tastemaker.studies.pipeline import load_recipe, run_pipeline

    with as_usage():
        recipe = load_recipe(request.words[0], request.values, request.stages)
    _log_to_terminal("info")
    for result in run_pipeline(recipe):
        _show_run(result.run)


RUN = Command(
    name="run",
    summary="Runs a recipe: a pipeline of stages. A stage whose inputs are unchanged is reused.",
    usage="RECIPE.yaml [--out DIR] [--STAGE.SETTING VALUE ...]",
    examples=("tastemaker run recipes/rlhf.yaml --model tiny --data pairs.jsonl --sft.max-steps 50",),
    options=_recipe_options,
    act=_run,
    any_stage=_any_stage_types,
    words=1,
    notes=("recipes/rlhf.yaml shows what a recipe looks like.",),
)


# --------------------------------------------------------------------------------------------- runs


def _runs(request: Request) -> None:
    action, *rest = [*request.words, *([] if request.words else ["list"])]
    target = rest[0] if rest else None
    if action not in ("list", "show", "tree"):
        raise UsageError(f"runs {action}: give list, show or tree")
    if action == "show" and target is None:
        raise UsageError("runs show: which run? give its folder")
    folder = Path(target or request.values.get("folder", "runs"))
    {"list": _list_runs, "show": _show_record, "tree": _show_trees}[action](folder)


def _list_runs(folder: Path) -> None:
    from tastemaker.runs import list_runs

    table = Table(box=None, pad_edge=False)
    for column in ("run", "method", "status", "steps", "model", "made"):
        table.add_column(column)
    runs = list_runs(folder)
    for run in runs:
        weights = (run.weights_hash or "")[:8]
        table.add_row(
            str(run.folder), run.method, run.status, str(_steps(run)), weights, run.record.created[:16]
        )
    console().print(table if runs else f"no runs in {folder}")


def _steps(run: Run) -> object:
    metrics = run.metrics()
    return metrics[-1].get("step", 0) if metrics else 0


def _show_record(folder: Path) -> None:
    from tastemaker.runs import Run

    run = Run.open(folder)
    record = run.record
    out = console()
    out.print(f"[bold]{run.name}[/]  {run.method}, {run.status}{f': {record.reason}' if record.reason else ''}")
    rows: list[tuple[str, str]] = [
        ("folder", str(run.folder)),
        ("made", f"{record.created} by {record.command}"),
        ("weights", run.weights_hash or "none yet"),
        *((f"parent ({p.role})", f"{p.path}  {p.weights_hash[:8]}") for p in record.parents),
        *(("data", f"{d.source} ({d.rows:,} rows, {d.sha256[:8]})") for d in record.data),
        ("settings", "  ".join(f"{k}={v}" for k, v in sorted(run.settings.items()))),
    ]
    metrics = run.metrics()
    if metrics:
        rows.append(("last step", "  ".join(f"{k}={_number(v)}" for k, v in metrics[-1].items())))
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_trees(folder: Path) -> None:
    from tastemaker.runs import Run, lineage, list_runs, render_tree

    runs = [Run.open(folder)] if Run.is_run(folder) else list_runs(folder)
    parents = {(run.folder / p.path).resolve() for run in runs for p in run.record.parents}
    for run in runs:
        if run.folder not in parents and run.model_dir not in parents:
            console().print(render_tree(lineage(run)), markup=False, soft_wrap=True)


RUNS = Command(
    name="runs",
    summary="Lists runs, shows one, or draws where they came from.",
    usage="list [FOLDER] | show RUN | tree [FOLDER or RUN]",
    examples=("tastemaker runs tree runs/dpo",),
    options=lambda: (FOLDER,),
    act=_runs,
    words=2,
)


# --------------------------------------------------------------------------------------------- the rest


def _export_options() -> tuple[Option, ...]:
    return (
        Option("out", str, "", "Folder to write.", "run"),
        Option("merge", bool, "false", "Merge a LoRA adapter into the weights it belongs to.", "run"),
    )


def _export(request: Request) -> None:
    if not request.words:
        raise UsageError("missing: the run to export")
    from tastemaker.models.export import export_run

    folder: Any = export_run(request.words[0], request.values["out"], merge=request.values.get("merge", False))
    console().print(f"written: {folder}")


EXPORT = Command(
    name="export",
    summary="Writes a run's model as a plain Hugging Face folder, for transformers, peft, vLLM or TRL.",
    usage="RUN --out DIR [--merge]",
    examples=("tastemaker export runs/dpo --out model --merge",),
    options=_export_options,
    act=_export,
    words=1,
)


def _list_methods(request: Request) -> None:
    table = Table.grid(padding=(0, 2))
    for method in declared_methods().values():
        table.add_row(f"[bold]{method.name}[/]", method.summary)
    console().print(table)


METHODS_LIST = Command(
    name="methods",
    summary="Lists the methods there are.",
    usage="",
    examples=(),
    options=tuple,
    act=_list_methods,
)
