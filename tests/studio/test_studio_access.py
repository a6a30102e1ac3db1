"""Who may do what: every route, found in the app itself, for every role; and what goes out to whom."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import func, select
from starlette.routing import Mount

from studio.shop import HOST, PASSWORD, ROLES, Shop
from tastemaker.feedback.items import Written, add_item, person_named
from tastemaker.feedback.judging import suggest
from tastemaker.feedback.projects import ProjectSettings, project_named
from tastemaker.feedback.tables import Item, Suggestion
from tastemaker.studio import accounts

LEVEL = {None: 0, "annotator": 1, "reviewer": 2, "admin": 3}
EXPECTED = {
    "public": {"/", "/login", "/invite/{token}", "/api/login", "/api/accept", "/api/logout"},
    "annotator": {
        "/label/{name}",
        "/api/projects",
        "/api/projects/{name}/next",
        "/api/projects/{name}/mine",
        "/api/assignments/{assignment_id}",
        "/api/assignments/{assignment_id}/judgements",
    },
}
"""What is open to all and to annotators; a route that is added here was meant to be."""


def routes(shop: Shop) -> list[tuple[str, str, str]]:
    found = []
    for route in walk(shop.app.routes):
        (method,) = route.methods
        assert route.openapi_extra is not None, f"{route.path} says nothing of who may use it"
        found.append((method, route.path, route.openapi_extra["access"]))
    return found


def walk(found) -> list[APIRoute]:
    every = []
    for route in found:
        if isinstance(route, APIRoute):
            every.append(route)
        elif isinstance(route, Mount):
            assert route.path == "/static"
        else:
            inner = getattr(route, "original_router", None) or getattr(route, "router", None)
            assert inner is not None, f"a route of an unknown kind: {route!r}"
            every += walk(inner.routes)
    return every


def call(shop: Shop, who: str | None, method: str, path: str):
    path = re.sub(r"\{(\w+)(:path)?\}", lambda m: "1" if m[1].endswith("_id") else "none", path)
    client = shop.client(who) if who else shop.client()
    return client.request(method, path, json={} if method == "POST" else None)


def test_table_of_routes_is_what_was_meant(shop: Shop) -> None:
    found = routes(shop)
    assert len(found) > 30
    for access, paths in EXPECTED.items():
        assert {
            path for method, path, own in found if own == access and (method, path) != ("POST", "/api/projects")
        } == paths


def test_every_route_refuses_whoever_may_less_and_lets_the_rest_in(shop: Shop) -> None:
    for method, path, access in routes(shop):
        if path == "/api/logout":
            continue  # would end the sessions of the test itself
        for who in (None, *ROLES):
            answer = call(shop, who, method, path)
            if LEVEL[who] < LEVEL.get(access, 0):
                assert answer.status_code == (401 if who is None else 403), (method, path, who, answer.text)
            else:
                assert answer.status_code != 401 and "This is for" not in answer.text, (method, path, who)


def test_writes_from_other_pages_are_refused(shop: Shop) -> None:
    client = shop.client("admin")
    for method, path, _ in routes(shop):
        if method == "GET":
            continue
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": HOST, "Sec-Fetch-Site": "cross-site"},
        ):
            answer = client.request(method, path, headers=headers, json={})
            assert answer.status_code == 403 and "own pages" in answer.text, (path, headers)
    client.headers.pop("Origin")
    assert client.post("/api/projects", json={}).status_code == 403


def test_other_names_of_the_host_are_refused(shop: Shop) -> None:
    for name in ("evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io:8741"):
        assert shop.client().get("/login", headers={"Host": name}).status_code == 421
    for name in ("localhost", "127.0.0.1:99", "[::1]:8741"):
        assert shop.client().get("/login", headers={"Host": name}).status_code == 200


def test_large_bodies_are_refused(shop: Shop) -> None:
    shop.project("taste", ProjectSettings(kind="text"))
    client = shop.client("annotator")
    assert client.post("/api/projects/taste/next", content=b"x" * (2**20 + 1)).status_code == 413
    piecewise = (b"x" * 2**16 for _ in range(32))
    assert (
        client.post("/api/login", content=piecewise, headers={"content-type": "application/json"}).status_code
        == 413
    )


def test_pages_carry_a_strict_policy(shop: Shop) -> None:
    for path in ("/login", "/static/label.js", "/api/projects"):
        policy = shop.client().get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    page = shop.client("admin").get("/").text
    assert not re.search(r"\son\w+=|<script>|style=|javascript:", page)


# ------------------------------------------------------------------------------------------- annotators


def lent(shop: Shop, name: str, project: str = "taste") -> dict:
    return shop.client(name).post(f"/api/projects/{project}/next").json()


def test_annotators_see_no_model_no_gold_no_others(shop: Shop) -> None:
    settings = ProjectSettings(gold_share=0.9, overlap=2)
    shop.project("taste", settings, n=2)
    with shop.store.writing() as writer:
        project = project_named(writer.session, "taste")
        for i in range(2):
            sides = [Written(content=side, origin=f"model-{i}") for side in ("secret-good", "secret-poor")]
            add_item(writer, project, settings, f"test item {i}", sides, gold={"preferred": 0})
    with shop.store.writing() as writer:
        judge = person_named(writer, "judge", "judge")
        for item in writer.session.scalars(select(Item)):
            suggest(writer, item, judge, {"preferred": 1}, model="a judge")
    reviewer = lent(shop, "reviewer")
    body = {"key": "k" * 12, "answer": {"preferred": 1, "comment": "others-comment"}}
    shop.client("reviewer").post(f"/api/assignments/{reviewer['assignment']}/judgements", json=body)
    client, seen = shop.client("annotator"), []
    for n in range(4):
        given = lent(shop, "annotator")
        url = f"/api/assignments/{given['assignment']}"
        seen += [
            given,
            client.get(url).json(),
            client.get("/api/projects").json(),
            client.get("/api/projects/taste/mine").json(),
        ]
        answer = client.post(
            f"{url}/judgements", json={"key": f"key-{n:08}", "answer": {"preferred": 0}}
        ).json()
        assert {s["model"] for s in answer.pop("suggestions")} == {"a judge"}  # told once one has answered
        seen.append(answer)
    text = json.dumps(seen)
    assert "secret-good" in text
    for hidden in ("model-0", "model-1", "gold", "origin", "others-comment", "a judge", "reviewer", "row 0"):
        assert hidden not in text, hidden


@pytest.mark.parametrize("kind, shown", [("never", 0), ("after", 0), ("before", 1)])
def test_suggestions_are_hidden_until_they_may_be_seen(shop: Shop, kind: str, shown: int) -> None:
    shop.project("taste", ProjectSettings(suggestions=kind), n=1)
    with shop.store.writing() as writer:
        item = writer.session.scalar(select(Item))
        suggest(writer, item, person_named(writer, "judge", "judge"), {"preferred": 1}, model="m")
    given = lent(shop, "annotator")
    assert len(given["suggestions"]) == shown
    after = shop.client("annotator").post(
        f"/api/assignments/{given['assignment']}/judgements", json={"key": "k" * 12, "answer": {"preferred": 0}}
    )
    assert len(after.json()["suggestions"]) == (1 if kind == "after" else 0)
    with shop.store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Suggestion)) == 1


def test_anothers_assignment_is_as_good_as_none(shop: Shop) -> None:
    shop.project("taste", ProjectSettings(overlap=3))
    mine = lent(shop, "annotator")["assignment"]
    for other in ("reviewer", "admin"):
        client = shop.client(other)
        assert client.get(f"/api/assignments/{mine}").status_code == 404
        said = {"key": "k" * 12, "answer": {"preferred": 0}}
        assert client.post(f"/api/assignments/{mine}/judgements", json=said).status_code == 404
        vote = {"assignment": mine, "key": "k" * 12, "ranking": [0, 1]}
        assert client.post("/api/compare/votes", json=vote).status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        "%2e%2e",
        "%2e%2e%2flabels.db",
        "a/%2e%2e/%2e%2e",
        "..%2f..",
        "/etc",
        "a\x00b",
        "con",
        "a\\b",
        "é",
        "a" * 65,
        "-x",
        "a//b",
    ],
)
def test_names_reach_nothing_outside_the_root(shop: Shop, name: str) -> None:
    client = shop.client("admin")
    for where in ("/api/run/", "/runs/", "/reports/", "/api/curves/", "/api/data/"):
        answer = client.get(f"{where}{name}".replace("\x00", "%00"))
        assert answer.status_code in (303, 307, 400, 404), (where, name, answer.status_code)
        assert "SQLite" not in answer.text
    start = {"name": name, "method": "dpo", "model": "tiny", "data": "x.jsonl"}
    assert client.post("/api/training", json=start).status_code in (400, 404, 422)


def test_links_in_the_root_are_not_followed(shop: Shop, tmp_path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "runs"
    outside.mkdir()
    (outside / "run.json").write_text("{}")
    (outside / "report.html").write_text("outside")
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    client = shop.client("admin")
    assert client.get("/api/run/link").status_code == 404
    assert client.get("/reports/link").status_code == 404


# -------------------------------------------------------------------------------------------- accounts


def test_invitations_make_one_account(shop: Shop) -> None:
    path = shop.client("admin").post("/api/invites", json={"role": "annotator"}).json()["path"]
    token = path.rpartition("/")[2]
    outside = shop.client()
    assert "annotator" in outside.get(path).text
    given = {"token": token, "name": "ann", "password": PASSWORD}
    assert outside.post("/api/accept", json={**given, "password": "short"}).status_code == 400
    assert outside.post("/api/accept", json={**given, "name": "admin"}).status_code == 400
    assert outside.post("/api/accept", json=given).status_code == 200
    assert shop.client().post("/api/accept", json={**given, "name": "bob"}).status_code == 400
    assert "has ended" in shop.client().get(path).text
    assert shop.client("ann").get("/api/projects").status_code == 200
    assert shop.client("ann").get("/api/people").status_code == 403


def test_invitations_and_sessions_end(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    client = shop.client("admin")
    path = client.post("/api/invites", json={"role": "annotator"}).json()["path"]
    assert client.get("/api/people").status_code == 200
    for hours, link_holds, session_holds in ((11, True, True), (6 * 24, True, False), (8 * 24, False, False)):
        later = timedelta(hours=hours)
        moment = (datetime.now(UTC) + later).isoformat(timespec="microseconds")
        monkeypatch.setattr(accounts, "now", lambda moment=moment: moment)
        assert ("has ended" not in shop.client().get(path).text) == link_holds
        assert client.get("/api/people").status_code == (200 if session_holds else 401)
    given = {"token": path.rpartition("/")[2], "name": "ann", "password": PASSWORD}
    assert shop.client().post("/api/accept", json=given).status_code == 400


def test_cookies_are_for_this_site_and_for_https_where_it_is_spoken(shop: Shop) -> None:
    login = {"name": "annotator", "password": PASSWORD}
    plain = shop.client().post("/api/login", json=login).headers["set-cookie"].lower()
    assert "httponly" in plain and "samesite=lax" in plain and "secure" not in plain
    behind = {"Origin": HOST.replace("http:", "https:")}  # a proxy speaks https to the browser
    assert (
        "secure" in shop.client().post("/api/login", json=login, headers=behind).headers["set-cookie"].lower()
    )


def test_logins_are_counted_and_say_nothing(shop: Shop) -> None:
    client = shop.client()
    answers = [
        client.post("/api/login", json={"name": name, "password": "wrong wrong"})
        for name in ["admin", "nobody"] * 4
    ]
    assert {(a.status_code, a.text) for a in answers} == {(403, answers[0].text)}
    assert client.post("/api/login", json={"name": "admin", "password": PASSWORD}).status_code == 429


def test_sessions_are_new_at_login_and_end(shop: Shop) -> None:
    client = shop.client()
    tokens = []
    for _ in range(2):
        answer = client.post("/api/login", json={"name": "annotator", "password": PASSWORD})
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=lax" in cookie
        tokens.append(client.cookies["tastemaker_session"])
    assert tokens[0] != tokens[1]
    stale = shop.client()
    stale.cookies.set("tastemaker_session", tokens[0])
    assert stale.get("/api/projects").status_code == 401
    client.post("/api/logout")
    again = shop.client()
    again.cookies.set("tastemaker_session", tokens[1])
    assert again.get("/api/projects").status_code == 401


def test_access_ends_at_once_and_the_last_admin_stays(shop: Shop) -> None:
    admin, annotator = shop.client("admin"), shop.client("annotator")
    ids = {p["name"]: p["id"] for p in admin.get("/api/people").json()}
    ended = {"role": "annotator", "active": False}
    assert admin.post(f"/api/people/{ids['annotator']}/account", json=ended).status_code == 200
    assert annotator.get("/api/projects").status_code == 401
    assert admin.post(f"/api/people/{ids['admin']}/account", json={"role": "annotator"}).status_code == 400
