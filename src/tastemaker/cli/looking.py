"""Commands that look at what there is: `runs`, `export`, `methods`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tastemaker.cli.catalogue import Option, declared_methods
from tastemaker.cli.command import Command
from tastemaker.cli.help import console
from tastemaker.cli.layers import Request, UsageError

if TYPE_CHECKING:
    from tastemaker.runs import Run

FOLDER = Option("folder", str, "runs", "Folder that holds the runs.", "run")

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
        made = run.record.created[:16].replace("T", " ")
        table.add_row(Text(_near(run.folder)), run.method, run.status, str(_steps(run)), weights, made)
    console().print(table if runs else Text(f"no runs in {folder}"))


def _near(folder: Path) -> str:
    """A path as short as it can be typed here."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def _steps(run: Run) -> object:
    metrics = run.metrics()
    return metrics[-1].get("step", 0) if metrics else 0


def _show_record(folder: Path) -> None:
    from tastemaker.runs import Run

    run = Run.open(folder)
    record = run.record
    out = console()
    reason = f": {record.reason}" if record.reason else ""
    out.print(f"{run.name}: {run.method}, {run.status}{reason}", markup=False, style="bold", soft_wrap=True)
    rows: list[tuple[str, str]] = [
        ("folder", str(run.folder)),
        ("made", f"{record.created} by {record.command}"),
        ("weights", run.weights_hash or "none yet"),
        *((f"parent ({p.role})", f"{p.path}  {p.weights_hash[:8]}") for p in record.parents),
        *(("data", f"{d.source} ({d.rows:,} rows, {d.sha256[:8]})") for d in record.data),
        ("settings", _settings(run)),
    ]
    receipt = run.receipt().get("summary")
    if isinstance(receipt, str):
        rows.append(("receipt", receipt))
    metrics = run.metrics()
    if metrics:
        rows.append(("last step", "  ".join(f"{k}={_number(v)}" for k, v in metrics[-1].items())))
    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(name, Text(text))
    out.print(table)


def _settings(run: Run) -> str:
    """What differs from the method's defaults."""
    from tastemaker.config import dump, method_and_settings
    from tastemaker.methods import METHODS

    settings = run.settings
    if run.method in METHODS:
        method, usual = method_and_settings(METHODS[run.method])
        defaults = dump(method) | dump(usual)
        settings = {k: v for k, v in settings.items() if k not in defaults or defaults[k] != v}
    return "  ".join([*(f"{k}={v}" for k, v in sorted(settings.items())), "(all others as by default)"])


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_trees(folder: Path) -> None:
    from tastemaker.runs import Run, lineage, list_runs, render_tree

    runs = [Run.open(folder)] if Run.is_run(folder) else list_runs(folder)
    parents = {(run.folder / p.path).resolve() for run in runs for p in run.record.parents}
    last = [run for run in runs if run.folder not in parents and run.model_dir not in parents]
    if last:
        console().print(render_tree(*map(lineage, last)), markup=False, soft_wrap=True)


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


EXPORT_OPTIONS = (
    Option("out", str, "", "Folder to write.", "run"),
    Option("merge", bool, "false", "Merge a LoRA adapter into the weights it belongs to.", "run"),
    Option("overwrite", bool, "false", "Replace what is in the folder.", "run"),
    Option("trust_remote_code", bool, "false", "Run the Python code that comes with the model.", "run"),
)


def _export(request: Request) -> None:
    if not request.words:
        raise UsageError("missing: the run to export")
    from tastemaker.models.export import export_model

    values = request.values
    export_model(
        request.words[0],
        values["out"],
        merge_adapter=values.get("merge", False),
        overwrite=values.get("overwrite", False),
        trust_remote_code=values.get("trust_remote_code", False),
    )
    keep_normalisation(request.words[0], Path(values["out"]))
    console().print(f"written: {values['out']}", markup=False, soft_wrap=True)


def keep_normalisation(source: str, out: Path) -> None:
    """What brings a reward model's scores to mean 0 goes with it."""
    from tastemaker.training.rewarding import normalisation_of

    kept = normalisation_of(source)
    if kept is not None:
        kept.save(out)


EXPORT = Command(
    name="export",
    summary="Writes a run's model as a plain Hugging Face folder, for transformers, peft, vLLM or TRL.",
    usage="RUN --out DIR [--merge]",
    examples=("tastemaker export runs/dpo --out model --merge",),
    options=lambda: EXPORT_OPTIONS,
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
