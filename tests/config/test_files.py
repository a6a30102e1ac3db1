"""YAML files: errors with lines, nothing settled in silence."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tastemaker.config import TrainSettings, load_config, settings_from
from tastemaker.errors import TastemakerError


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_and_their_lines(tmp_path: Path):
    config = load_config(written(tmp_path, "# comment\nbeta: 0.1\n\nmax_steps: 5\n"))
    assert config.values == {"beta": 0.1, "max_steps": 5}
    assert config.where == {"beta": "line 2", "max_steps": "line 4"}


@pytest.mark.parametrize(
    "text, says",
    [
        ("beta: 1\nseed: 2\nbeta: 3\n", "line 3: beta is already given in line 1"),
        ("max_steps: 1\nmax-steps: 2\n", "line 2: max-steps is already given in line 1"),
        ("stages:\n- method: dpo\n  beta: 1\n  beta: 2\n", "line 4: beta is already given in line 3"),
        ("beta: [1\nseed: 2\n", "line 2: not valid YAML"),
        ("- a\n- b\n", "found list"),
        ("just text", "found str"),
        ("x: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str, says: str):
    path = written(tmp_path, text)
    with pytest.raises(TastemakerError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_absent_and_binary_files(tmp_path: Path):
    with pytest.raises(TastemakerError, match="No such file"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TastemakerError, match="not UTF-8"):
        load_config(tmp_path / "binary")


def test_an_empty_file_says_nothing(tmp_path: Path):
    assert load_config(written(tmp_path, "# nothing yet\n")).values == {}


def test_trls_env_block_is_left_out_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        config = load_config(written(tmp_path, "env:\n  CUDA_VISIBLE_DEVICES: 0\nseed: 1\n"))
    assert config.values == {"seed": 1}
    assert "env is left out" in caplog.text


def test_anchors_and_merges_work(tmp_path: Path):
    text = "base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  b: 3\n"
    assert load_config(written(tmp_path, text)).values["other"] == {"a": 1, "b": 3}


def test_a_number_that_yaml_takes_for_text(tmp_path: Path):
    """YAML 1.1 reads 1e-6, without a point, as text."""
    config = load_config(written(tmp_path, "learning_rate: 1e-6\n"))
    assert settings_from(TrainSettings, config.values).learning_rate == 1e-6
