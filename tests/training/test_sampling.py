"""Data from a policy's own samples: what is kept, exact resume, lineage, and the rounds of iterative DPO."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tastemaker.data import read_records
from tastemaker.methods import DPO, SFT
from tastemaker.methods.sample import Sample, Sampled
from tastemaker.models import tiny_model
from tastemaker.runs import Run, lineage, render_tree
from tastemaker.studies.pipeline import run_pipeline
from tastemaker.studies.recipe import load_recipe
from tastemaker.training import Interrupted, train
from tastemaker.training.sampling import sample
from tastemaker.types import Comparison, Demonstration, Question, TastemakerError

PAIRS = [
    {"prompt": f"what is {a} ?", "chosen": f"it is {a} .", "rejected": f"no {b} {b} idea ."}
    for a in ("a cat", "a dog", "the sky", "rain", "bread")
    for b in ("good", "bad")
]
SMALL = {"response_length": 6, "num_generations": 4, "keep_truncated": True, "per_device_train_batch_size": 3}


def letters(completions: list[str], **columns: object) -> list[float | None]:
    """Pays for the letter a; says nothing of empty responses."""
    return [float(text.count("a")) if text else None for text in completions]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    (root / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PAIRS))
    texts = [f"{p['prompt']} {p['chosen']} {p['rejected']}" for p in PAIRS]
    model, tokenizer = tiny_model(texts, seed=0, vocab_size=300, hidden=16, heads=2)
    settings = {"max_steps": 40, "learning_rate": 2e-2, "per_device_train_batch_size": 10, "num_samples": 0}
    run = train(SFT(), model=(model, tokenizer), data=str(root / "pairs.jsonl"), out=root / "sft", **settings)
    shutil.copytree(run.model_dir, root / "base")  # it writes words, if not sense
    (root / "paying.py").write_text(
        "def letters(completions, **columns):\n"
        "    return [float(text.count('a')) if text else None for text in completions]\n"
    )
    return root


def drawn(world: Path, out: Path, **options: Any) -> Run:
    given = {**SMALL, **options}
    return sample(model=str(world / "base"), data=str(world / "pairs.jsonl"), reward=letters, out=out, **given)


def lines(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return [json.loads(line) for line in path.read_text().splitlines()]


# ------------------------------------------------------------------------------------------- what is kept


QUESTION = Question(prompt="p", row="q7")
SAID = Sampled(
    texts=("two", "one", "cut", "two", "mark", " ", "three", "nothing"),
    rewards=(2.0, 1.0, 9.0, 2.0, 9.0, 9.0, 3.0, None),
    ended=(True, True, False, True, True, True, True, True),
    sound=(True, True, True, True, False, True, True, True),
)


def kept(**settings: Any) -> list[Any]:
    return Sample(**settings).records(QUESTION, SAID, source="policy x", judge="said")


def test_a_pair_is_the_best_and_the_worst_of_what_text_can_carry():
    ((pair, scores),) = kept()
    assert pair == Comparison(
        prompt="p", responses=("three", "one"), strength=2.0, source="policy x", annotator="said", row="q7"
    )
    assert scores == {"score_chosen": 3.0, "score_rejected": 1.0}
    ((pair, _),) = kept(keep_truncated=True)
    assert pair.responses == ("cut", "one")


def test_a_ranking_holds_every_different_response():
    ((ranking, scores),) = kept(keep="ranking")
    assert ranking.responses == ("three", "two", "one")
    assert ranking.ranking == (0, 1, 2)
    assert scores == {"scores": [3.0, 2.0, 1.0]}


def test_the_best_and_those_that_pass_are_demonstrations():
    assert kept(keep="best") == [(Demonstration(prompt="p", response="three", row="q7"), {"score": 3.0})]
    assert kept(keep="best", min_reward=3.5) == []
    passing = [record.response for record, _ in kept(keep="passing", min_reward=2.0)]
    assert passing == ["two", "three"]


def test_alike_rewards_teach_nothing():
    same = Sampled(("a", "b"), (1.0, 1.0), (True, True), (True, True))
    for keep in ("pair", "ranking"):
        assert Sample(keep=keep).records(QUESTION, same, source="", judge="") == []  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_generations": 1}, "needs 2"),
        ({"keep": "passing"}, "min_reward"),
        ({"min_reward": 1.0}, "no effect"),
        ({"temperature": 0.0}, "temperature"),
        ({"limit": 0}, "limit"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], said: str):
    with pytest.raises(TastemakerError, match=said):
        Sample(**settings)


# ------------------------------------------------------------------------------------------- a run


def test_samples_become_ordinary_preference_data(world: Path, tmp_path: Path):
    run = drawn(world, tmp_path / "run")
    assert run.status == "finished"
    samples = run.samples()
    assert [line["row"] for line in samples] == list(range(len(PAIRS)))
    assert all(len(line["completions"]) == 4 for line in samples)  # pyright: ignore[reportArgumentType]
    data = read_records(str(run.data_file), Comparison)
    assert 0 < len(data) <= len(PAIRS)
    by_prompt: dict[str, list[set[str]]] = {}
    for pair, line in zip(samples, PAIRS, strict=True):
        by_prompt.setdefault(line["prompt"], []).append(set(pair["completions"]))  # pyright: ignore[reportArgumentType]
    for record, line in zip(data.records, lines(run.data_file), strict=True):
        assert isinstance(record, Comparison)
        better, worse = record.responses
        assert str(better).count("a") > str(worse).count("a")
        assert record.strength == line["score_chosen"] - line["score_rejected"] == line["margin"]
        assert record.annotator == "letters"
        assert record.source.startswith("policy ")
        assert any({better, worse} <= texts for texts in by_prompt[str(record.prompt)])
    assert run.metrics()[-1]["step"] == 4  # ten prompts, three at a time
    assert run.record.resources.tokens["rollouts"] > 0


def test_a_run_cut_off_between_steps_ends_with_the_same_bytes(world: Path, tmp_path: Path):
    whole = drawn(world, tmp_path / "whole")

    def interrupt(step: int, total: int, metrics: object) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        drawn(world, tmp_path / "cut", progress=interrupt)
    cut = Run.open(tmp_path / "cut")
    assert (cut.status, len(cut.samples())) == ("interrupted", 6)
    text = cut.samples_file.read_text()
    cut.samples_file.write_text(
        text + text.splitlines()[-1].replace('"step":2', '"step":3')[:40]
    )  # half a line
    resumed = drawn(world, tmp_path / "cut")
    assert resumed.record.hashes["data"] == whole.record.hashes["data"]
    assert resumed.samples_file.read_bytes() == whole.samples_file.read_bytes()
    assert [m["step"] for m in resumed.metrics()] == [1, 2, 3, 4]
    again = drawn(world, tmp_path / "cut")
    assert again.record.ended == resumed.record.ended, "a finished run is returned as it is"


def test_how_many_prompts_go_at_once_changes_no_sample(world: Path, tmp_path: Path):
    one, other = (drawn(world, tmp_path / str(n), per_device_train_batch_size=n) for n in (3, 10))
    assert one.record.hashes["data"] == other.record.hashes["data"]


def test_two_processes_write_what_one_writes(world: Path, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom tastemaker.training.sampling import sample\n"
        "sample(model=sys.argv[1] + '/base', data=sys.argv[1] + '/pairs.jsonl', reward=sys.argv[1] + "
        "'/paying.py:letters', out=sys.argv[2], response_length=6, num_generations=4, keep_truncated=True, "
        "per_device_train_batch_size=3)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), str(world), str(tmp_path / "two")]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one = drawn(world, tmp_path / "one")
    assert Run.open(tmp_path / "two").record.hashes["data"] == one.record.hashes["data"]


def test_part_of_the_prompts(world: Path, tmp_path: Path):
    run = drawn(world, tmp_path / "part", skip=4, limit=3)
    assert len(run.samples()) == 3
    assert [str(line["prompt"]).split()[-2] for line in run.samples()] == ["sky", "sky", "rain"]
    with pytest.raises(TastemakerError, match="skip=10"):
        drawn(world, tmp_path / "none", skip=10)


def test_a_reward_that_tells_nothing_apart_says_so(world: Path, tmp_path: Path):
    def flat(completions: list[str], **columns: object) -> list[float]:
        return [1.0] * len(completions)

    with pytest.raises(TastemakerError, match="none of 10 prompts"):
        sample(
            model=str(world / "base"), data=str(world / "pairs.jsonl"), reward=flat, out=tmp_path / "x", **SMALL
        )
    assert Run.open(tmp_path / "x").status == "failed"


def test_a_run_that_sampled_is_data_and_lineage_knows_it(world: Path, tmp_path: Path):
    pairs = drawn(world, tmp_path / "pairs")
    best = drawn(world, tmp_path / "best", keep="best")
    settings = {"max_steps": 1, "per_device_train_batch_size": 2, "num_samples": 0}
    dpo = train(DPO(), model=str(world / "base"), data=pairs, out=tmp_path / "dpo", **settings)
    sft = train(SFT(), model=dpo, data=str(best.folder), out=tmp_path / "sft", **settings)
    tree = lineage(sft)
    assert [(n.role, n.run.method if n.run else "") for n in tree.parents] == [
        ("policy", "dpo"),
        ("data", "sample"),
    ]
    below = tree.parents[0].parents
    assert [n.role for n in below] == ["policy", "reference", "data"]
    assert below[2].run is not None and below[2].run.folder == pairs.folder
    assert "data: pairs [sample, finished]" in render_tree(tree)
    assert [n.problem for n in below] == ["", "", ""]
    drawn(world, tmp_path / "pairs", seed=5, force=True)
    assert lineage(dpo).parents[2].problem == "its data have changed since"
    with pytest.raises(TastemakerError, match="made no data"):
        train(SFT(), model=dpo, data=dpo, out=tmp_path / "no", **settings)


def test_the_command_line_samples_too_and_may_cut_the_distribution(world: Path, tmp_path: Path):
    from tastemaker.cli import main

    out = tmp_path / "run"
    words = (
        f"sample --model {world / 'base'} --data {world / 'pairs.jsonl'} --reward {world / 'paying.py'}:letters"
    )
    words += f" --out {out} --keep ranking --num-generations 5 --response-length 6 --keep-truncated --top-p 0.9"
    assert main(words.split()) == 0
    run = Run.open(out)
    assert run.method == "sample"
    assert run.settings["top_p"] == 0.9
    data = read_records(str(run.data_file), Comparison)
    assert all(isinstance(r, Comparison) and len(r.responses) == len(r.ranking) > 1 for r in data.records)
    assert main([*words.split(), "--learning-rate", "0.1"]) == 2, "nothing is trained"


# ------------------------------------------------------------------------------------------- rounds


def test_rounds_of_iterative_dpo_are_a_pipeline(world: Path, tmp_path: Path):
    content: dict[str, Any] = {
        "model": str(world / "base"),
        "data": str(world / "pairs.jsonl"),
        "out": str(tmp_path / "out"),
        "reward": f"{world / 'paying.py'}:letters",
        "max_steps": 2,
        "num_samples": 0,
        "learning_rate": 1e-3,
        **SMALL,
        "stages": [
            {"name": "samples-1", "method": "sample"},
            {"name": "dpo-1", "method": "dpo", "data": "samples-1"},
            {"name": "samples-2", "method": "sample", "model": "dpo-1"},
            {
                "name": "dpo-2",
                "method": "dpo",
                "model": "dpo-1",
                "data": "samples-2",
                "ref_model": str(world / "base"),
            },
        ],
    }
    first = run_pipeline(load_recipe(content))
    assert [r.reused for r in first] == [False] * 4
    runs = {r.stage.name: r.run for r in first}
    assert runs["samples-2"].record.parents[0].weights_hash == runs["dpo-1"].weights_hash
    assert runs["dpo-2"].record.data[0].sha256 == runs["samples-2"].record.hashes["data"]
    assert {p.role: p.weights_hash for p in runs["dpo-2"].record.parents}["reference"] == next(
        p.weights_hash for p in runs["dpo-1"].record.parents if p.role == "policy"
    )
    assert [r.reused for r in run_pipeline(load_recipe(content))] == [True] * 4
    content["stages"][2]["seed"] = 7  # a further response may change no pair; other draws do
    again = run_pipeline(load_recipe(content))
    assert [r.reused for r in again] == [True, True, False, False]
    assert again[3].run.folder.name == "dpo-2-2" or again[3].run.folder != runs["dpo-2"].folder


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([{"method": "sample"}, {"method": "dpo", "data": "samples"}], "did you mean"),
        ([{"method": "dpo", "data": "sample"}, {"method": "sample"}], "not an earlier stage"),
        ([{"method": "sample", "learning_rate": 0.1}], "learning_rate"),
        ([{"method": "sample", "reward": None}], "reward is missing"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(stages: list[dict[str, Any]], said: str):
    content = {"model": "m", "data": "d", "out": "o", "reward": "r", "stages": stages}
    if said == "did you mean":  # a name that is no stage is a file's
        assert load_recipe(content).stages[1].parents == {}
        return
    if said == "reward is missing":
        del content["reward"]
    with pytest.raises(TastemakerError, match=said):
        load_recipe(content)
