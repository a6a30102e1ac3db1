"""A trainer that writes down what it was asked for, so that the command line is tested on its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tastemaker.cli import main
from tastemaker.config import dump
from tastemaker.runs import Run, sha256_folder, sha256_json
from tastemaker.training import train


@dataclass
class Trainer:
    """Stands in for `train`: takes what the real one takes and leaves a finished run."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    fails_at: str = ""

    def __post_init__(self) -> None:
        self.signature = inspect.signature(train)

    def __call__(self, *args: Any, **kwargs: Any) -> Run:
        given = self.signature.bind(*args, **kwargs).arguments
        self.calls.append(given)
        method, out = given["method"], Path(given["out"])
        if method.name == self.fails_at:
            raise KeyboardInterrupt
        if given.get("progress"):
            given["progress"](1, 1, {"loss": 0.5})
        inputs = {**dump(method), **dump(given["settings"])}
        run = Run.open(out) if Run.is_run(out) else Run.create(out, method=method.name, settings=inputs, seed=1)
        run.model_dir.mkdir(exist_ok=True)
        contents = [content(given.get(key)) for key in ("model", "data", "reward")]
        run.update(status="finished", hashes={"weights": sha256_json([inputs, contents])})
        return Run.open(out)


def content(value: object) -> str:
    """What decides the result: a run's weights, a folder's files, a name."""
    if isinstance(value, Run):
        return str(value.weights_hash)
    path = Path(str(value))
    return path.read_text() if path.is_file() else sha256_folder(path) if path.is_dir() else str(value)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    stand_in = Trainer()
    monkeypatch.setattr("tastemaker.training.train", stand_in)
    return stand_in


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*argv: str) -> Result:
        code = main(list(argv))
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call
