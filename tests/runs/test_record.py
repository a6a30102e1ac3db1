"""A run's folder says what went in and what came out, whatever happened on the way."""

import json
import math
import os
import platform
import resource
import signal
import subprocess
import sys

import pytest
import torch

from tastemaker.errors import TastemakerError
from tastemaker.runs import Parent, Resources, Run, RunLock, Source
from tastemaker.runs.environment import git_commit

SETTINGS = {"beta": 0.1, "lora": {"r": 8, "targets": ("q", "v")}, "max_grad_norm": math.inf}
DATA = [Source(source="pairs.jsonl", sha256="d" * 64, rows=10)]
PARENTS = [Parent(role="policy", path="acme/base", weights_hash="a" * 64)]


def make(folder, **changes):
    inputs = {"method": "dpo", "settings": SETTINGS, "seed": 7, "data": DATA, "parents": PARENTS}
    return Run.create(folder, **(inputs | changes))


def test_a_run_reads_back_as_it_was_written(tmp_path):
    make(tmp_path / "first", command="tastemaker dpo").update(
        status="finished", hashes={"weights": "e" * 64}, resources=Resources(wall_seconds=1.5, model_copies=2)
    )
    run = Run.open(tmp_path / "first")
    assert (run.name, run.method, run.status, run.record.seed) == ("first", "dpo", "finished", 7)
    assert run.settings == {"beta": 0.1, "lora": {"r": 8, "targets": ["q", "v"]}, "max_grad_norm": "Infinity"}
    assert (run.record.data, run.record.parents) == (tuple(DATA), tuple(PARENTS))
    assert run.weights_hash == "e" * 64
    assert run.record.resources.wall_seconds == 1.5
    assert run.record.command == "tastemaker dpo"
    assert run.record.versions["torch"] == torch.__version__
    assert run.record.versions["python"] == platform.python_version()
    assert set(run.record.versions) == {"python", "torch", "transformers", "peft", "tastemaker"}
    assert run.record.created.endswith("+00:00")
    assert run.model_dir == tmp_path.resolve() / "first" / "model"
    assert Run.open(run).record == run.record
    json.loads((run.folder / "run.json").read_text(), parse_constant=pytest.fail)


def test_names_come_from_the_folder_or_the_method(tmp_path):
    assert make(tmp_path / "a-1").name == "a-1"
    assert make(tmp_path / "my results").name.startswith("dpo-")
    assert make(tmp_path / "b", name="c").name == "c"
    with pytest.raises(TastemakerError, match="name"):
        make(tmp_path / "d", name="../e")
    assert not (tmp_path / "d").exists()


def test_what_is_no_run_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(TastemakerError, match=r"holds no run\.json"):
        Run.open(tmp_path / "empty")
    with pytest.raises(TastemakerError, match="no such run folder"):
        Run.open(tmp_path / "absent")
    assert not Run.is_run(tmp_path / "empty")


@pytest.mark.parametrize(
    "content, word",
    [
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ('{"schema_version": 99}', "Update Tastemaker"),
        ('{"schema_version": 1}', "field name"),
    ],
)
def test_a_damaged_record_is_said(tmp_path, content, word):
    make(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(TastemakerError, match=word):
        Run.open(tmp_path / "run")


def test_fields_of_later_versions_survive(tmp_path):
    run = make(tmp_path / "run")
    fields = json.loads((run.folder / "run.json").read_text()) | {"tags": ["x"]}
    (run.folder / "run.json").write_text(json.dumps(fields))
    Run.open(run).update(status="stopped", reason="KL")
    fields = json.loads((run.folder / "run.json").read_text())
    assert (fields["tags"], fields["status"], fields["reason"]) == (["x"], "stopped", "KL")


def test_a_folder_in_use_is_not_overwritten(tmp_path):
    make(tmp_path / "run")
    with pytest.raises(TastemakerError, match="holds a run already"):
        make(tmp_path / "run")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    with pytest.raises(TastemakerError, match=r"diary\.txt"):
        make(tmp_path / "notes")
    with pytest.raises(TastemakerError, match="is a file"):
        make(tmp_path / "notes" / "diary.txt")


def test_a_folder_with_a_lock_and_half_a_record_is_free(tmp_path):
    with RunLock(tmp_path / "run"):
        (tmp_path / "run" / ".tmp-run.json").write_text("{")
        assert make(tmp_path / "run").status == "running"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["lock", "run.json"]


def test_a_killed_run_is_interrupted(tmp_path):
    script = (
        "import sys, os, signal; from tastemaker.runs import Run, RunLock\n"
        "with RunLock(sys.argv[1]):\n"
        "    run = Run.create(sys.argv[1], method='sft', settings={}, seed=0)\n"
        "    assert run.status == 'running'\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert Run.open(tmp_path / "run").record.status == "running"
    assert Run.open(tmp_path / "run").status == "interrupted"


def test_metrics_come_back_with_numbers_that_are_not_finite(tmp_path):
    run = make(tmp_path / "run")
    assert run.metrics() == []
    run.log_metrics(
        1, {"loss": torch.tensor(0.5, dtype=torch.float64), "rewards/margins": math.nan, "kl": -math.inf}
    )
    run.log_metrics(2, {"loss": 1e-17, "n": 3})
    first, second = run.metrics()
    assert first["loss"] == 0.5
    assert math.isnan(first["rewards/margins"])
    assert first["kl"] == -math.inf
    assert second == {"step": 2, "loss": 1e-17, "n": 3}
    for line in run.metrics_file.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_samples_and_receipt_keep_any_text(tmp_path):
    run = make(tmp_path / "run")
    text = 'ünï\u2028 \ud83d "x"\n\x00'
    run.log_samples(3, [{"response": text}, {"response": ""}])
    run.log_samples(4, [])
    assert run.samples() == [{"step": 3, "response": text}, {"step": 3, "response": ""}]
    run.write_receipt({"dropped": 2, "first": text})
    assert run.receipt() == {"dropped": 2, "first": text}
    run.samples_file.read_text("utf-8")


def test_E4_lines_past_the_resumed_step_are_cut(tmp_path):
    run = make(tmp_path / "run")
    for step in range(1, 6):
        run.log_metrics(step, {"loss": float(step)})
        run.log_samples(step, [{"response": "a"}, {"response": "b"}])
    with open(run.metrics_file, "ab") as file:
        file.write(b'{"step": 6, "lo')
    assert [m["step"] for m in run.metrics()] == [1, 2, 3, 4, 5]
    run.resume(3, settings=SETTINGS, data=DATA, parents=PARENTS)
    for step in range(4, 7):
        run.log_metrics(step, {"loss": float(step)})
    assert [m["step"] for m in run.metrics()] == [1, 2, 3, 4, 5, 6]
    assert [s["step"] for s in run.samples()] == [1, 1, 2, 2, 3, 3]


def test_a_line_half_written_does_not_spoil_the_next(tmp_path):
    run = make(tmp_path / "run")
    run.log_metrics(1, {"loss": 1.0})
    with open(run.metrics_file, "ab") as file:
        file.write(b'{"step": 2, "loss": 0.')
    run.log_metrics(2, {"loss": 2.0})
    assert [m["loss"] for m in run.metrics()] == [1.0, 2.0]


def test_a_broken_line_is_named_by_its_number(tmp_path):
    run = make(tmp_path / "run")
    run.metrics_file.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(TastemakerError, match=r"metrics\.jsonl:2: is not JSON"):
        run.metrics()
    run.metrics_file.write_text('{"step": 1}\n{"loss": 1}\n')
    with pytest.raises(TastemakerError, match=r"metrics\.jsonl:2: field step"):
        run.resume(1, settings=SETTINGS, data=DATA, parents=PARENTS)


def test_E6_a_resume_with_changed_inputs_is_refused_with_the_differences(tmp_path, monkeypatch):
    run = make(tmp_path / "run")
    run.log_metrics(1, {"loss": 1.0})
    before = run.metrics_file.read_bytes(), (run.folder / "run.json").read_bytes()
    monkeypatch.setattr("tastemaker.runs.environment.versions", lambda: run.record.versions | {"torch": "9.9"})
    changed = {
        "settings": SETTINGS | {"beta": 0.2, "max_steps": 5},
        "data": [DATA[0].model_copy(update={"sha256": "0" * 64, "source": "moved.jsonl"})],
        "parents": [PARENTS[0].model_copy(update={"weights_hash": "b" * 64})],
    }
    with pytest.raises(TastemakerError) as caught:
        run.resume(0, **changed, ignore=["max_steps"])
    listed = [line.strip().split(":")[0] for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert listed == ["data[0].sha256", "parents.policy[0]", "settings.beta", "versions.torch"]
    assert "settings.beta: 0.1 -> 0.2" in str(caught.value)
    assert before == (run.metrics_file.read_bytes(), (run.folder / "run.json").read_bytes())


def test_E6_a_forced_resume_is_on_record(tmp_path):
    run = make(tmp_path / "run")
    new = SETTINGS | {"beta": 0.2}
    run.resume(4, settings=new, data=DATA, parents=PARENTS, force=True)
    again = Run.open(run)
    assert again.settings["beta"] == 0.2
    assert [(f.step, f.changes) for f in again.record.forced] == [(4, ("settings.beta: 0.1 -> 0.2",))]
    assert again.changes(settings=new, data=DATA, parents=PARENTS) == []


def test_E6_unchanged_inputs_pass_even_where_they_hold_secrets(tmp_path):
    settings = SETTINGS | {"judge": {"api_key": "abcdefgh"}, "url": "https://me:secret@host/"}
    run = make(tmp_path / "run", settings=settings)
    assert run.changes(settings=settings, data=DATA, parents=PARENTS) == []
    assert "secret@" not in (run.folder / "run.json").read_text()


def test_a_full_disk_leaves_the_record_as_it_was(tmp_path):
    run = make(tmp_path / "run")
    before = (run.folder / "run.json").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(TastemakerError, match=r"run\.json: cannot be written: File too large"):
            run.update(status="finished")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run.folder / "run.json").read_bytes() == before
    assert not list(run.folder.glob(".tmp-*"))
    assert run.record.status == "running"


def test_the_commit_is_the_repositorys(tmp_path):
    assert git_commit(tmp_path) is None
    env = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    me = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "f").write_text("1")
    for arguments in (["init", "-q"], ["add", "f"], [*me, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, env=env, check=True)
    commit = git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "f").write_text("2")
    assert git_commit(tmp_path) == commit + "+changed"
