"""Hashes are equal for equal things and differ for different ones; differences are told."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tastemaker.errors import TastemakerError
from tastemaker.runs import canonical_json, differences, plain, sha256_file, sha256_folder, sha256_json


@dataclass
class Settings:
    beta: float
    names: tuple[str, ...]


def test_canonical_json_is_one_text_for_equal_values():
    assert canonical_json({"b": (1, 2), "a": "ü"}) == '{"a":"\\u00fc","b":[1,2]}'
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    assert sha256_json({"a": "1"}) != sha256_json({"a": 1})
    assert sha256_json([["a"], "b"]) != sha256_json(["a", ["b"]])


def test_plain_takes_what_settings_and_metrics_hold():
    value = {
        "d": Settings(0.1, ("a",)),
        "path": Path("a/b"),
        "t": torch.tensor(2.0),
        "n": np.float32(0.5),
        "yes": np.bool_(True),
        "i": np.int64(3),
        "set": {3, 1},
        "dtype": torch.bfloat16,
        "nan": [float("nan"), float("-inf")],
    }
    assert plain(value) == {
        "d": {"beta": 0.1, "names": ["a"]},
        "path": "a/b",
        "t": 2.0,
        "n": 0.5,
        "yes": True,
        "i": 3,
        "set": [1, 3],
        "dtype": "torch.bfloat16",
        "nan": ["NaN", "-Infinity"],
    }


@pytest.mark.parametrize("bad", [{1: 2}, {"a": object()}, {"a": b"bytes"}, {"a": torch.zeros(2)}])
def test_plain_refuses_what_json_cannot_hold_and_says_where(bad):
    with pytest.raises(TypeError, match="settings"):
        plain(bad, "settings")


def test_folder_hash_follows_names_and_contents_not_order(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, names in ((one, ["a", "b"]), (two, ["b", "a"])):
        (folder / "sub").mkdir(parents=True)
        for name in names:
            (folder / "sub" / name).write_text(name)
    assert sha256_folder(one) == sha256_folder(two)
    before = sha256_folder(one)
    (one / "sub" / "a").rename(one / "a")
    assert sha256_folder(one) != before
    (one / "a").rename(one / "sub" / "a")
    (one / "sub" / "b").write_text("B")
    assert sha256_folder(one) != before


def test_links_to_files_count_as_content_and_links_to_folders_are_refused(tmp_path):
    (tmp_path / "blob").write_text("x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w").symlink_to(tmp_path / "blob")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "w").write_text("x")
    assert sha256_folder(tmp_path / "model") == sha256_folder(tmp_path / "copy")
    assert sha256_file(tmp_path / "model" / "w") == hashlib.sha256(b"x").hexdigest()
    (tmp_path / "model" / "loop").symlink_to(tmp_path)
    with pytest.raises(TastemakerError, match="loop"):
        sha256_folder(tmp_path / "model")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(TastemakerError, match="absent"):
        sha256_file(tmp_path / "absent")
    with pytest.raises(TastemakerError, match="absent"):
        sha256_folder(tmp_path / "absent")


def test_E6_differences_name_key_old_and_new():
    old = {"beta": 0.1, "lora": {"r": 8, "alpha": 16}, "gone": 1, "same": [1, 2], "list": ["a", "b"]}
    new = {"beta": 0.2, "lora": {"r": 16, "alpha": 16.0}, "new": None, "same": (1, 2), "list": ["a"]}
    assert [str(d) for d in differences(old, new)] == [
        "beta: 0.1 -> 0.2",
        "gone: 1 -> (absent)",
        'list: ["a", "b"] -> ["a"]',
        "lora.r: 8 -> 16",
        "new: (absent) -> null",
    ]
    assert differences(old, old) == []
    left = differences(old, new, ignore=["lora", "beta", "li"])
    assert [d.key for d in left] == ["gone", "list", "new"]


def test_E6_true_is_not_one():
    assert [d.key for d in differences({"a": True, "b": 0}, {"a": 1, "b": 0.0})] == ["a"]
    assert [d.key for d in differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]})] == ["a[1].b"]
