"""C2, C4: one process and two with the same batch take the same steps, for every method."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tastemaker.methods import METHODS
from tastemaker.models import tiny_model
from tastemaker.runs import Run
from tastemaker.training import precompute, train

SCRIPT = Path(__file__).with_name("two_processes.py")
PAIRS = [
    {"prompt": f"what is {a} ?", "chosen": f"it is {a} " * n + ".", "rejected": f"no {a} idea ."}
    for n, a in enumerate(("a cat", "a dog", "the sky", "rain", "bread", "wood", "a hat"), start=1)
]

STEPS = [
    {"prompt": p["prompt"], "completions": [p["chosen"], p["rejected"]], "labels": [True, False]} for p in PAIRS
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with the runs of one process and of two. Seven rows, so that the last batch is incomplete
    and one process's share of it may be empty.
    """
    root = tmp_path_factory.mktemp("processes")
    (root / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PAIRS))
    (root / "steps.jsonl").write_text("".join(json.dumps(p) + "\n" for p in STEPS))
    texts = [f"{p['prompt']} {p['chosen']} {p['rejected']}" for p in PAIRS]
    model, tokenizer = tiny_model(texts, seed=0, vocab_size=300, hidden=16, heads=2)
    model.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    data = str(root / "pairs.jsonl")
    train(
        METHODS["reward"](),
        model=str(root / "base"),
        data=data,
        out=root / "rm",
        max_steps=2,
        learning_rate=1e-3,
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = [sys.executable, str(SCRIPT), str(root), str(root / "one"), "6"]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together += [str(SCRIPT), str(root), str(root / "two"), "3"]
    for command in (alone, together):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return root / "one", root / "two"


@pytest.mark.parametrize("name", list(METHODS))
def test_C2_two_processes_take_the_steps_of_one(name: str, outputs: tuple[Path, Path]):
    one, two = (Run.open(folder / name) for folder in outputs)
    a = load_file(one.model_dir / "model.safetensors")
    b = load_file(two.model_dir / "model.safetensors")
    start = load_file(outputs[0].parent / "base" / "model.safetensors")
    moved = max(float((a[n] - start[n]).abs().max()) for n in a if n in start)
    apart = max(float((a[n] - b[n]).abs().max()) for n in a)
    assert moved > 1e-3
    assert apart < 0.02 * moved, f"two processes end {apart:.2g} apart from one, having moved {moved:.2g}"


@pytest.mark.parametrize("name", list(METHODS))
def test_C4_metrics_are_those_of_the_whole_batch(name: str, outputs: tuple[Path, Path]):
    one, two = (Run.open(folder / name).metrics() for folder in outputs)
    assert [m["step"] for m in one] == [m["step"] for m in two] == [1, 2, 3, 4, 5]
    for ours, theirs in zip(one, two, strict=True):
        assert ours["num_tokens"] == theirs["num_tokens"]
        for key in ours.keys() - {"step_time", "episode"}:
            assert torch.isclose(
                torch.tensor(float(ours[key])),  # pyright: ignore[reportArgumentType]
                torch.tensor(float(theirs[key])),  # pyright: ignore[reportArgumentType]
                rtol=2e-2,
                atol=2e-3,
            ), (key, ours[key], theirs[key])


def test_B9_processes_that_share_the_reference_s_rows_find_the_same(outputs: tuple[Path, Path]):
    one, two = (load_file(folder / "precomputed" / precompute.FILE)["logps"] for folder in outputs)
    assert len(one) > 50
    torch.testing.assert_close(one, two)
    losses = [Run.open(folder / "precomputed").metrics()[0]["loss"] for folder in outputs]
    assert losses == pytest.approx([math.log(2)] * 2, abs=1e-6)
