"""Online rounds on the town: whole, broken off anywhere, with people, and wrong in every way."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tastemaker.data import prompt_key, read_records
from tastemaker.errors import TastemakerError
from tastemaker.feedback.assign import Nothing, next_assignment
from tastemaker.feedback.items import contents_of, person_named
from tastemaker.feedback.judging import submit
from tastemaker.feedback.projects import ProjectSettings, all_projects, create_project, project_named
from tastemaker.feedback.store import Store
from tastemaker.feedback.tables import Export, Item, Response
from tastemaker.feedback.tracing import labels_in, runs_trained_on, withdraw
from tastemaker.runs import Run, lineage, list_runs, render_tree
from tastemaker.studies import making
from tastemaker.studies.rounds import run as running
from tastemaker.studies.rounds.recipe import Rounds, load_rounds
from tastemaker.studies.rounds.run import run_rounds
from tastemaker.studies.rounds.stages import LabelsMissing
from tastemaker.types import Comparison, Question

FOLDER = Path(__file__).parents[2] / "recipes" / "rounds"
SMALL = {
    "town": {"documents": 300, "demonstrations": 192, "prompts": 64},
    "all": {"max_steps": 2, "per_device_train_batch_size": 8, "num_samples": 0},
    "respond": {"keep_cut": True},
}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Base model, prompts and first policy, made once."""
    from tastemaker.studies.chain import load_chain, run_chain

    folder = tmp_path_factory.mktemp("start")
    recipe = yaml.safe_load((FOLDER / "dpo.yaml").read_text())
    stages = {"out": str(folder), "seed": 1, "stages": recipe["start"]}
    run_chain(load_chain(stages, None, {k: v for k, v in SMALL.items() if k != "respond"}))
    return folder


def small(start: Path, out: Path, name: str = "dpo", **more: Any) -> Rounds:
    """A recipe of ours with little of everything, from the start that is there."""
    recipe = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    recipe |= {"start": [], "model": str(start / "sft"), "data": str(start / "town" / "prompts.jsonl")}
    recipe |= {"rounds": 2, "prompts_per_round": 16, "report": {"test": "town:1", "prompts": 24}, **more}
    stages = {k: v for k, v in SMALL.items() if k != "town"}
    return load_rounds({**recipe, "out": str(out)}, None, stages)


@pytest.fixture(scope="module")
def whole(start: Path, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Two rounds of DPO, run without a break."""
    out = tmp_path_factory.mktemp("whole")
    return out, run_rounds(small(start, out))


def weights(out: Path, stage: str) -> str | None:
    return Run.open(out / stage).weights_hash


# ------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_parses(path: Path):
    assert load_rounds(path).rounds


def links(rounds: Rounds) -> dict[str, dict[str, Any]]:
    keys = ("model", "ref_model", "data", "reward")
    return {s.name: {k: s.values[k] for k in keys if k in s.values} for s in rounds.chain.steps}


def test_what_flows_by_default(tmp_path: Path):
    found = links(load_rounds(FOLDER / "ppo.yaml", {"out": str(tmp_path)}))
    assert found["respond_1"] == {"model": "sft", "data": "prompts_1"}
    assert found["respond_3"] == {"model": "ppo_2", "data": "prompts_3"}
    assert found["judge_2"] == {"data": "respond_2"}
    assert found["labels_3"] == {"data": ["judge_1", "judge_2", "judge_3"]}
    assert found["reward_1"] == {"model": "sft", "data": "judge_1"}
    assert found["reward_3"] == {"model": "sft", "data": "labels_3"}
    assert found["ppo_3"] == {"model": "sft", "data": "town/prompts.jsonl", "reward": "reward_3"}


@pytest.mark.parametrize(
    ("learn_from", "reference", "expected"),
    [
        ("all", "first", {"model": "sft", "data": "labels_2"}),
        ("all", "previous", {"model": "dpo_1", "data": "labels_2"}),
        ("new", "previous", {"model": "dpo_1", "data": "judge_2"}),
        ("new", "first", {"model": "dpo_1", "ref_model": "sft", "data": "judge_2"}),
    ],
)
def test_where_a_round_begins_and_what_holds_it(learn_from: str, reference: str, expected: dict[str, str]):
    found = links(load_rounds(FOLDER / "dpo.yaml", {"learn_from": learn_from, "reference": reference}))
    assert found["dpo_2"] == expected
    assert found["dpo_1"] == {"model": "sft", "data": "judge_1"}


def test_names_of_a_round_may_be_given():
    recipe = yaml.safe_load((FOLDER / "ppo.yaml").read_text())
    recipe["round"][-1] |= {"model": "policy", "ref_model": "first", "data": "prompts", "reward": "reward"}
    recipe["round"].append({"method": "sft", "data": "judge/pairs.jsonl"})
    found = links(load_rounds(recipe))
    assert found["ppo_2"] == {
        **{"model": "sft_1", "ref_model": "sft", "data": "prompts_2", "reward": "reward_2"}
    }
    assert found["sft_2"] == {"model": "ppo_2", "data": "judge_2/pairs.jsonl"}


def test_all_that_is_wrong_with_a_recipe(tmp_path: Path):
    path = tmp_path / "bad.yaml"
    round_ = [{"method": "judge"}, {"method": "dpo", "name": "labels"}, {"method": "merge"}, {"method": "dqo"}]
    path.write_text(yaml.safe_dump({"prompts_per_roud": 2, "round": round_}))
    with pytest.raises(TastemakerError) as caught:
        load_rounds(path)
    for part in (
        "prompts_per_roud: no such setting; did you mean prompts_per_round?",
        "model is missing",
        "data is missing",
        "round[1]: the name labels is taken",
        "round: merge: a round is respond, judge or people, and methods that train",
        "round[3]: no such method 'dqo'",
    ):
        assert part in str(caught.value), str(caught.value)
    good = {"model": "m", "data": "d.jsonl", "round": [{"method": "respond"}, {"method": "judge"}]}
    for more, part in (
        ({"rounds": 0}, "rounds = 0"),
        ({"seed": "x"}, "seed = 'x'"),
        ({"round": [{"method": "respond", "seed": "y"}, *good["round"][1:], {"method": "dpo"}]}, "seed = 'y'"),
        ({"learn_from": "some"}, "learn_from = 'some': should be all|new"),
        ({"report": {"tset": "x"}}, "report: tset: no such setting; did you mean test?"),
        ({}, "round: no stage trains a policy"),
        ({"round": [*good["round"], {"method": "dpo", "betta": 1}]}, "stage dpo_1: betta: no such setting"),
        ({"round": [*good["round"][::-1], {"method": "dpo"}]}, "should begin with one stage respond"),
        ({"max_lenght": 3, "round": [*good["round"], {"method": "dpo"}]}, "max_lenght"),
    ):
        with pytest.raises(TastemakerError) as caught:
            load_rounds({**good, **more})
        assert part in str(caught.value), str(caught.value)
        assert str(caught.value).count(part) == 1


# ---------------------------------------------------------------------------------------------- runs


def test_two_rounds(start: Path, whole: tuple[Path, dict[str, Any]]):
    out, results = whole
    first, second = results["rounds"]
    assert (first["sampler"]["run"], second["sampler"]["name"]) == (str(start / "sft"), "dpo_1")
    assert second["sampler"]["weights"] == first["policy"]["weights"] == weights(out, "dpo_1")
    assert second["learned_from"] == first["labels"]["labels"] + second["labels"]["labels"] > 0
    joined = read_records(str(out / "labels_2" / "pairs.jsonl"), Comparison).records
    assert {r.row.partition("/")[0] for r in joined} == {"judge_1", "judge_2"}
    prompts = [read_records(str(out / f"prompts_{n}" / "prompts.jsonl"), Question).records for n in (1, 2)]
    keys = [{prompt_key(r) for r in part} for part in prompts]
    assert [len(k) for k in keys] == [16, 16]
    assert not keys[0] & keys[1]
    assert first["policies"]["start"]["kl"]["mean"] == 0
    assert abs(first["policies"]["after"]["kl"]["mean"]) > 0
    assert first["policies"]["after"] == second["policies"]["before"]
    assert first["wins"]["before"] == first["wins"]["start"]
    assert 0 <= second["wins"]["before"]["low"] <= second["wins"]["before"]["high"] <= 1
    assert sum(second["labels"]["by"].values()) == second["labels"]["labels"]
    assert second["labels"]["gold"]["n"] > 0
    assert {c["stage"] for c in second["costs"]} >= {"respond_2", "judge_2", "labels_2", "dpo_2"}


def test_pages_and_lineage(whole: tuple[Path, dict[str, Any]]):
    out, _ = whole
    for page in (out / "report.html", out / "reports" / "round-2" / "report.html"):
        text = page.read_text()
        assert "Round 2 wins" in text
        assert "judge_1 [judge]" in text
        assert json.loads((page.parent / "results.json").read_text())
    tree = render_tree(lineage(out / "dpo_2"))
    for part in ("data: labels_2 [join]", "data: judge_2 [judge]", "data: respond_2 [respond]"):
        assert part in tree
    after_respond = tree[tree.index("data: respond_2 [respond]") :]
    assert "model: dpo_1 [dpo, finished]" in after_respond
    assert "(as above)" in tree


def test_the_same_again_makes_nothing(start: Path, whole: tuple[Path, dict[str, Any]]):
    out, results = whole
    made = []
    assert run_rounds(small(start, out), listen=made.append) == results
    assert all(m.reused for m in made)


def breaking(number: int, call: Any) -> Any:
    """`call`, but its call of that number is as if somebody pressed Ctrl-C."""
    calls = []

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt
        return call(*args, **kwargs)

    return broken


@pytest.mark.parametrize("where", ["sampling", "labelling", "training"])
def test_broken_off_and_gone_on(
    where: str, start: Path, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tastemaker.rollout import LocalGenerator
    from tastemaker.town import Town

    monkeypatch.setattr(making, "CHUNK", 4)  # results do not depend on it: samples depend on seed, row and k
    broken = {
        "sampling": (LocalGenerator, "generate", 3),
        "labelling": (Town, "label", 5),
        "training": (Run, "log_metrics", 2),
    }
    owner, name, number = broken[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, breaking(number, getattr(owner, name)))
        with pytest.raises(KeyboardInterrupt):
            run_rounds(small(start, tmp_path))
    left = tmp_path / "respond_1" / "drawn.jsonl"
    if where == "sampling":
        assert len(left.read_text().splitlines()) == 8
    results = run_rounds(small(start, tmp_path))
    assert [weights(tmp_path, f"dpo_{n}") for n in (1, 2)] == [weights(whole[0], f"dpo_{n}") for n in (1, 2)]
    for ours, theirs in zip(results["rounds"], whole[1]["rounds"], strict=True):
        assert ours["policies"] == theirs["policies"]
        assert ours["wins"] == theirs["wins"]


def test_a_reward_model_in_each_round(start: Path, tmp_path: Path):
    results = run_rounds(small(start, tmp_path, "ppo", rounds=2, prompts_per_round=12))
    first, second = results["rounds"]
    assert Run.open(tmp_path / "ppo_2").record.status == "finished"
    data = Run.open(tmp_path / "reward_2").record.data[0]
    assert Path(data.source).parent.name == "labels_2"
    assert second["learned_from"] == data.rows == first["labels"]["labels"] + second["labels"]["labels"]
    assert second["policies"]["after"]["reward"]["mean"] != first["policies"]["after"]["reward"]["mean"]
    tree = render_tree(lineage(tmp_path / "ppo_2"))
    assert "reward: reward_2 [reward, finished]" in tree
    assert "data: labels_2 [join]" in tree


def test_a_judge_says_whose_answers_are_better(start: Path, tmp_path: Path):
    judged = small(start, tmp_path, rounds=1, report={"test": "town:1", "prompts": 8, "judge": "town:fair"})
    results = run_rounds(judged)
    assert results["judge"] == "the judge town:fair"
    assert "score" not in results["rounds"][0]["policies"]["after"]
    assert results["rounds"][0]["wins"]["start"]["n"] >= 6
    assert "A proxy for what people want" in (tmp_path / "report.html").read_text()


def test_too_few_prompts_are_told_before_anything_is_asked(start: Path, tmp_path: Path):
    with pytest.raises(TastemakerError, match="2 rounds of 600 need 1200"):
        run_rounds(small(start, tmp_path, prompts_per_round=600))
    assert not (tmp_path / "respond_1").exists()
    asked = {"test": str(start / "town" / "prompts.jsonl"), "prompts": 4}
    with pytest.raises(
        TastemakerError, match=r"4 of 4 held-out prompts of .* are among those that rounds may ask"
    ):
        run_rounds(small(start, tmp_path, report=asked))
    with pytest.raises(TastemakerError, match="report: test is missing"):
        run_rounds(small(start, tmp_path, report={}))


# -------------------------------------------------------------------------------------------- people


def asked(start: Path, tmp_path: Path, rounds: int = 2, **more: Any) -> Rounds:
    people = {
        "method": "people",
        "project": "taste",
        "store": str(tmp_path / "labels.db"),
        "overlap": 2,
        **more,
    }
    dpo = {"method": "dpo", "beta": 0.3}
    out = tmp_path / "out"
    return small(
        start, out, "dpo", rounds=rounds, prompts_per_round=12, round=[{"method": "respond"}, people, dpo]
    )


def label(path: Path, names: tuple[str, ...] = ("ann", "bob"), most: int = 1000) -> int:
    """People who always prefer the shorter response; how many labels they gave."""
    store, given = Store.open(path), 0
    with store.writing() as writer:
        project = project_named(writer.session, "taste")
        for name in names:
            person = person_named(writer, name)
            while given < most:
                loan = next_assignment(writer, project.id, person.id)
                if isinstance(loan, Nothing):
                    break
                item = writer.session.get_one(Item, loan.item_id)
                lengths = [len(str(r)) for r in contents_of(writer.session, item)[1]]
                answer = {"preferred": lengths.index(min(lengths))}
                submit(writer, loan.id, person.id, key=f"key-{loan.id:06d}", answer=answer, seconds=2.0)
                given += 1
    store.close()
    return given


def test_people_label_in_every_round(start: Path, tmp_path: Path):
    path = tmp_path / "labels.db"
    with pytest.raises(LabelsMissing, match=r"people_1: 0 of \d items of the project taste are labelled"):
        run_rounds(asked(start, tmp_path), wait=0)
    label(path, most=3)
    with pytest.raises(LabelsMissing, match="/label/taste while `tastemaker studio --labels"):
        run_rounds(asked(start, tmp_path), wait=0)
    first = label(path) + 3
    with pytest.raises(LabelsMissing, match="people_2: 0 of"):
        run_rounds(asked(start, tmp_path), wait=0)
    second = label(path)
    results = run_rounds(asked(start, tmp_path), wait=0)
    assert [r["labels"]["labels"] for r in results["rounds"]] == [first, second]
    assert results["rounds"][0]["labels"]["agreement"]["raw"]["value"] == 1.0
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "people_1" / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == first
    assert all(
        r["annotator"].startswith("annotator-") and r["when"] and sorted(r["shown_order"]) == [0, 1]
        for r in rows
    )
    store = Store.open(path)
    with store.reading() as session:
        assert len(all_projects(session)) == 1
        wrote = {(r.origin, r.weights_sha256) for r in session.query(Response)}
        sums = [e.sha256 for e in session.query(Export).order_by(Export.id)]
    assert wrote == {("sft", weights(start, "sft")), ("dpo_1", weights(out, "dpo_1"))}
    source = Run.open(out / "dpo_1").record.data[0]
    assert labels_in(store, source.sha256)["labels"] == first
    runs = list_runs(out)
    assert [r.name for r in runs_trained_on(runs, {sums[0]})] == ["dpo_1", "dpo_2"]
    assert [r.name for r in runs_trained_on(runs, {sums[1]})] == ["dpo_2"]  # through the joined file
    gone = withdraw(store, "bob", runs)
    store.close()
    assert [r.name for r in gone.runs] == ["dpo_1", "dpo_2"]
    assert len((out / "people_1" / "pairs.jsonl").read_text().splitlines()) == first - len(rows) // 2


def test_waiting_for_people(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[float] = []

    def sleep(seconds: float) -> None:
        """Somebody labels while the command waits, one label a look."""
        if seconds == running.POLL:  # others sleep, too
            seen.append(seconds)
            label(tmp_path / "labels.db", most=1)

    monkeypatch.setattr(running.time, "sleep", sleep)
    run_rounds(asked(start, tmp_path, rounds=1, overlap=1, wanted=2), wait=1)
    assert len(seen) == 2
    exported = (tmp_path / "out" / "people_1" / "pairs.jsonl").read_text().splitlines()
    assert len(exported) == 2


def test_no_label_comes(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count(0, 30)
    monkeypatch.setattr(running.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(running.time, "sleep", lambda seconds: None)
    with pytest.raises(TastemakerError, match=r"no label came for 2 minutes\. people_1: 0 of"):
        run_rounds(asked(start, tmp_path), wait=2)


def test_a_project_of_somebody_else(start: Path, tmp_path: Path):
    store = Store.open(tmp_path / "labels.db")
    with store.writing() as writer:
        create_project(writer, "taste", ProjectSettings(kind="pair", overlap=1))
    store.close()
    with pytest.raises(TastemakerError, match="asks pair of 1 people an item, and this stage pair of 2"):
        run_rounds(asked(start, tmp_path), wait=0)
    with pytest.raises(LabelsMissing):
        run_rounds(asked(start, tmp_path, overlap=1), wait=0)
    elsewhere = asked(start, tmp_path, overlap=1)
    other = load_rounds(
        {
            **{"out": str(tmp_path / "other"), "model": str(start / "sft")},
            **{"data": str(start / "town" / "prompts.jsonl"), "prompts_per_round": 8, "seed": 5},
            **{"report": {"test": "town:1"}, "rounds": 1},
            "round": [
                {"method": "respond", "keep_cut": True},
                {"method": "people", "project": "taste", "store": str(tmp_path / "labels.db")},
                {"method": "dpo"},
            ],
        }
    )
    assert elsewhere.chain.out != other.chain.out
    with pytest.raises(TastemakerError, match=r"holds \d items that .*other did not put there"):
        run_rounds(other, wait=0)


def test_a_seed_of_the_study(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tastemaker.studies.rounds import study as rounds_study

    monkeypatch.setattr(rounds_study, "ARMS", rounds_study.ARMS[:2])
    small = {"max_steps": 2, "per_device_train_batch_size": 4}
    size = rounds_study.Size(
        labels=9, prompts=48, test=16, overrides={"dpo": small, "respond": {"keep_cut": True}}
    )
    inputs = {"start-1": {"sft": str(start / "sft")}}
    found = rounds_study.arms_of_seed(
        folder=tmp_path, report=lambda *_: None, inputs=inputs, seed=1, recipes=str(FOLDER), size=size
    )
    results = rounds_study.summarise({1: found["arms"]}, size)
    assert len(results["arms"]["dpo 3"]["rounds"]) == 3
    one, three = found["arms"]["dpo 1"], found["arms"]["dpo 3"]
    assert (one["labels"], three["labels"]) == (9, 9)
    gap = sum(three["rounds"][-1]["score"]) - sum(one["rounds"][-1]["score"])
    assert results["compared"]["dpo 3"]["gold"]["mean"] == pytest.approx(gap / len(one["rounds"][-1]["score"]))
