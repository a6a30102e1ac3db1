"""kill -9 of the studio and of labellers at random moments: is an acknowledged label ever lost, or there twice?

    label_kills.py --kills 1000 --out benchmarks/results/label-kills-sqlite.json
    label_kills.py --kills 100 --postgresql --out benchmarks/results/label-kills-postgresql.json

One kill is one strike at a random moment: SIGKILL to the server, to all 16 labellers, or to both. Each round
serves the studio from a process of its own to 16 labeller processes, strikes ten times, the last time at
everybody, and looks: every acknowledged label must be there once, as it was acknowledged; nobody may have
labelled an item twice; no item may have been lent to more than its overlap at a time; the ledger must hold.
Whoever comes back sends what it had not yet heard back about, under the same key.

State lies in the work folder and figures are written after every round: the same command after a break goes on
to its number of kills, and `--more 250` goes 250 further.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import http.client
import json
import multiprocessing
import os
import platform
import random
import secrets
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from postgres_server import PostgresServer
from sqlalchemy import func, select
from sqlalchemy.orm import Session as Reading

from tastemaker.feedback import ledger
from tastemaker.feedback.items import Written, add_item, person_named
from tastemaker.feedback.projects import ProjectSettings, create_project, project_named, settings_of
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Account, Assignment, Judgement, Queued, Session
from tastemaker.studio.accounts import hashed
from tastemaker.studio.app import create_app

PROJECT = "campaign"
OVERLAP = 2
STRIKES = 10
"""In a round."""
FORK = multiprocessing.get_context("fork")
PR_SET_PDEATHSIG = 1


def main() -> int:
    options = parse()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    with database(options, work) as where:
        return campaign(options, where, work)


def campaign(options: argparse.Namespace, where: str, work: Path) -> int:
    state_file = work / "state.json"
    state = json.loads(state_file.read_text()) if state_file.exists() else None
    if state is None:
        state = {"kills": 0, "rounds": 0, "server": 0, "labellers": 0, "processes": 0, "seconds": 0.0}
        state |= {"commands": [], "tokens": set_up(where, options.labellers)}
    if len(state["tokens"]) != options.labellers:
        raise SystemExit(f"{work}: holds a campaign with {len(state['tokens'])} labellers")
    state["commands"] += [shlex.join(["python", "benchmarks/label_kills.py", *sys.argv[1:]])]
    goal = state["kills"] + options.more if options.more else options.kills
    wrong = check(where, work, whole=True)  # what a break may have done
    gc.freeze()  # what was imported is shared with all that will be forked
    while state["kills"] < goal and not wrong:
        began = time.monotonic()
        one_round(where, work, state, goal - state["kills"], seed=options.seed + state["rounds"])
        state["rounds"] += 1
        wrong = check(where, work, whole=state["rounds"] % 10 == 0)
        state["seconds"] += time.monotonic() - began
        replace(state_file, json.dumps(state))
        report(options, where, work, state, wrong)
        told = f"round {state['rounds']}: {state['kills']} kills, {lines(work)} acknowledged,"
        print(told, "; ".join(wrong) or "nothing lost", flush=True)
    wrong = wrong or check(where, work, whole=True)
    print(json.dumps(report(options, where, work, state, wrong), indent=1))
    return 1 if wrong else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000, help="of the whole campaign, all its parts together")
    parser.add_argument("--more", type=int, default=0, help="so many kills in this part, whatever went before")
    parser.add_argument("--labellers", type=int, default=16)
    parser.add_argument("--work", default="", help="folder of the campaign's state: build/label-kills-...")
    parser.add_argument("--postgresql", action="store_true", help="on a PostgreSQL server of our own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    options.work = options.work or f"build/label-kills-{'postgresql' if options.postgresql else 'sqlite'}"
    return options


def replace(path: Path, text: str) -> None:
    """Whole or not at all: the campaign itself may be killed."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    os.replace(fresh, path)


@contextlib.contextmanager
def database(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Where the labels are: a file in the work folder, or a server whose data lie there."""
    if not options.postgresql:
        yield str(work / "labels.db")
        return
    with PostgresServer(work.resolve() / "server") as server:
        yield server.database("labels")


# ------------------------------------------------------------------------------------------- the world


def set_up(where: str, labellers: int) -> list[str]:
    """People who are logged in, and the first items; their sessions' tokens."""
    store = Store.open(where)
    tokens = [secrets.token_urlsafe(24) for _ in range(labellers)]
    with store.writing() as writer:
        create_project(writer, PROJECT, ProjectSettings(overlap=OVERLAP, lease_seconds=30.0))
        for number, token in enumerate(tokens):
            person = person_named(writer, f"labeller-{number}", "simulated")
            writer.add(Account(person_id=person.id, role="annotator", password="", active=True))
            writer.session.add(Session(token_sha256=hashed(token), person_id=person.id, expires="2999"))
    store.close()
    return tokens


def more_items(where: str, least: int = 400) -> None:
    """Keeps the queue filled."""
    store = Store.open(where)
    with store.writing() as writer:
        project = project_named(writer.session, PROJECT)
        settings = settings_of(writer.session, project.id)
        wanted = select(func.count()).select_from(Queued)
        there = writer.session.scalar(wanted) or 0
        still = writer.session.scalar(wanted.where(Queued.open)) or 0
        for i in range(there, there + (2 * least if still < least else 0)):
            add_item(writer, project, settings, f"prompt {i}", [Written(content=f"{s} {i}") for s in "ab"])
    store.close()


# ------------------------------------------------------------------------------------------- processes


def serve(app: FastAPI, port: int) -> None:
    """The studio, until it is killed."""
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", timeout_keep_alive=75)


def studio(where: str, work: Path) -> FastAPI:
    """The studio before anybody came: no connection is open that processes could share."""
    store = Store.open(where)
    app = create_app(store, root=work / "runs", data=work / "data", accounts=True)
    store.close()
    return app


def labeller(port: int, token: str, work: Path, number: int, seed: int) -> None:
    """Labels until it is killed. `pending` holds what was sent last, `acks` what was acknowledged."""
    rng = random.Random(f"{seed} {number}")
    pending, acks = work / f"pending-{number}.json", work / f"acks-{number}.jsonl"
    log = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    host = f"127.0.0.1:{port}"
    headers = {"Cookie": f"tastemaker_session={token}", "Content-Type": "application/json"}
    headers |= {"Origin": f"http://{host}", "Host": host}

    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        while True:  # as the page does: again, with the same key, until there is an answer
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("POST", path, json.dumps(body), headers)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status == 200:
                    return json.loads(content)
                if answer.status < 500:
                    raise SystemExit(f"{path}: {answer.status} {content!r}")
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)
            finally:
                connection.close()

    def deliver(said: dict[str, Any]) -> None:
        told = post(said["path"], said["body"])
        # One write of one line: whoever is killed has acknowledged it whole or not at all.
        own = [said["body"]["key"], told["judgement"], told["again"], said["body"]["answer"]["preferred"]]
        os.write(log, (json.dumps(own) + "\n").encode())
        pending.unlink()

    if pending.exists():
        deliver(json.loads(pending.read_text()))
    while True:
        given = post(f"/api/projects/{PROJECT}/next", {})
        if "done" in given:
            time.sleep(0.05)
            continue
        body = {"key": secrets.token_hex(16), "answer": {"preferred": rng.randrange(2)}, "seconds": 1.0}
        said = {"path": f"/api/assignments/{given['assignment']}/judgements", "body": body}
        whole = pending.with_suffix(".tmp")
        whole.write_text(json.dumps(said))
        os.replace(whole, pending)
        deliver(said)


def started(target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=with_its_parent, args=(os.getpid(), target, *arguments), daemon=True)
    process.start()
    return process


def with_its_parent(parent: int, target: Callable[..., None], *arguments: object) -> None:
    """Runs what ends with the campaign, however that ends: nobody else may go on labelling."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    target(*arguments)


def one_round(where: str, work: Path, state: dict[str, Any], most: int, seed: int) -> None:
    """Strikes some times, the last time at everybody, and counts what was killed in `state`."""
    rng = random.Random(seed)
    more_items(where)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    app = studio(where, work)

    def server() -> multiprocessing.process.BaseProcess:
        return started(serve, app, port)

    def people() -> list[multiprocessing.process.BaseProcess]:
        return [
            started(labeller, port, t, work, n, rng.randrange(2**31)) for n, t in enumerate(state["tokens"])
        ]

    serving, labelling = server(), people()
    strikes = min(STRIKES, most)
    for strike in range(strikes):
        after(work, rng.randrange(1, 16))
        time.sleep(rng.uniform(0.0, 0.2))
        last = strike == strikes - 1
        whom = "both" if last else rng.choice(("server", "server", "labellers", "both"))
        if whom in ("server", "both"):
            state["processes"] += kill([serving])
            state["server"] += 1
            serving = serving if last else server()
        if whom in ("labellers", "both"):
            state["processes"] += kill(labelling)
            state["labellers"] += 1
            labelling = labelling if last else people()
        state["kills"] += 1


def after(work: Path, labels: int) -> None:
    """Waits until so many more labels are acknowledged, however slow the machine is just now."""
    goal, patience = lines(work) + labels, time.monotonic() + 60
    while lines(work) < goal and time.monotonic() < patience:
        time.sleep(0.05)


def lines(work: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in work.glob("acks-*.jsonl"))


def kill(processes: list[multiprocessing.process.BaseProcess]) -> int:
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()
    ended = [p.exitcode for p in processes if p.exitcode != -signal.SIGKILL]
    if ended:
        raise SystemExit(f"a process ended by itself: {ended}")
    return len(processes)


# --------------------------------------------------------------------------------------------- looking


def acknowledged(work: Path) -> tuple[dict[str, tuple[int, int]], int]:
    """(key -> (judgement, side preferred), how often one was told to have been there before)."""
    found: dict[str, tuple[int, int]] = {}
    again = 0
    for path in sorted(work.glob("acks-*.jsonl")):
        for line in path.read_text().splitlines():
            key, judgement, known, side = json.loads(line)
            again += known
            if found.setdefault(key, (judgement, side)) != (judgement, side):
                raise SystemExit(f"{key}: acknowledged as {found[key]} and as {(judgement, side)}")
    return found, again


def check(where: str, work: Path, *, whole: bool) -> list[str]:
    """What is wrong; the ledger and the file itself are read through where `whole`."""
    store = Store.open(where)
    acks, _ = acknowledged(work)
    columns = (Judgement.key, Judgement.id, Judgement.person_id, Judgement.item_id)
    wrong: list[str] = []
    with store.reading() as session:
        rows = session.execute(select(*columns, Judgement.verdict, Judgement.shown_order)).all()
        there = {key: (i, shown.index(said["preferred"])) for key, i, _, _, said, shown in rows}
        wrong += [f"lost: {key}" for key, known in acks.items() if there.get(key) != known]
        pairs = [(person, item) for _, _, person, item, _, _ in rows]
        wrong += ["somebody labelled an item twice"] if len(pairs) != len(set(pairs)) else []
        wrong += ["a key is there twice"] if len(there) != len(rows) else []
        over = overlent(session)
        wrong += [f"{over} times an item was lent to too many"] if over else []
        if whole:
            wrong += ledger.problems(session)
            if store.engine.dialect.name == "sqlite":
                sound = session.connection().exec_driver_sql("PRAGMA integrity_check").scalar()
                wrong += [] if sound == "ok" else [f"integrity: {sound}"]
    store.close()
    return wrong


def overlent(session: Reading) -> int:
    """How often an item was lent although as many people as its overlap had answered it or held it just then.
    (A label that comes when its lease has run out is kept all the same.)
    """
    ended: dict[int, str] = {}
    said: dict[int, list[tuple[str, int]]] = {}
    for item, person, assignment, at in session.execute(
        select(Judgement.item_id, Judgement.person_id, Judgement.assignment_id, Judgement.at)
    ):
        ended[assignment] = at
        said.setdefault(item, []).append((at, person))
    lent: dict[int, list[tuple[int, int, str, str]]] = {}
    columns = (Assignment.item_id, Assignment.id, Assignment.person_id, Assignment.at, Assignment.expires)
    for item, number, person, at, expires in session.execute(select(*columns)):
        lent.setdefault(item, []).append((number, person, at, expires))
    found = 0
    for item, loans in lent.items():
        for number, person, at, _ in loans:
            held = {
                p for n, p, a, e in loans if n < number and a <= at < e and not (n in ended and ended[n] <= at)
            }
            answered = {p for t, p in said.get(item, []) if t <= at}
            found += len((held | answered) - {person}) >= OVERLAP
    return found


def report(
    options: argparse.Namespace, where: str, work: Path, state: dict[str, Any], wrong: list[str]
) -> dict[str, Any]:
    """The figures so far, written where `--out` says."""
    acks, again = acknowledged(work)
    store = Store.open(where)
    with store.reading() as session:
        stored = session.scalar(select(func.count()).select_from(Judgement)) or 0
    found = {
        "commands": state["commands"],
        "database": store.engine.dialect.name,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "concurrent_labellers": options.labellers,
        "kills": state["kills"],
        "kills_that_struck_the_server": state["server"],
        "kills_that_struck_all_labellers": state["labellers"],
        "processes_killed": state["processes"],
        "rounds": state["rounds"],
        "seconds": round(state["seconds"], 1),
        "acknowledged": len(acks),
        "acknowledged_again_under_the_same_key": again,
        "stored": stored,
        "lost": sum(line.startswith("lost") for line in wrong),
        "wrong": wrong[:20],
    }
    store.close()
    if options.out:
        replace(Path(options.out), json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
