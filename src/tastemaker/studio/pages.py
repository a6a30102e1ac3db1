"""The pages: a frame each, filled by the scripts in `static/` from the API. And the way in."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field

from tastemaker.feedback.projects import project_named
from tastemaker.feedback.store import Store
from tastemaker.studio.accounts import (
    SESSION_HOURS,
    SHORTEST,
    Access,
    Refused,
    Visitor,
    accept,
    invite_of,
    log_in,
    log_out,
)
from tastemaker.studio.places import run_named
from tastemaker.studio.routes import COOKIE, Routes, Shop, Studio, Who, visitor_or_none

routes = Routes()


class Credentials(BaseModel):
    """A login."""

    name: Annotated[str, Field(max_length=64)]
    password: Annotated[str, Field(max_length=200)]


class Accepted(Credentials):
    """An invitation taken up."""

    token: Annotated[str, Field(max_length=100)]


def _page(studio: Studio, name: str, visitor: Visitor | None, **values: Any) -> HTMLResponse:
    access = Access.PUBLIC if visitor is None else visitor.access
    text = studio.pages.get_template(f"{name}.html.j2").render(
        page=name,
        visitor=visitor,
        access=access,
        Access=Access,
        accounts=studio.accounts,
        **{"invited": False, "invite": "", "role": "", **values},
    )
    return HTMLResponse(text)


@routes("GET", "/", Access.PUBLIC)
def home(shop: Shop, request: Request) -> Response:
    visitor = visitor_or_none(request)
    return RedirectResponse("/login", 303) if visitor is None else _page(shop, "home", visitor)


@routes("GET", "/login", Access.PUBLIC)
def login_page(shop: Shop, request: Request) -> Response:
    if not shop.accounts or visitor_or_none(request) is not None:
        return RedirectResponse("/", 303)
    return _page(shop, "login", None, shortest=SHORTEST)


@routes("GET", "/invite/{token}", Access.PUBLIC)
def invite_page(shop: Shop, token: str) -> Response:
    with shop.store.reading() as session:
        found = invite_of(session, token)
    role = None if found is None else found.role
    return _page(shop, "login", None, invite=token if role else "", role=role, shortest=SHORTEST, invited=True)


@routes("GET", "/label/{name}", Access.ANNOTATOR)
def label_page(shop: Shop, who: Who, name: str) -> Response:
    _must_be(shop.store, name)
    return _page(shop, "label", who, project=name)


@routes("GET", "/project/{name}", Access.REVIEWER)
def project_page(shop: Shop, who: Who, name: str) -> Response:
    _must_be(shop.store, name)
    return _page(shop, "project", who, project=name)


@routes("GET", "/compare", Access.REVIEWER)
def compare_page(shop: Shop, who: Who) -> Response:
    return _page(shop, "compare", who)


@routes("GET", "/train", Access.REVIEWER)
def train_page(shop: Shop, who: Who) -> Response:
    return _page(shop, "train", who)


@routes("GET", "/runs", Access.REVIEWER)
def runs_page(shop: Shop, who: Who) -> Response:
    return _page(shop, "runs", who)


@routes("GET", "/runs/{name:path}", Access.REVIEWER)
def run_page(shop: Shop, who: Who, name: str) -> Response:
    run_named(shop, name)
    return _page(shop, "run", who, run=name)


@routes("GET", "/people", Access.ADMIN)
def people_page(shop: Shop, who: Who) -> Response:
    return _page(shop, "people", who)


def _must_be(store: Store, name: str) -> None:
    with store.reading() as session:
        project_named(session, name)


# ------------------------------------------------------------------------------------------ the way in


@routes("POST", "/api/login", Access.PUBLIC)
def login(shop: Shop, request: Request, response: Response, given: Credentials) -> dict[str, str]:
    """A new session; failures are counted by address and by name."""
    if not shop.accounts:
        raise HTTPException(404, "There are no accounts here.")
    keys = (f"address {request.client.host if request.client else ''}", f"name {given.name.lower()}")
    if shop.attempts.blocked(*keys):
        raise HTTPException(429, "Too many failed logins. Wait ten minutes.")
    try:
        token = log_in(shop.store, given.name, given.password)
    except Refused:
        shop.attempts.failed(*keys)
        raise HTTPException(403, "Name or password is wrong.") from None
    shop.attempts.forget(*keys)
    old = request.cookies.get(COOKIE)
    if old:
        log_out(shop.store, old)
    _keep(request, response, token)
    return {"to": "/"}


@routes("POST", "/api/accept", Access.PUBLIC)
def accept_invite(shop: Shop, request: Request, response: Response, given: Accepted) -> dict[str, str]:
    """Makes an account from an invitation and logs in."""
    if not shop.accounts:
        raise HTTPException(404, "There are no accounts here.")
    key = f"address {request.client.host if request.client else ''}"
    if shop.attempts.blocked(key):
        raise HTTPException(429, "Too many attempts. Wait ten minutes.")
    with shop.store.reading() as session:
        if invite_of(session, given.token) is None:
            shop.attempts.failed(key)
    accept(shop.store, given.token, given.name, given.password)
    _keep(request, response, log_in(shop.store, given.name, given.password))
    return {"to": "/"}


@routes("POST", "/api/logout", Access.PUBLIC)
def logout(shop: Shop, request: Request, response: Response) -> dict[str, str]:
    log_out(shop.store, request.cookies.get(COOKIE, ""))
    response.delete_cookie(COOKIE)
    return {"to": "/login"}


def _keep(request: Request, response: Response, token: str) -> None:
    response.set_cookie(
        COOKIE,
        token,
        max_age=SESSION_HOURS * 3600,
        httponly=True,
        samesite="lax",
        # A proxy that speaks https for the studio is seen in what the browser calls the page's origin.
        secure="https" in (request.url.scheme, request.headers.get("origin", "").partition(":")[0]),
        path="/",
    )
