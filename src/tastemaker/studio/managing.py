"""Projects and people: what reviewers see of the labels, what admins set up."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

from fastapi import Form, HTTPException, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from sqlalchemy import select

from tastemaker.data import read_records
from tastemaker.errors import TastemakerError
from tastemaker.feedback import quality as qualities
from tastemaker.feedback.assign import lend
from tastemaker.feedback.exporting import ExportOptions, export
from tastemaker.feedback.importing import fitting_settings, import_dataset
from tastemaker.feedback.items import to_json
from tastemaker.feedback.projects import (
    add_guideline,
    change_settings,
    create_project,
    guideline_of,
    project_named,
    settings_from,
    settings_of,
)
from tastemaker.feedback.tables import Item, Person, Prompt, Withdrawal
from tastemaker.feedback.tracing import withdraw
from tastemaker.studio.accounts import Access, account_of, change_account, invite
from tastemaker.studio.labelling import shown
from tastemaker.studio.places import data_files, data_named, data_to_write, name_of, runs_below
from tastemaker.studio.routes import Routes, Shop, Who
from tastemaker.types import Question

routes = Routes()
_PROMPTS = 500


class Settings(BaseModel):
    """A project's settings, by name."""

    values: dict[str, Any]


class Guideline(BaseModel):
    """The next version of what annotators are told."""

    text: Annotated[str, Field(max_length=100_000)]


class NewProject(BaseModel):
    """A project with items from a file of the data folder."""

    name: Annotated[str, Field(max_length=64)]
    settings: dict[str, Any] = {}
    guideline: Annotated[str, Field(max_length=100_000)] = ""
    data: Annotated[str, Field(max_length=255)] = ""
    labels: bool = False
    """Whether the labels in the file are taken in too."""


class Wanted(BaseModel):
    """An export."""

    file: Annotated[str, Field(max_length=64)]
    weighted: bool = False
    names: bool = False
    everything: bool = False


class Role(BaseModel):
    """An invitation, or a change of an account."""

    role: Annotated[str, Field(max_length=16)]
    active: bool = True


class Reason(BaseModel):
    """Why a person's labels are withdrawn."""

    reason: Annotated[str, Field(max_length=2_000)] = ""


# ------------------------------------------------------------------------------------------ projects


@routes("GET", "/api/projects/{name}/quality", Access.REVIEWER)
def quality(shop: Shop, name: str) -> dict[str, Any]:
    """Agreement, each person's habits, disputes, flags; live."""
    with shop.store.reading() as session:
        project = project_named(session, name)
        guideline = guideline_of(session, project.id)
        return {
            **qualities.quality(session, project),
            "settings": asdict(settings_of(session, project.id)),
            "guideline": None if guideline is None else {"version": guideline.version, "text": guideline.text},
        }


@routes("GET", "/api/projects/{name}/prompts", Access.REVIEWER)
def prompts(shop: Shop, name: str) -> dict[str, Any]:
    """Prompts of a project, to compare models on."""
    with shop.store.reading() as session:
        project = project_named(session, name)
        found = session.scalars(
            select(Prompt.content)
            .where(Prompt.id.in_(select(Item.prompt_id).where(Item.project_id == project.id)))
            .order_by(Prompt.id)
            .limit(_PROMPTS)
        )
        return {"prompts": list(found)}


@routes("POST", "/api/projects", Access.ADMIN)
def create(shop: Shop, wanted: NewProject) -> dict[str, Any]:
    """Makes a project, with the items of a file where one is named."""
    dataset = read_records(data_named(shop, wanted.data)) if wanted.data else None
    settings = settings_from(wanted.settings)
    if dataset is not None and "kind" not in wanted.settings:
        settings = fitting_settings(settings, dataset)
    with shop.store.writing() as writer:
        project = create_project(writer, wanted.name, settings, wanted.guideline)
        made = None
        if dataset is not None:
            made = asdict(import_dataset(writer, project, dataset, labels=wanted.labels))
    return {"name": wanted.name, "imported": made}


@routes("POST", "/api/projects/{name}/settings", Access.ADMIN)
def change(shop: Shop, name: str, wanted: Settings) -> dict[str, Any]:
    """Puts other settings in force; those not named stay."""
    with shop.store.writing() as writer:
        project = project_named(writer.session, name)
        known = asdict(settings_of(writer.session, project.id))
        settings = settings_from({**known, **wanted.values})
        change_settings(writer, project, settings)
    return asdict(settings)


@routes("POST", "/api/projects/{name}/guideline", Access.ADMIN)
def guideline(shop: Shop, name: str, wanted: Guideline) -> dict[str, Any]:
    with shop.store.writing() as writer:
        made = add_guideline(writer, project_named(writer.session, name), wanted.text)
        return {"version": made.version}


@routes("POST", "/api/projects/{name}/export", Access.REVIEWER)
def export_labels(shop: Shop, name: str, wanted: Wanted) -> dict[str, Any]:
    """Writes the labels into the data folder, where trainings find them."""
    weights: dict[str, float] = {}
    if wanted.weighted:
        with shop.store.reading() as session:
            try:
                weights = qualities.weights(session, project_named(session, name))
            except ValueError as error:
                raise TastemakerError(f"{name}: cannot be weighted: {error}.") from error
    options = ExportOptions(names=wanted.names, weights=weights, everything=wanted.everything)
    made = export(shop.store, name, data_to_write(shop, wanted.file), options)
    return {"file": wanted.file, "labels": len(made.judgement_ids), "sha256": made.sha256}


@routes("POST", "/api/projects/{name}/adjudicate/{item_id}", Access.REVIEWER)
def adjudicate(shop: Shop, who: Who, name: str, item_id: int) -> dict[str, Any]:
    """Lends a disputed item to the reviewer who decides it; what others said is shown on the quality page."""
    with shop.store.writing() as writer:
        project = project_named(writer.session, name)
        item = writer.session.get(Item, item_id)
        if item is None or item.project_id != project.id:
            raise HTTPException(404, "There is no such item.")
        return shown(writer.session, lend(writer, item.id, who.person_id, "adjudication"), who)


# ---------------------------------------------------------------------------------------------- data


@routes("GET", "/api/data", Access.REVIEWER)
def data(shop: Shop) -> list[dict[str, Any]]:
    """Files that can be trained on and asked about."""
    return [{"name": p.name, "bytes": p.stat().st_size} for p in data_files(shop)]


@routes("GET", "/api/data/{name}", Access.REVIEWER)
def download(shop: Shop, name: str) -> FileResponse:
    path = data_named(shop, name)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@routes("GET", "/api/data/{name}/prompts", Access.REVIEWER)
def prompts_of_data(shop: Shop, name: str) -> dict[str, Any]:
    """Different prompts of a file, to compare models on."""
    records = read_records(data_named(shop, name), Question).records
    found = dict.fromkeys(r.prompt for r in records if isinstance(r, Question))
    return {"prompts": [to_json(prompt) for prompt in islice(found, _PROMPTS)]}


@routes("POST", "/api/uploads", Access.ADMIN)
async def upload(shop: Shop, file: UploadFile, name: Annotated[str, Form(max_length=64)]) -> dict[str, Any]:
    """Puts a file into the data folder, if records can be read from it."""
    path = data_to_write(shop, name)
    if path.exists():
        raise TastemakerError(f"{name}: there is a file of that name already.")
    path.write_bytes(await file.read())
    try:
        found = read_records(path)
    except TastemakerError:
        path.unlink()
        raise
    return {"name": name, "records": len(found), "kind": found.kind.__name__, "format": found.format}


# -------------------------------------------------------------------------------------------- people


@routes("GET", "/api/people", Access.ADMIN)
def people(shop: Shop) -> list[dict[str, Any]]:
    """Everybody who labelled or may."""
    with shop.store.reading() as session:
        gone = set(session.scalars(select(Withdrawal.person_id)))
        found: list[dict[str, Any]] = []
        for person in session.scalars(select(Person).order_by(Person.id)):
            account = account_of(session, person.id)
            found.append(
                {
                    "id": person.id,
                    "name": person.name,
                    "kind": person.kind,
                    "role": None if account is None else account.role,
                    "active": account is not None and account.active,
                    "withdrawn": person.id in gone,
                }
            )
        return found


@routes("POST", "/api/invites", Access.ADMIN)
def invites(shop: Shop, who: Who, wanted: Role) -> dict[str, Any]:
    """A link that makes one account."""
    with shop.store.writing() as writer:
        token = invite(writer, wanted.role, who.person_id)
    return {"path": f"/invite/{token}", "role": wanted.role}


@routes("POST", "/api/people/{person_id}/account", Access.ADMIN)
def account(shop: Shop, person_id: int, wanted: Role) -> dict[str, Any]:
    """Another role, or an end of access."""
    with shop.store.writing() as writer:
        change_account(writer, person_id, role=wanted.role, active=wanted.active)
    return {"role": wanted.role, "active": wanted.active}


@routes("POST", "/api/people/{person_id}/withdraw", Access.ADMIN)
def withdrawal(shop: Shop, person_id: int, wanted: Reason) -> dict[str, Any]:
    """Takes a person's labels out of every export, and lists the runs they shaped."""
    with shop.store.reading() as session:
        person = session.get(Person, person_id)
    if person is None:
        raise HTTPException(404, "There is no such person.")
    done = withdraw(shop.store, person.name, runs_below(shop), wanted.reason)
    return {
        "labels": done.labels,
        "exports": [e.path.rpartition("/")[2] for e in done.exports],
        "emptied": [p.rpartition("/")[2] for p in done.emptied],
        "runs": [name_of(shop, run) for run in done.runs],
    }
