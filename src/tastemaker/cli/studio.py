"""`tastemaker studio`, `labels`, `withdraw`: labels from people, served, moved and taken back.

What needs torch or the extra `tastemaker[studio]` is imported when a command acts.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from tastemaker.cli import label_quality
from tastemaker.cli.catalogue import Option
from tastemaker.cli.command import Command
from tastemaker.cli.help import console
from tastemaker.cli.layers import Request, UsageError

if TYPE_CHECKING:
    from tastemaker.feedback.store import Store

LABELS = Option("labels", str, "labels.db", "The labels: a file, or postgresql://user@host/name.", "labels")
FOLDER = Option("folder", str, "runs", "Folder that holds the runs.", "labels")
DATA = Option("data_folder", str, "data", "Folder with training data; exports go there.", "labels")

STUDIO_OPTIONS = (
    LABELS,
    FOLDER,
    DATA,
    Option("models", tuple[str, ...], "none", "Further models to compare: folders or hub names.", "studio"),
    Option(
        "host", str, "127.0.0.1", "Address to listen on; others than this machine's need accounts.", "studio"
    ),
    Option("port", int, "8741", "Port to listen on.", "studio"),
    Option(
        "accounts", bool, "false", "People log in; the first start prints the first admin's link.", "studio"
    ),
    Option("hostnames", tuple[str, ...], "none", "Further names the studio is reached by.", "studio"),
)


@contextmanager
def _needing_the_extra() -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"sqlalchemy", "alembic", "fastapi", "uvicorn", "argon2"}:
            raise UsageError(
                f"{error.name} is not installed: the studio is an extra. pip install 'tastemaker[studio]'"
            ) from error
        raise


def open_store(values: dict[str, Any]) -> Store:
    """The store that `--labels` names. Raises UsageError where the extra is not installed."""
    with _needing_the_extra():
        from tastemaker.feedback.store import Store
    return Store.open(values.get("labels", "labels.db"))


# -------------------------------------------------------------------------------------------- studio


def _studio(request: Request) -> None:
    with _needing_the_extra():
        from tastemaker.studio.server import serve
    values, out = request.values, console()
    serve(
        values.get("labels", "labels.db"),
        root=values.get("folder", "runs"),
        data=values.get("data_folder", "data"),
        models=values.get("models") or (),
        host=values.get("host", "127.0.0.1"),
        port=values.get("port", 8741),
        accounts=values.get("accounts", False),
        hostnames=values.get("hostnames") or (),
        tell=lambda line: out.print(line, markup=False, soft_wrap=True),
    )


STUDIO = Command(
    name="studio",
    summary="Serves the pages where people label, compare models, train and browse runs.",
    usage="[--labels FILE] [--folder RUNS] [--port N] [--accounts]",
    examples=(
        "tastemaker studio",
        "tastemaker studio --host 0.0.0.0 --accounts --hostnames labels.example.org",
    ),
    options=lambda: STUDIO_OPTIONS,
    act=_studio,
)


# -------------------------------------------------------------------------------------------- labels

ACTIONS = ("list", "import", "export", "verify", "quality", "rank", "group")
LABEL_OPTIONS = (
    LABELS,
    Option("project", str, "the file's name", "The project of the labels.", "labels"),
    Option(
        "kind", str, "as fits the file", "What a new project asks: pair, preference, ranking, ...", "labels"
    ),
    Option("overlap", int, "1", "People per item of a new project.", "labels"),
    Option(
        "gold", bool, "false", "Import the rows as test items, whose labels are known to be right.", "labels"
    ),
    Option("take_labels", bool, "true", "Import the labels in the rows, too.", "labels"),
    Option("weighted", bool, "false", "Export with weights by annotators' reliability.", "labels"),
    Option("names", bool, "false", "Export annotators by name; pseudonyms otherwise.", "labels"),
    Option("everything", bool, "false", "Export every judgement as stored, skips and flags too.", "labels"),
    Option("head", str | None, "none", "verify: a hash of the ledger noted earlier.", "labels"),
    *label_quality.QUALITY_OPTIONS,
)


def _labels(request: Request) -> None:
    action, *rest = [*request.words, *([] if request.words else ["list"])]
    if action not in ACTIONS:
        raise UsageError(f"labels {action}: give {', '.join(ACTIONS[:-1])} or {ACTIONS[-1]}")
    if action in ("import", "export") and not rest:
        raise UsageError(f"labels {action}: which file?")
    store = open_store(request.values)
    try:
        _ACTS[action](store, request.values, rest)
    finally:
        store.close()


def _list(store: Store, values: dict[str, Any], rest: list[str]) -> None:
    from tastemaker.feedback.exporting import labels_in_force
    from tastemaker.feedback.projects import all_projects, item_count, settings_of

    table = Table(box=None, pad_edge=False)
    for column in ("project", "asks", "items", "labels"):
        table.add_column(column)
    with store.reading() as session:
        projects = all_projects(session)
        for project in projects:
            labels = len(labels_in_force(session, project.id))
            items = item_count(session, project.id)
            table.add_row(
                Text(project.name), settings_of(session, project.id).kind, f"{items:,}", f"{labels:,}"
            )
    console().print(table if projects else Text("no projects yet"))


def _import(store: Store, values: dict[str, Any], rest: list[str]) -> None:
    from sqlalchemy import select

    from tastemaker.data import read_records
    from tastemaker.feedback.importing import fitting_settings, import_dataset
    from tastemaker.feedback.projects import create_project, settings_from
    from tastemaker.feedback.tables import Project

    dataset = read_records(rest[0])
    name = values.get("project") or Path(rest[0]).name.partition(".")[0]
    with store.writing() as writer:
        project = writer.session.scalar(select(Project).where(Project.name == name))
        if project is None:
            given = {k: values[k] for k in ("kind", "overlap") if values.get(k) is not None}
            settings = settings_from(given)
            settings = settings if "kind" in given else fitting_settings(settings, dataset)
            project = create_project(writer, name, settings)
        labels = values.get("take_labels", True)
        made = import_dataset(writer, project, dataset, labels=labels, gold=values.get("gold", False))
    known = f", {made.known} were there already" if made.known else ""
    skipped = f", {made.skipped} rows say nothing to its question" if made.skipped else ""
    console().print(f"{name}: {made.items} items, {made.labels} labels{known}{skipped}", markup=False)


def _export(store: Store, values: dict[str, Any], rest: list[str]) -> None:
    from tastemaker.feedback.exporting import ExportOptions, export

    name = values.get("project") or Path(rest[0]).name.partition(".")[0]
    weighted = label_quality.weights(store, values, name) if values.get("weighted") else {}
    options = ExportOptions(
        names=values.get("names", False), weights=weighted, everything=values.get("everything", False)
    )
    made = export(store, name, rest[0], options)
    console().print(f"{rest[0]}: {len(made.judgement_ids)} labels, {made.sha256[:12]}", markup=False)


def _verify(store: Store, values: dict[str, Any], rest: list[str]) -> None:
    from tastemaker.feedback.ledger import head, problems

    with store.reading() as session:
        end = head(session)
        found = problems(session, values.get("head"))
    if found:
        listed = "\n".join(f"  {line}" for line in found[:50])
        raise UsageError(f"the labels were changed behind the ledger: {len(found)} places\n{listed}")
    console().print(f"the ledger holds; its end is {end}", markup=False, soft_wrap=True)


_ACTS = {
    "list": _list,
    "import": _import,
    "export": _export,
    "verify": _verify,
    "quality": label_quality.quality,
    "rank": label_quality.rank,
    "group": label_quality.group,
}

LABELS_COMMAND = Command(
    name="labels",
    summary="Lists, imports, exports and verifies labels, shows their quality, ranks what to label next.",
    usage="list | import FILE | export FILE | verify | quality | rank | group NAME GROUP [--project NAME]",
    examples=(
        "tastemaker labels import pairs.jsonl --project taste --overlap 3",
        "tastemaker labels export votes.jsonl --project taste --weighted",
        "tastemaker labels rank --project taste --reward runs/rm --count 100",
    ),
    options=lambda: LABEL_OPTIONS,
    act=_labels,
    words=3,
)


# ------------------------------------------------------------------------------------------ withdraw

WITHDRAW_OPTIONS = (
    Option("annotator", str, "", "Whose labels are taken back.", "labels"),
    Option("reason", str, "none", "Why; kept in the store.", "labels"),
    LABELS,
    FOLDER,
)


def _withdraw(request: Request) -> None:
    store = open_store(request.values)
    from tastemaker.feedback.tracing import withdraw
    from tastemaker.runs import list_runs

    values, out = request.values, console()
    folder = Path(values.get("folder", "runs"))
    runs = list_runs(folder) if folder.is_dir() else []
    done = withdraw(store, values["annotator"], runs, values.get("reason", ""))
    out.print(f"{values['annotator']}: {done.labels} judgements withdrawn", markup=False)
    for made in done.exports:
        out.print(
            f"  written again  {made.path}  {len(made.judgement_ids)} labels, {made.sha256[:12]}",
            markup=False,
            soft_wrap=True,
        )
    for path in done.emptied:
        out.print(f"  removed        {path} (held nothing else)", markup=False, soft_wrap=True)
    for run in done.runs:
        out.print(f"  shaped         {run.folder} ({run.method}): train it again", markup=False, soft_wrap=True)


WITHDRAW = Command(
    name="withdraw",
    summary="Takes a person's labels out of every export, and lists the runs they shaped.",
    usage="--annotator NAME [--labels FILE] [--folder RUNS]",
    examples=("tastemaker withdraw --annotator ann --reason 'asked for it'",),
    options=lambda: WITHDRAW_OPTIONS,
    act=_withdraw,
)
