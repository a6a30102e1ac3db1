"""Where a run came from: its parents, their parents, and the data that went into each.

Data and models that a recipe's stage made (labels, samples, merged models) have a `made.json` beside them:
`method`, `gives` (name -> content) and `made_from` (input -> [[path from there, content], ...]), contents as
"file SHA-256" or "weights HASH". The tree goes on through it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tastemaker.errors import TastemakerError
from tastemaker.runs.lines import read_object
from tastemaker.runs.record import MODEL_FOLDER, RECORD_FILE, Run
from tastemaker.runs.schema import Parent, Source

log = logging.getLogger(__name__)

MADE_FILE = "made.json"
"""Beside what a stage made."""


@dataclass(frozen=True, eq=False)
class Node:
    """A run, or a model that is no run, and what went into it."""

    role: str
    """What it was to its child; empty for the run asked about."""
    path: str
    weights_hash: str
    run: Run | None = None
    problem: str = ""
    """What is wrong with this link: "missing", "weights have changed since", ..."""
    parents: tuple[Node, ...] = ()
    made: str = ""
    """How it was made, where a recipe's stage that is no run made it: judge, merge, ..."""
    data: tuple[Source, ...] = ()


def lineage(run: Run | str | Path) -> Node:
    """The tree of what went into `run`. A parent shared by two runs appears under both."""
    run = Run.open(run)
    return _node(run, Parent(role="", path=str(run.folder), weights_hash=run.weights_hash or ""), ())


def _node(run: Run, link: Parent, children: tuple[Path, ...]) -> Node:
    below = (*children, run.folder)
    problem = ""
    if children and link.weights_hash != (run.weights_hash or ""):
        problem = "its weights have changed since"
    parents = [_parent(run.folder, parent, below) for parent in run.record.parents]
    parents += [node for source in run.record.data if (node := _written_by(source, below)) is not None]
    weights, data = run.weights_hash or link.weights_hash, run.record.data
    return Node(link.role, str(run.folder), weights, run, problem, tuple(parents), data=data)


def _written_by(source: Source, children: tuple[Path, ...]) -> Node | None:
    """The stage or the run whose data these are; None for data that people brought."""
    path = Path(source.source).resolve()
    folder = path.parent
    if folder in children:
        return None
    if (folder / MADE_FILE).is_file():
        found = _made("data", path, children)
        gives: dict[str, str] = _given(folder).get("gives", {})
        changed = bool(gives) and gives.get(path.name) != f"file {source.sha256}"
        return replace(found, problem="its data have changed since") if changed else found
    if not Run.is_run(folder):
        return None
    try:
        run = Run.open(folder)
    except TastemakerError as error:
        return Node("data", str(folder), "", problem=str(error))
    if "data" not in run.record.hashes:
        return None
    found = _node(run, Parent(role="data", path=str(folder), weights_hash=run.weights_hash or ""), children)
    changed = run.record.hashes["data"] != source.sha256
    return replace(found, problem="its data have changed since") if changed else found


def _parent(child: Path, parent: Parent, below: tuple[Path, ...]) -> Node:
    leaf = Node(parent.role, parent.path, parent.weights_hash)
    folder = (child / parent.path).resolve()
    if not folder.exists():
        # A hub name is told from a path by its looks alone: there is nothing on the disk to ask.
        is_path = parent.path.startswith((".", "/"))
        return Node(leaf.role, leaf.path, leaf.weights_hash, problem="missing") if is_path else leaf
    if folder.name == MODEL_FOLDER and Run.is_run(folder.parent):
        folder = folder.parent
    if not Run.is_run(folder) and (folder.parent / MADE_FILE).is_file() and folder.parent not in below:
        return replace(_made(leaf.role, folder, below), weights_hash=leaf.weights_hash)
    if not Run.is_run(folder):
        return Node(leaf.role, str(folder), leaf.weights_hash)
    if folder in below:
        return Node(leaf.role, str(folder), leaf.weights_hash, problem="is its own ancestor")
    try:
        return _node(Run.open(folder), parent, below)
    except TastemakerError as error:
        return Node(leaf.role, str(folder), leaf.weights_hash, problem=str(error))


def _made(role: str, path: Path, children: tuple[Path, ...]) -> Node:
    """What a recipe's stage made, and what it made it from."""
    folder = path.parent
    below = (*children, folder)
    made = _given(folder)
    parents: list[Node] = []
    data: list[Source] = []
    for name, inputs in made.get("made_from", {}).items():
        for place, content in inputs:
            source, kind = (folder / place).resolve(), str(content).partition(" ")
            if kind[0] == "file":
                rows = source.read_bytes().count(b"\n") if source.is_file() else 0
                data.append(Source(source=str(source), sha256=kind[2], rows=rows))
                wrote = _written_by(data[-1], below)
                parents += [wrote] if wrote is not None else []
            elif kind[0] == "weights":
                parents.append(_parent(folder, Parent(role=name, path=place, weights_hash=kind[2]), below))
    return Node(
        role, str(folder), "", parents=tuple(parents), made=str(made.get("method", "")), data=tuple(data)
    )


def _given(folder: Path) -> dict[str, Any]:
    """What a stage left in its folder about itself."""
    return dict(read_object(folder / MADE_FILE))


def contents_behind(source: Source) -> set[str]:
    """SHA-256 of a data file and of every file that it was made from, as far as stages tell."""
    found, waiting = {source.sha256}, [_written_by(source, ())]
    while waiting:
        node = waiting.pop()
        if node is not None and node.run is None:
            found |= {behind.sha256 for behind in node.data}
            waiting += node.parents
    return found


def render_tree(*nodes: Node) -> str:
    """The trees as text, a line for each run, model and data source. What stands there already, in the same
    tree or in one before it, is named again, and not what went into it.
    """
    known: set[tuple[str, str]] = set()
    return "\n".join(line for node in nodes for line in _lines(node, "", "", known))


def _lines(node: Node, first: str, rest: str, known: set[tuple[str, str]]) -> Iterator[str]:
    again = (node.path, node.weights_hash) in known and bool(node.data or node.parents)
    yield first + _title(node) + " (as above)" * again
    if again:
        return
    known.add((node.path, node.weights_hash))
    data = node.data
    count = len(data) + len(node.parents)
    for i, source in enumerate(data):
        branch = "└─ " if i + 1 == count else "├─ "
        yield f"{rest}{branch}data: {source.source} ({source.rows:,} rows, {source.sha256[:8]})"
    for i, parent in enumerate(node.parents, len(data)):
        last = i + 1 == count
        below = rest + ("   " if last else "│  ")
        yield from _lines(parent, rest + ("└─ " if last else "├─ "), below, known)


def _title(node: Node) -> str:
    role = f"{node.role}: " if node.role else ""
    if node.run is not None:
        text = f"{role}{node.run.name} [{node.run.method}, {node.run.status}]"
    elif node.made:
        text = f"{role}{Path(node.path).name} [{node.made}]"
    else:
        text = f"{role}{node.path}"
    if node.weights_hash:
        text += f" {node.weights_hash[:8]}"
    return text + (f" ({node.problem})" if node.problem else "")


def list_runs(root: str | Path) -> list[Run]:
    """All runs in `root` and the folders below it, oldest first. A damaged one is left out with a warning."""
    root = Path(root)
    if not root.is_dir():
        raise TastemakerError(f"{root}: is not a folder.")
    found: list[Run] = []
    for parent, names, files in os.walk(root):
        if RECORD_FILE in files:
            names.clear()
            try:
                found.append(Run.open(parent))
            except TastemakerError as error:
                log.warning("left out: %s", error)
        names[:] = sorted(n for n in names if not n.startswith("."))
    return sorted(found, key=lambda run: (run.record.created, run.name))
