"""The campaign of kills sees what it is there to see, and goes on where it stopped."""

from __future__ import annotations

import importlib
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra tastemaker[studio] is not installed")

from sqlalchemy import text

from tastemaker.feedback.assign import next_assignment
from tastemaker.feedback.items import person_named
from tastemaker.feedback.judging import submit
from tastemaker.feedback.projects import project_named
from tastemaker.feedback.store import Store

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("label_kills")


def labelled(kills: Any, tmp_path: Path) -> str:
    """A store with one label and its acknowledgement."""
    where = str(tmp_path / "labels.db")
    kills.set_up(where, 2)
    kills.more_items(where, least=2)
    store = Store.open(where)
    with store.writing() as writer:
        person = person_named(writer, "labeller-0")
        given = next_assignment(writer, project_named(writer.session, kills.PROJECT).id, person.id)
        side = given.shown_order.index(1)
        made = submit(writer, given.id, person.id, key="k" * 32, answer={"preferred": 1}).judgement.id
    store.close()
    (tmp_path / "acks-0.jsonl").write_text(json.dumps(["k" * 32, made, False, side]) + "\n")
    return where


def test_what_is_well_is_well(kills: Any, tmp_path: Path) -> None:
    assert kills.check(labelled(kills, tmp_path), tmp_path, whole=True) == []


@pytest.mark.parametrize(
    "statement, told",
    [
        ("DELETE FROM judgements", "lost"),
        ("UPDATE judgements SET verdict = '{\"preferred\": 0}'", "lost"),
        ("UPDATE judgements SET seconds = 7", "was changed"),
    ],
)
def test_what_is_gone_or_changed_is_seen(kills: Any, tmp_path: Path, statement: str, told: str) -> None:
    where = labelled(kills, tmp_path)
    with Store.open(where).engine.connect() as connection:
        connection.execute(text(statement))
        connection.commit()
    assert any(told in line for line in kills.check(where, tmp_path, whole=True))


def test_an_acknowledgement_cannot_change(kills: Any, tmp_path: Path) -> None:
    labelled(kills, tmp_path)
    (tmp_path / "acks-1.jsonl").write_text(json.dumps(["k" * 32, 99, True, 0]) + "\n")
    with pytest.raises(SystemExit, match="acknowledged as"):
        kills.acknowledged(tmp_path)


def test_a_campaign_goes_on_where_it_stopped(
    kills: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_round(where: str, work: Path, state: dict[str, Any], most: int, seed: int) -> None:
        state["kills"] += min(2, most)

    monkeypatch.setattr(kills, "one_round", one_round)
    options = Namespace(kills=5, more=0, labellers=2, seed=0, out=str(tmp_path / "out.json"))
    where = str(tmp_path / "labels.db")
    assert kills.campaign(options, where, tmp_path) == 0
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["kills"], told["rounds"]) == (5, 3)
    options.more = 3
    kills.campaign(options, where, tmp_path)
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["kills"], told["rounds"], len(told["commands"])) == (8, 5, 2)
