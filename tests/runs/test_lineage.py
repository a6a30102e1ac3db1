"""Where a run came from, as a tree."""

import shutil

import pytest

from tastemaker.errors import TastemakerError
from tastemaker.runs import Parent, Run, Source, lineage, list_runs, render_tree


def make(root, name, method, weights, parents=(), data=()):
    run = Run.create(root / name, method=method, settings={}, seed=0, parents=parents, data=data)
    run.update(status="finished", hashes={"weights": weights})
    return run


def parent(role, run):
    return Parent(role=role, path=str(run.folder), weights_hash=run.weights_hash)


@pytest.fixture
def four(tmp_path):
    """sft -> reward; sft and reward -> ppo."""
    root = tmp_path / "runs"
    base = Parent(role="policy", path="acme/base", weights_hash="0" * 64)
    data = [Source(source="demos.jsonl", sha256="d" * 64, rows=1200)]
    sft = make(root, "sft", "sft", "a" * 64, [base], data)
    reward = make(root, "rm", "reward", "b" * 64, [parent("policy", sft)])
    dpo = make(root, "dpo", "dpo", "c" * 64, [parent("policy", sft)])
    make(root, "ppo", "ppo", "e" * 64, [parent("policy", dpo), parent("reward", reward)])
    return root


TREE = """\
ppo [ppo, finished] eeeeeeee
├─ policy: dpo [dpo, finished] cccccccc
│  └─ policy: sft [sft, finished] aaaaaaaa
│     ├─ data: demos.jsonl (1,200 rows, dddddddd)
│     └─ policy: acme/base 00000000
└─ reward: rm [reward, finished] bbbbbbbb
   └─ policy: sft [sft, finished] aaaaaaaa (as above)"""


def test_the_tree_of_four_runs(four):
    assert render_tree(lineage(four / "ppo")) == TREE


def test_what_stands_in_a_tree_before_is_named_again_and_no_more(four):
    both = render_tree(lineage(four / "dpo"), lineage(four / "rm")).splitlines()
    assert both[0] == "dpo [dpo, finished] cccccccc"
    assert both[-2:] == ["rm [reward, finished] bbbbbbbb", "└─ policy: sft [sft, finished] aaaaaaaa (as above)"]


def test_a_run_whose_weights_have_changed_since_is_another_one(four):
    before = lineage(four / "dpo")
    Run.open(four / "sft").update(hashes={"weights": "f" * 64})
    assert "(as above)" not in render_tree(before, lineage(four / "rm"))


def test_the_tree_holds_after_the_runs_have_moved(four, tmp_path):
    four.rename(tmp_path / "elsewhere")
    assert render_tree(lineage(tmp_path / "elsewhere" / "ppo")) == TREE


def test_a_missing_parent_is_said(four):
    shutil.rmtree(four / "rm")
    assert render_tree(lineage(four / "ppo")).endswith("└─ reward: ../rm bbbbbbbb (missing)")


def test_a_parent_that_was_trained_anew_is_said(four):
    Run.open(four / "sft").update(hashes={"weights": "f" * 64})
    tree = render_tree(lineage(four / "dpo"))
    assert "sft [sft, finished] ffffffff (its weights have changed since)" in tree


def test_a_cycle_ends_and_is_said(four):
    record = (four / "sft" / "run.json").read_text()
    (four / "sft" / "run.json").write_text(record.replace("acme/base", "../ppo"))
    tree = render_tree(lineage(four / "ppo"))
    assert tree.count("(is its own ancestor)") == 1, "by way of dpo; by way of rm it stands above"


def test_a_damaged_parent_is_said_and_left_out_of_lists(four, caplog):
    (four / "dpo" / "run.json").write_text("{")
    assert "is not JSON" in render_tree(lineage(four / "ppo"))
    assert {r.name for r in list_runs(four)} == {"sft", "rm", "ppo"}
    assert "dpo" in caplog.text


def test_a_model_folder_counts_as_its_run(four):
    sft = Run.open(four / "sft")
    sft.model_dir.mkdir()
    link = Parent(role="policy", path=str(sft.model_dir), weights_hash="a" * 64)
    assert lineage(make(four, "kto", "kto", "9", [link])).parents[0].run.name == "sft"


def test_a_plain_model_folder_is_a_leaf(four, tmp_path):
    (tmp_path / "model").mkdir()
    run = make(
        four, "x", "sft", "9", [Parent(role="policy", path=str(tmp_path / "model"), weights_hash="7" * 64)]
    )
    (leaf,) = lineage(run).parents
    assert (leaf.run, leaf.problem, leaf.parents) == (None, "", ())


def test_runs_are_listed_from_all_depths(four, tmp_path):
    make(tmp_path / "compare" / "seed-0", "dpo", "dpo", "1")
    (four / ".hidden").mkdir()
    shutil.copytree(four / "sft", four / ".hidden" / "sft")
    assert sorted(r.name for r in list_runs(tmp_path)) == ["dpo", "dpo", "ppo", "rm", "sft"]
    with pytest.raises(TastemakerError, match="not a folder"):
        list_runs(tmp_path / "absent")
