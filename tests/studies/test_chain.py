"""Chains: stages that make what the next ones need, end to end and again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tastemaker.data import read_records
from tastemaker.errors import TastemakerError
from tastemaker.runs import Run
from tastemaker.studies.chain import Made, is_chain, load_chain, run_chain
from tastemaker.studies.making import MakeLabels
from tastemaker.town import Town
from tastemaker.town.critic import Critic
from tastemaker.types import Comparison, Demonstration

FOLDER = Path(__file__).parents[2] / "recipes" / "chains"
RECIPES = sorted(FOLDER.glob("*.yaml"))
SMALL = {
    "town": {"documents": 400, "demonstrations": 256, "prompts": 24},
    "all": {"max_steps": 2, "per_device_train_batch_size": 8, "num_samples": 0, "keep_cut": True},
    **{name: {"response_length": 16} for name in ("rl_cai", "dpo_ppo", "dpo_online", "dpo_grpo")},
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("chains")


def small(path: Path, out: Path, **more: dict) -> list[Made]:
    """A recipe of ours end to end, with little of everything."""
    chain = load_chain(path, {"out": str(out)})
    names = {step.name for step in chain.steps}
    stages = {k: v for k, v in {**SMALL, **more}.items() if k in names | {"all"}}
    return run_chain(load_chain(path, {"out": str(out)}, stages))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_chain_parses(path: Path):
    assert is_chain(path)
    assert load_chain(path).steps


def test_rlaif_end_to_end(shared: Path):
    made = {m.step.name: m for m in small(FOLDER / "rlaif.yaml", shared)}
    labels = read_records(made["labels"].result, Comparison).records
    assert labels
    for label in labels:
        assert label.annotator == "town 1 critic fair"
        assert label.when
        assert label.source.startswith("judge pairwise.v1, principle ")
    summary = json.loads((made["labels"].folder / "summary.json").read_text())
    assert summary["labels"] == len(labels)
    assert summary["town 1 critic fair"]["asked"] == 2 * summary["records"]
    assert made["dpo"].run.status == "finished"
    data = made["dpo"].run.record.data[0].source
    assert Path(data) == made["labels"].result


def test_constitution_end_to_end_and_shares_what_is_the_same(shared: Path):
    made = {m.step.name: m for m in small(FOLDER / "constitution.yaml", shared)}
    assert made["town"].reused
    assert made["sft"].reused  # rlaif made them
    assert not made["drafts"].reused  # of another policy
    lines = [json.loads(x) for x in (made["revisions"].folder / "revisions.jsonl").read_text().splitlines()]
    town = Town(1)
    critic = Critic(town)
    better = worse = 0
    for line in lines:
        assert len(line["rounds"]) == 2
        assert all(r["principle"] and r["critique"] and r["revision"] for r in line["rounds"])
        prompt = critic.find(tuple(type(town.prompts(1)[0].prompt[0])(*m) for m in line["prompt"]))
        before = town.gold(prompt, line["first"], True).total
        after = town.gold(prompt, line["rounds"][-1]["revision"], True).total
        better, worse = better + (after > before), worse + (after < before)
    assert better > 4 * max(1, worse)
    shown = read_records(made["revisions"].result, Demonstration).records
    assert [d.response for d in shown] == [line["rounds"][-1]["revision"] for line in lines]
    assert made["rl_cai"].run.status == "finished"
    assert {p.role for p in made["rl_cai"].run.record.parents} >= {"policy", "reward"}
    again = small(FOLDER / "constitution.yaml", shared)
    assert all(m.reused for m in again)
    assert [m.folder for m in again] == [m.folder for m in made.values()]


def test_a_change_makes_anew_what_builds_on_it(shared: Path):
    more = {"labels": {"judge": "town:long"}}
    made = {m.step.name: m for m in small(FOLDER / "rlaif.yaml", shared, **more)}
    assert {name for name, m in made.items() if not m.reused} == {"labels", "dpo"}
    assert made["labels"].folder.name == "labels-2" or made["labels"].folder.name == "labels-3"


def test_judging_that_was_killed_goes_on(shared: Path, monkeypatch):
    """A break in the middle of a maker: its answers are found again in its folder."""
    from tastemaker.training import judging

    path = FOLDER / "rlaif.yaml"
    more = {"labels": {"judge": "town:vain"}}
    answer, asked = judging.TownJudge.answer, []

    def breaks(self, asks):
        for number, found in enumerate(answer(self, asks)):
            if number == 5:
                raise KeyboardInterrupt
            asked.append(asks[found[0]].tag)
            yield found

    monkeypatch.setattr(judging.TownJudge, "answer", breaks)
    with pytest.raises(KeyboardInterrupt):
        small(path, shared, **more)
    before = list(asked)
    assert len(before) == 5

    def counts(self, asks):
        for found in answer(self, asks):
            asked.append(asks[found[0]].tag)
            yield found

    monkeypatch.setattr(judging.TownJudge, "answer", counts)
    made = {m.step.name: m for m in small(path, shared, **more)}
    assert len(set(asked)) == len(asked)
    summary = json.loads((made["labels"].folder / "summary.json").read_text())
    assert (summary["town 1 critic vain"]["reused"], len(asked)) == (5, 2 * summary["records"])


def test_patience_changes_no_verdict_and_what_a_judge_reads_from_files_does(shared: Path, tmp_path: Path):
    """A stage that broke off may be finished with a longer time limit; changed principles are another judge."""
    own = tmp_path / "principles.yaml"
    own.write_text((FOLDER.parents[1] / "src/tastemaker/feedback/principles/town.yaml").read_text())
    more = {"labels": {"principles": str(own), "retries": 1}}
    made = {m.step.name: m for m in small(FOLDER / "rlaif.yaml", shared, **more)}
    assert not made["labels"].reused
    patient = {"labels": {**more["labels"], "retries": 9, "timeout": 600, "concurrency": 1}}
    assert all(m.reused for m in small(FOLDER / "rlaif.yaml", shared, **patient))
    own.write_text(own.read_text() + "# changed\n")
    again = {m.step.name: m for m in small(FOLDER / "rlaif.yaml", shared, **more)}
    assert not again["labels"].reused
    assert again["labels"].folder != made["labels"].folder


def test_online_methods_and_sample_stages(shared: Path, tmp_path: Path):
    """DPO, then every way to go on online; and a stage that samples, scores and hands on its best answers."""
    made = {m.step.name: m for m in small(FOLDER / "dpo_then_online.yaml", shared)}
    for name in ("dpo_ppo", "dpo_online", "dpo_grpo"):
        run = made[name].run
        assert run.status == "finished"
        parents = {p.role: p.weights_hash for p in run.record.parents}
        assert (parents["policy"], parents["reward"]) == (
            made["dpo"].run.weights_hash,
            made["reward"].run.weights_hash,
        )
    stages = yaml.safe_load((FOLDER / "dpo_then_online.yaml").read_text())["stages"][:5]
    short = {"length": "length:0.01", "reward": "reward"}
    best = {"name": "best", "method": "sample", "model": "sft", "data": "town/prompts.jsonl", "keep": "best"}
    best |= {"reward": [{"reward": r} for r in short.values()], "num_generations": 2, "keep_truncated": True}
    stages += [best, {"name": "copied", "method": "sft", "model": "sft", "data": "best"}]
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump({"seed": 1, "stages": stages}))
    first = {m.step.name: m for m in small(path, shared, best={"response_length": 16})}
    assert (
        Path(first["copied"].run.record.data[0].source) == first["best"].run.data_file == first["best"].result
    )
    assert first["reward"].reused
    assert {m.step.name for m in small(path, shared, best={"response_length": 16}) if not m.reused} == set()
    assert {m.step.name for m in small(path, shared, best={"response_length": 8}) if not m.reused} >= {"best"}


def test_labellers_are_mixed_by_weight(shared: Path):
    drafts = next(p for p in shared.glob("drafts*/responses.jsonl"))
    maker = MakeLabels(labellers=("panel=1", "town:long=3"), town_seed=1)
    folder = shared / "mixed"
    folder.mkdir()
    maker.make(folder, {"data": str(drafts)}, lambda *_: None)
    summary = json.loads((folder / "summary.json").read_text())
    critic = summary["by"]["town 1 critic long"]
    assert summary["labels"] / 2 < critic < summary["labels"]
    people = set(summary["by"]) - {"town 1 critic long"}
    assert people <= {"careful", "hasty", "chatty", "flattered", "trusting"}


def test_all_that_is_wrong_with_a_chain(tmp_path: Path):
    path = tmp_path / "bad.yaml"
    stages = [
        {"method": "town", "documents": 0},
        {"method": "sft", "model": "town/bose", "data": "town/demonstrations.jsonl"},
        {"name": "labels", "method": "judge", "judge": "town", "orders": "some"},
        {"method": "dpo", "model": "sft", "data": "sft/pairs.jsonl", "betta": 1},
        {"method": "judgee"},
        {"method": "sft"},
        {"name": "drafts", "method": "respond", "model": "town/prompts.jsonl", "data": "town"},
        {
            "name": "online",
            "method": "grpo",
            "model": "drafts",
            "data": "town/prompts.jsonl",
            "reward": ["sft", "drafts"],
        },
    ]
    path.write_text(yaml.safe_dump({"sead": 1, "stages": stages}))
    with pytest.raises(TastemakerError) as caught:
        load_chain(path, None, {"lost": {"beta": 1}, "draft": {"n": 3}})
    text = str(caught.value)
    for part in (
        "stage town: documents = 0",
        "stage sft: model: town gives no 'bose'; it gives base, demonstrations.jsonl, prompts.jsonl",
        "stage labels: data is missing",
        "orders = 'some'",
        "stage dpo: data: sft gives no 'pairs.jsonl'; it is a run: name it alone",
        "betta: no such setting; did you mean beta?",
        "stages[4]: no such method 'judgee'; did you mean judge?",
        "there is a stage sft already",
        "lost: no such stage",
        "draft: no such stage; did you mean drafts?",
        "sead: no stage has such a setting",
        "stage drafts: model: town/prompts.jsonl is no model; town/base would do",
        "stage drafts: data: town is a model, and data are wanted; town/demonstrations.jsonl would do",
        "stage online: model: drafts is no model",
        "stage online: reward: drafts is no model",
    ):
        assert part in text, text


def test_runs_of_a_chain_are_ordinary_runs(shared: Path):
    run = Run.open(shared / "dpo")
    assert run.method == "dpo"
    assert run.model_dir.is_dir()
