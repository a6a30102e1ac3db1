"""How long the studio takes to answer while 50 people label at once, on SQLite, in one server process.

    python benchmarks/label_load.py --people 50 --seconds 60 --out benchmarks/results/label-load.json

Everybody asks for an item, thinks (exponential, 3 s on average: brisk for people), judges it and asks again.
Timed is each request from its first byte sent to its answer read, over connections that stay open, as browsers'
do. A submission is answered when it is on the disk (synchronous=FULL).
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import platform
import random
import secrets
import shlex
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from label_kills import FORK, PROJECT, hashed, serve, studio

from tastemaker.feedback.items import Written, add_item, person_named
from tastemaker.feedback.projects import ProjectSettings, create_project
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Account, Session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--think", type=float, default=3.0)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="label-load-") as folder:
        found = measure(options, Path(folder))
    print(json.dumps(found, indent=1))
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


def measure(options: argparse.Namespace, work: Path) -> dict[str, object]:
    where = str(work / "labels.db")
    tokens = world(where, options)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = FORK.Process(target=serve, args=(studio(where, work), port), daemon=True)
    server.start()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    queue = multiprocessing.get_context("fork").SimpleQueue()
    crowd = FORK.Process(target=everybody, args=(port, tokens, options, queue), daemon=True)
    crowd.start()
    times = queue.get()
    crowd.join()
    server.kill()
    server.join()
    return {
        "command": shlex.join(["python", "benchmarks/label_load.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_before": times.pop("load"),
        "people": options.people,
        "think_seconds": options.think,
        "items": options.items,
        **{kind: summary(values, options.seconds) for kind, values in times.items()},
    }


def world(where: str, options: argparse.Namespace) -> list[str]:
    store = Store.open(where)
    tokens = [secrets.token_urlsafe(24) for _ in range(options.people)]
    settings = ProjectSettings(overlap=3, repeat_share=0.05)
    with store.writing() as writer:
        project = create_project(writer, PROJECT, settings, "Prefer what is true.")
        for number, token in enumerate(tokens):
            person = person_named(writer, f"labeller-{number}", "simulated")
            writer.add(Account(person_id=person.id, role="annotator", password="", active=True))
            writer.session.add(Session(token_sha256=hashed(token), person_id=person.id, expires="2999"))
        for i in range(options.items):
            add_item(
                writer,
                project,
                settings,
                f"prompt {i} " * 20,
                [Written(content=f"{s} {i} " * 60) for s in "ab"],
            )
    store.close()
    return tokens


def everybody(port: int, tokens: list[str], options: argparse.Namespace, queue: Any) -> None:
    """All people as threads of one process, apart from the server's."""
    times: dict[str, list[float]] = {"next": [], "submit": []}
    until = time.monotonic() + options.seconds
    load = os.getloadavg()[0]
    threads = [
        threading.Thread(target=person, args=(port, token, until, options.think, times)) for token in tokens
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.put({**times, "load": round(load, 1)})


def person(port: int, token: str, until: float, think: float, times: dict[str, list[float]]) -> None:
    host = f"127.0.0.1:{port}"
    headers = {"Cookie": f"tastemaker_session={token}", "Content-Type": "application/json"}
    headers |= {"Origin": f"http://{host}", "Host": host}
    rng = random.Random(token)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(kind: str, path: str, body: dict[str, object]) -> dict[str, object]:
        began = time.perf_counter()
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
        except (http.client.HTTPException, OSError):  # idle for long: a browser opens another, too
            connection.close()
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
        content = answer.read()
        times[kind].append(time.perf_counter() - began)
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {content!r}")
        return json.loads(content)

    time.sleep(rng.uniform(0, think))
    while time.monotonic() < until:
        given = post("next", f"/api/projects/{PROJECT}/next", {})
        if "done" in given:
            return
        time.sleep(rng.expovariate(1 / think))
        body: dict[str, object] = {"key": secrets.token_hex(16), "answer": {"preferred": rng.randrange(2)}}
        post("submit", f"/api/assignments/{given['assignment']}/judgements", body)


def summary(values: list[float], seconds: float) -> dict[str, float]:
    ordered = sorted(1000 * v for v in values)
    return {
        "requests": len(ordered),
        "per_second": round(len(ordered) / seconds, 1),
        "median_ms": round(statistics.median(ordered), 1),
        "p95_ms": round(ordered[int(0.95 * len(ordered))], 1),
        "p99_ms": round(ordered[int(0.99 * len(ordered))], 1),
        "most_ms": round(ordered[-1], 1),
    }


if __name__ == "__main__":
    main()
