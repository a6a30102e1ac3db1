"""A run's name can never lead out of its folder."""

import re

import pytest

from tastemaker.errors import TastemakerError
from tastemaker.runs.names import check_name, default_name, is_name, run_folder

TRAVERSAL = [
    "",
    ".",
    "..",
    "../up",
    "..\\up",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "//host/share",
    "C:\\temp",
    "C:name",
    "~root",
    "%2e%2e",
    "%2e%2e%2fup",
    "..%2fup",
    "a\0b",
    "a\nb",
    "name\n",
    " name",
    "name ",
    ".hidden",
    "-rf",
    "_name",
    "naïve",
    "ｎame",
    "a\u2024b",
    "a\u2215b",
    "a\u202eb",
    "$(id)",
    "a;b",
    "a*",
    "con",
    "NUL",
    "aux.txt",
    "Com1",
    "LPT9.log",
    "x" * 65,
]


@pytest.mark.parametrize("name", TRAVERSAL)
def test_names_that_lead_astray_are_refused(name, tmp_path):
    assert not is_name(name)
    with pytest.raises(TastemakerError, match="name"):
        run_folder(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "0", "dpo-1a2b", "Qwen3-0.6B_sft.v2", "a..b", "x" * 64, "console"])
def test_proper_names_are_taken_as_they_are(name, tmp_path):
    assert check_name(name) == name
    assert run_folder(tmp_path, name) == tmp_path.resolve() / name


def test_a_link_in_the_root_is_refused(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "run").symlink_to(tmp_path)
    with pytest.raises(TastemakerError, match="symbolic link"):
        run_folder(tmp_path / "root", "run")


def test_default_names_tell_the_method_and_differ():
    names = {default_name("dpo") for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"dpo-[0-9a-f]{8}", n) for n in names)
