"""Browse: runs with curves and samples, where they came from down to single labels, and the way back."""

from __future__ import annotations

import math
from typing import Any

from fastapi import HTTPException
from fastapi.responses import FileResponse

from tastemaker.feedback.answers import ranking_of
from tastemaker.feedback.items import contents_of
from tastemaker.feedback.tables import Item, Judgement, Person, Project, Response
from tastemaker.feedback.tracing import exports_holding, labels_in, runs_trained_on
from tastemaker.runs import Node, Run, lineage
from tastemaker.studio.accounts import Access
from tastemaker.studio.places import folder_below, name_of, run_named, runs_below
from tastemaker.studio.routes import Routes, Shop, Studio

routes = Routes()
POINTS = 400
"""Of a curve, at most."""
SAMPLES = 60
REPORT = "report.html"
# A report's own script and styles are inline; apart from this origin they can do nothing here.
SANDBOX = (
    "sandbox allow-scripts allow-popups; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
)


@routes("GET", "/api/runs", Access.REVIEWER)
def runs(shop: Shop) -> dict[str, Any]:
    """All runs, newest first, and the reports beside them."""
    found = runs_below(shop)
    reports: dict[str, list[str]] = {}
    for each in found:
        for report in _reports_on(shop, each):
            reports.setdefault(report, []).append(name_of(shop, each))
    told = [{"name": name, "runs": below} for name, below in sorted(reports.items())]
    return {"runs": [_line(shop, each) for each in reversed(found)], "reports": told}


def _reports_on(studio: Studio, run: Run) -> list[str]:
    """Reports in the folders above a run: a study's page lies above the runs it speaks of."""
    root = studio.root.resolve()
    above = [f for f in run.folder.parents if f != root and f.is_relative_to(root)]
    return [f.relative_to(root).as_posix() for f in above if (f / REPORT).is_file()]


def _line(studio: Studio, run: Run) -> dict[str, Any]:
    metrics = run.metrics()
    return {
        "name": name_of(studio, run),
        "method": run.method,
        "status": run.status,
        "created": run.record.created,
        "steps": metrics[-1].get("step", 0) if metrics else 0,
        "data": [d.source.rpartition("/")[2] for d in run.record.data],
    }


@routes("GET", "/api/run/{name:path}", Access.REVIEWER)
def run(shop: Shop, name: str) -> dict[str, Any]:
    """One run: settings, curves, samples, lineage."""
    found = run_named(shop, name)
    return {
        **_line(shop, found),
        "reason": found.record.reason,
        "command": found.record.command,
        "seed": found.record.seed,
        "settings": found.settings,
        "weights": found.weights_hash,
        "seconds": found.record.resources.model_dump(),
        "receipt": found.receipt().get("summary", ""),
        "curves": curves(found),
        "samples": found.samples()[-SAMPLES:],
        "lineage": _tree(shop, lineage(found)),
        "reports": _reports_on(shop, found),
    }


@routes("GET", "/api/curves/{name:path}", Access.REVIEWER)
def run_curves(shop: Shop, name: str) -> dict[str, Any]:
    """The curves alone, to watch a training; with what its process says where this studio started it."""
    folder = folder_below(shop.root, name)
    job = shop.jobs.status(name) if "/" not in name else {"running": False, "exit_code": None, "log": ""}
    if not Run.is_run(folder):
        if not job["running"] and job["exit_code"] is None:
            raise HTTPException(404, "There is no such run.")
        return {"status": "starting" if job["running"] else "failed", "curves": {}, "job": job}
    found = Run.open(folder)
    return {"status": found.status, "reason": found.record.reason, "curves": curves(found), "job": job}


def curves(run: Run) -> dict[str, list[list[float]]]:
    """Metric -> [[step, value], ...], thinned evenly; only what changes over the run."""
    found: dict[str, list[list[float]]] = {}
    for line in run.metrics():
        step = line.get("step", 0)
        for name, value in line.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if number and name != "step":
                found.setdefault(name, []).append([float(str(step)), float(str(value))])
    return {name: _thinned(points) for name, points in found.items()}


def _thinned(points: list[list[float]]) -> list[list[float]]:
    if len(points) <= POINTS:
        return points
    return [points[round(i * (len(points) - 1) / (POINTS - 1))] for i in range(POINTS)]


def _tree(studio: Studio, node: Node) -> dict[str, Any]:
    root = studio.root.resolve()
    own = node.run
    near = own is not None and own.folder.is_relative_to(root)
    return {
        "role": node.role,
        "name": name_of(studio, own) if own is not None and near else node.path.rpartition("/")[2],
        "is_run": near,
        "method": own.method if own is not None else node.made,
        "status": own.status if own is not None else "",
        "weights": node.weights_hash[:12],
        "problem": node.problem,
        "data": [
            {
                "source": d.source.rpartition("/")[2],
                "rows": d.rows,
                "sha256": d.sha256[:12],
                "labels": labels_in(studio.store, d.sha256),
            }
            for d in node.data
        ],
        "parents": [_tree(studio, parent) for parent in node.parents],
    }


@routes("GET", "/api/labels/{judgement_id}", Access.REVIEWER)
def label(shop: Shop, judgement_id: int) -> dict[str, Any]:
    """One label with what it was given on, and every run that it shaped."""
    with shop.store.reading() as session:
        found = session.get(Judgement, judgement_id)
        if found is None:
            raise HTTPException(404, "There is no such label.")
        person = session.get_one(Person, found.person_id)
        item = session.get_one(Item, found.item_id)
        project = session.get_one(Project, found.project_id)
        prompt, contents = contents_of(session, item)
        origins = [session.get_one(Response, i).origin for i in item.response_ids]
        exports = exports_holding(session, [judgement_id])
    hashes = {e.sha256 for e in exports}
    return {
        "id": found.id,
        "by": person.name,
        "at": found.at,
        "status": found.status,
        "project": project.name,
        "prompt": prompt,
        "responses": contents,
        "origins": origins,
        "ranking": ranking_of(found.verdict, len(contents)),
        "answer": found.verdict,
        "seconds": found.seconds,
        "exports": [{"path": e.path.rpartition("/")[2], "at": e.at, "sha256": e.sha256[:12]} for e in exports],
        "runs": [_line(shop, run) for run in runs_trained_on(runs_below(shop), hashes)],
    }


@routes("GET", "/reports/{name:path}", Access.REVIEWER)
def report(shop: Shop, name: str) -> FileResponse:
    """A study's page, apart from this origin."""
    folder = folder_below(shop.root, name)
    path = folder / REPORT
    if not path.is_file() or path.is_symlink():
        raise HTTPException(404, "There is no such report.")
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": SANDBOX})
