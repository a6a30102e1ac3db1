"""Checkpoints survive kills, full disks and damage."""

import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

from tastemaker.errors import TastemakerError
from tastemaker.runs.process import Process
from tastemaker.training import checkpoint as checkpoint_module
from tastemaker.training.checkpoint import load_latest, save

KILLS = Path(__file__).parent / "checkpoint_kills.py"


def values(step, size=64):
    return {"model": {"w": torch.full((size,), float(step))}, "optimizer": {"m": torch.arange(size) * step}}


def save_three(folder, **options):
    for step in (1, 2, 3):
        save(folder, step, values(step), {"position": step}, **options)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# ------------------------------------------------------------------------------------------- kills


def run_kills(*arguments):
    result = subprocess.run(
        [sys.executable, str(KILLS), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


def test_E4_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path):
    counts = run_kills("random", tmp_path, 40)
    assert counts["failed"] == 0, counts["error"]
    assert counts["killed"] >= 40
    assert counts["finished"] == counts["equal"] >= 1


def test_E4_killed_before_each_file_operation_of_a_save_it_ends_with_the_same_weights(tmp_path):
    memory = Path("/dev/shm")  # a kill is the same there, and hundreds of fsyncs cost nothing
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        counts = run_kills("sweep", folder)
    assert counts["killed"] == counts["equal"] > 40
    assert counts["torn"] == counts["left"] == 0


# ------------------------------------------------------------------------------------------- damage


def delete(path):
    path.unlink()


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [delete, truncate, flip])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
def test_E5_any_damage_to_any_file_is_found_and_the_one_before_is_used(tmp_path, file, damage):
    save_three(tmp_path)
    assert set(names(tmp_path / "step-00000003")) == {
        "MANIFEST.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }
    damage(tmp_path / "step-00000003" / file)
    said = []
    found = load_latest(tmp_path, warn=said.append)
    assert (found.step, found.state) == (2, {"position": 2})
    assert torch.equal(found.tensors("model")["w"], torch.full((64,), 2.0))
    assert len(said) == 1
    assert "step-00000003" in said[0]
    assert file in said[0]
    assert "step 2 is used" in said[0]
    assert names(tmp_path) == [".bad-step-00000003", "step-00000002"]
    save(tmp_path, 3, values(3), {"position": 3})
    assert load_latest(tmp_path, warn=pytest.fail).step == 3


def test_E5_no_byte_of_the_manifest_can_change_unseen(tmp_path):
    path = save(tmp_path, 1, values(1), {}) / "MANIFEST.json"
    whole = path.read_bytes()
    bits = random.Random(0)
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << bits.randrange(8))]) + whole[i + 1 :])
        with pytest.raises(TastemakerError, match=r"MANIFEST\.json"):
            load_latest(tmp_path)
    path.write_bytes(whole + b"\n")
    with pytest.raises(TastemakerError, match=r"MANIFEST\.json"):
        load_latest(tmp_path)


def test_E5_where_all_are_damaged_nothing_starts_afresh(tmp_path):
    save_three(tmp_path)
    for path in tmp_path.iterdir():
        flip(path / "model.safetensors")
    for _ in range(2):
        with pytest.raises(TastemakerError, match="every checkpoint is damaged") as caught:
            load_latest(tmp_path)
    assert str(caught.value).count("model.safetensors is not what was written") == 2
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_E5_a_resume_that_finds_nothing_raises(tmp_path):
    assert load_latest(tmp_path / "absent") is None
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(TastemakerError, match="no checkpoint to resume from"):
            load_latest(folder, required=True)


def test_a_checkpoint_renamed_to_another_step_is_not_believed(tmp_path):
    save(tmp_path, 1, values(1), {}).rename(tmp_path / "step-00000009")
    with pytest.raises(TastemakerError, match="MANIFEST"):
        load_latest(tmp_path)


def test_the_same_step_may_be_bad_twice(tmp_path):
    for _ in range(2):
        save_three(tmp_path)
        delete(tmp_path / "step-00000003" / "state.json")
        assert load_latest(tmp_path, warn=lambda _: None).step == 2
    assert names(tmp_path)[:2] == [".bad-step-00000003", ".bad-step-00000003-2"]


def test_where_nothing_can_be_renamed_the_older_one_is_used_all_the_same(tmp_path, monkeypatch):
    save_three(tmp_path)
    delete(tmp_path / "step-00000003" / "state.json")

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(checkpoint_module.os, "rename", refuse)
    said = []
    assert load_latest(tmp_path, warn=said.append).step == 2
    assert "cannot be renamed" in said[1]


# ------------------------------------------------------------------------------------------- disk


def test_a_disk_that_fills_up_at_any_byte_leaves_the_last_checkpoint(tmp_path):
    save(tmp_path, 1, values(1), {"position": 1, "text": "x" * 900})
    largest = max(p.stat().st_size for p in (tmp_path / "step-00000001").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in range(0, largest, 41):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(
                TastemakerError, match=r"step 2 cannot be saved.* needs [\d,]+ bytes; free: [\d,]+"
            ):
                save(tmp_path, 2, values(2), {"position": 2, "text": "x" * 900}, keep_last=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert names(tmp_path) == ["step-00000001"]
    assert load_latest(tmp_path, warn=pytest.fail).state["position"] == 1
    save(tmp_path, 2, values(2), {})
    assert load_latest(tmp_path).step == 2


def test_too_little_space_is_found_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 1, values(1), {})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checkpoint_module.shutil, "disk_usage", lambda _: usage(0, 0, 3_999_999))
    monkeypatch.setattr(checkpoint_module, "save_file", lambda *_: pytest.fail("wrote"))
    big = {"model": {"w": torch.zeros(1_000_000)}}
    with pytest.raises(TastemakerError, match=r"too full.*needs 4,0\d\d,\d\d\d bytes; free: 3,999,999"):
        save(tmp_path, 2, big, {}, keep_last=1)
    assert names(tmp_path) == ["step-00000001"]


def test_the_space_asked_for_is_enough_and_not_far_too_much(tmp_path):
    tensors = {"a": {f"layer.{i}.weight": torch.zeros(1000) for i in range(50)}, "b": {}}
    path = save(tmp_path, 1, tensors, {})
    written = sum(p.stat().st_size for p in path.iterdir())
    assert written <= checkpoint_module._size(tensors) <= 1.2 * written


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TastemakerError, match="cannot be saved: Not a directory"):
        save(tmp_path / "file" / "checkpoints", 1, values(1), {})


# ------------------------------------------------------------------------------------------- folders


def test_the_newest_are_kept(tmp_path):
    save_three(tmp_path / "one", keep_last=1)
    assert names(tmp_path / "one") == ["step-00000003"]
    save_three(tmp_path / "two")
    assert names(tmp_path / "two") == ["step-00000002", "step-00000003"]
    save_three(tmp_path / "all", keep_last=None)
    assert len(names(tmp_path / "all")) == 3
    with pytest.raises(ValueError, match="keep_last"):
        save(tmp_path / "one", 4, values(4), {}, keep_last=0)


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step, values(1), {}, keep_last=1)
    assert load_latest(tmp_path).step == 100_000_000


def test_old_ones_go_only_after_the_new_one_is_there(tmp_path, monkeypatch):
    save(tmp_path, 1, values(1), {}, keep_last=1)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "_publish", fail)
    with pytest.raises(TastemakerError, match="No space left on device"):
        save(tmp_path, 2, values(2), {}, keep_last=1)
    assert names(tmp_path) == ["step-00000001"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1, values(1), {"version": 1})
    save(tmp_path, 1, values(5), {"version": 2})
    found = load_latest(tmp_path, warn=pytest.fail)
    assert (found.step, found.state["version"]) == (1, 2)
    assert names(tmp_path) == ["step-00000001"]


def test_the_replaced_one_is_used_when_its_successor_never_came(tmp_path):
    save(tmp_path, 1, values(1), {}).rename(tmp_path / ".old-step-00000001")
    found = load_latest(tmp_path, warn=pytest.fail)
    assert found.step == 1
    assert torch.equal(found.tensors("model")["w"], torch.ones(64))
    assert names(tmp_path) == ["step-00000001"]


def test_what_dead_processes_left_is_removed_and_what_living_ones_write_is_not(tmp_path):
    me = Process.current()
    parent = os.getppid()
    left = {
        f".tmp-step-00000001-{me.host}-{me.pid}-{me.started}": False,
        f".tmp-step-00000001-{me.host}-{me.pid}-{me.started + 1}": False,
        f".tmp-step-00000001-{me.host}-{parent}-0": True,
        ".tmp-step-00000001-elsewhere-1-1": True,
        ".tmp-step-00000002-elsewhere-1-1": False,
        ".del-step-00000001": False,
        ".bad-step-00000001": True,
        "notes": True,
    }
    for name in left:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("half")
    long_ago = time.time() - 7200
    os.utime(tmp_path / ".tmp-step-00000002-elsewhere-1-1", (long_ago, long_ago))
    save(tmp_path, 3, values(3), {})
    assert names(tmp_path) == sorted([*(n for n, kept in left.items() if kept), "step-00000003"])


def test_an_interruption_while_saving_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "_publish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1, values(1), {})
    assert names(tmp_path) == []


# ------------------------------------------------------------------------------------------- contents


def test_tensors_of_every_kind_come_back_bit_for_bit(tmp_path):
    shared = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    tensors = {
        "bf16": torch.tensor([1.0, math.nan, -0.0], dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "long": torch.tensor([-(2**62)]),
        "transposed": shared.T,
        "row": shared[1],
        "whole": shared,
        "tied": shared,
        "trained": nn.Parameter(torch.ones(2)),
    }
    save(tmp_path, 1, {"all": tensors, "none": {}}, {})
    found = load_latest(tmp_path)
    loaded = found.tensors("all")
    assert set(loaded) == set(tensors)
    assert found.names == ("all", "none")
    assert found.tensors("none") == {}
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert (
            loaded[name].numpy(force=True).tobytes() == tensor.numpy(force=True).tobytes()
            if name != "bf16"
            else (torch.equal(loaded[name].view(torch.int16), tensor.view(torch.int16)))
        )


def test_state_comes_back_bit_for_bit(tmp_path):
    state = {"lr": 0.1 + 0.2, "tiny": 5e-324, "inf": -math.inf, "big": 2**70, "text": "\ud83dü", "none": None}
    save(tmp_path, 1, {}, {**state, "pair": (1, 2), "nan": math.nan})
    found = load_latest(tmp_path).state
    assert found.pop("pair") == [1, 2]
    assert math.isnan(found.pop("nan"))
    assert found == state


@pytest.mark.parametrize("state", [{"a": {1: 2}}, {"a": [object()]}, {"a": torch.zeros(1)}])
def test_state_that_json_would_change_is_refused(tmp_path, state):
    with pytest.raises(TypeError, match=r"state\.a"):
        save(tmp_path, 1, {}, state)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["../up", "a/b", ""])
def test_tensor_files_stay_inside_the_checkpoint(tmp_path, name):
    with pytest.raises(TastemakerError, match="name"):
        save(tmp_path / "c", 1, {name: {"w": torch.zeros(1)}}, {})
    assert names(tmp_path) == ["c"]
    assert names(tmp_path / "c") == []


def test_who_may_read_one_file_may_read_all(tmp_path):
    path = save(tmp_path, 1, values(1), {})
    assert len({p.stat().st_mode for p in path.iterdir()}) == 1
